"""Layers on several devices or on a disk: what is seen and changed is the plain model's."""

import pytest
import torch
from accelerate.hooks import AlignDevicesHook, add_hook_to_module, remove_hook_from_module

import interp
from interp import Hook
from interp.interventions import INTERVENTIONS
from interp.making import weights_digest
from interp.metrics import logit_diff
from interp.weights import head_weights
from tests.documented import snippets
from tests.parallel_work import GREEDY, LARGE, TEXTS, hooks, off
from tests.two_devices import OTHER, NoNumbers, split

PARTS = {"model.rotary_emb": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
HALF = {f"model.layers.{at}": "disk" if at in (1, 2) else "cpu" for at in range(4)}
MAPS = {
    "auto": "auto",
    "name": "cpu",
    "all": {"": "cpu"},
    "disk": {"model.embed_tokens": "cpu", **HALF, **PARTS},
}


@pytest.fixture(scope="module")
def plain():
    return interp.load("demo-lm")


@pytest.fixture(scope="module", params=MAPS)
def placed(request, tmp_path_factory):
    folder = {"offload_folder": tmp_path_factory.mktemp("disk")} if request.param == "disk" else {}
    model = interp.load("demo-lm", device_map=MAPS[request.param], **folder)
    away = {path for path, weight in model.hf.named_parameters() if weight.is_meta}
    assert bool(away) == (request.param == "disk")
    return model


def same(model, plain, measure):
    ours, theirs = measure(model), measure(plain)
    assert ours.keys() == theirs.keys()
    assert max(off(ours[key], theirs[key]) for key in theirs) <= 1e-5


def test_traces_and_metrics_are_the_plain_models(placed, plain):
    def measure(model):
        prompt = model.encode(TEXTS)
        seen = model.trace(prompt)
        kept = model.trace(prompt, keep=["entropy", "received", "written", "value_drain"])
        both = {**{key: seen[key] for key in seen}, **{key: kept[key].nan_to_num() for key in kept}}
        return {**both, "logits": seen.logits, "stacked": seen["pattern"]}

    with torch.no_grad():
        same(placed, plain, measure)


def test_edits_are_the_plain_models(placed, plain):
    prompt = plain.encode(TEXTS)

    def measure(model):
        found = {}
        with torch.no_grad():
            for name, hook in hooks().items():
                found[name] = model.logits(prompt, hooks=hook)
            found["text"] = model.generate(prompt, hooks=list(hooks().values()), **GREEDY)
            with model.using(*hooks().values()):
                found["using"] = model.hf(**prompt.inputs).logits
            found["left"] = model.hf(**prompt.inputs).logits
        return found

    same(placed, plain, measure)


def test_gradients_sweeps_and_weights_are_the_plain_models(placed, plain):
    prompt = plain.encode(TEXTS)

    def measure(model):
        seen = model.trace(prompt, "z")
        grads = torch.autograd.grad(seen.logits[:, -1, 5].sum(), [seen["z", at] for at in range(4)])
        grid = model.sweep(prompt, "z", over=("layer", "head"), metric=logit_diff(5, 7))
        assert grid.path == "positions"
        weights = head_weights(model)
        return {
            "gradients": torch.stack(grads),
            "sweep": torch.Tensor(grid),
            **{name: getattr(weights, name) for name in ("q", "o", "embed", "unembed")},
        }

    same(placed, plain, measure)
    assert weights_digest(placed.hf) == weights_digest(plain.hf)


def counted(model, prompt):
    """How often a hook at mlp_out of layer 1 runs, and the logits under it."""
    runs = []

    def half(value, at):
        runs.append(at.layer)
        return value * 0.5

    return model.logits(prompt, hooks=Hook("mlp_out", half, layers=[1])).detach(), len(runs)


@pytest.mark.parametrize("during", [False, True])
def test_hooks_of_accelerate_and_ours_come_and_go_in_any_order(plain, during):
    prompt = plain.encode(TEXTS[0])
    expected, once = counted(plain, prompt)
    model = interp.load("demo-lm")
    mlp = model.hf.model.layers[1].mlp
    if during:  # accelerate stands before ours, which then leaves first
        with model.using(Hook("mlp_out", lambda value, at: value * 0.5, layers=[1])):
            add_hook_to_module(mlp, AlignDevicesHook(execution_device="cpu"))
            assert torch.equal(model.hf(**prompt.inputs).logits, expected)
    else:
        add_hook_to_module(mlp, AlignDevicesHook(execution_device="cpu"))
    for _ in range(2):
        logits, runs = counted(model, prompt)
        assert torch.equal(logits, expected) and runs == once == 1
    remove_hook_from_module(mlp)
    logits, runs = counted(model, prompt)
    assert torch.equal(logits, expected) and runs == 1
    assert torch.equal(model.logits(prompt), plain.logits(prompt))


@pytest.mark.parametrize("told", [{"device_map": "cpu"}, {"distributed_config": {"tp_size": 1}}])
def test_one_of_device_and_device_map(told):
    with pytest.raises(ValueError, match="both say where the weights go"):
        interp.load("demo-lm", device="cpu", **told)


def test_offloaded_embedding_is_refused(tmp_path):
    away = {"model.embed_tokens": "disk", "model.layers": "cpu", **PARTS}
    with pytest.raises(ValueError, match=r"offloaded model\.embed_tokens\.weight.*keep"):
        interp.load("demo-lm", device_map=away, offload_folder=tmp_path)


def test_a_fault_needs_its_weights(tmp_path):
    with pytest.raises(ValueError, match="needs all weights in this process"):
        interp.load(
            "demo-lm", device_map=MAPS["disk"], offload_folder=tmp_path, fault="shouted-down"
        )


def test_the_page_is_true():
    names = {}
    exec(snippets(LARGE.read_text(encoding="utf-8"))[0], names)
    assert len(names["model"].trace("The cat", "z")) == 4


# Two devices, of which one holds no numbers: values are not compared, but nothing may mix the two.


@pytest.fixture(scope="module")
def two():
    return split("demo-lm")


def test_every_site_of_a_layer_lies_where_the_layer_runs(two):
    prompt = two.encode(TEXTS)
    with NoNumbers(), torch.no_grad():
        seen = two.trace(prompt, keep=["entropy", "sink", "fai", "span", "residual_peak"])
        seen = {**seen, **two.trace(prompt)}
    where = {}
    for (_, layer), value in seen.items():
        where.setdefault(layer, set()).add(value.device.type)
    assert where == {0: {"cpu"}, 1: {"cpu"}, 2: {OTHER}, 3: {OTHER}}


def test_layers_of_two_devices_are_stacked_on_the_first(two):
    with NoNumbers(), torch.no_grad():
        assert two.trace(TEXTS[0], "z")["z"].device.type == "cpu"


def test_hooks_and_sweeps_on_two_devices(two):
    prompt = two.encode(TEXTS)
    metric = logit_diff(torch.tensor([5, 5]), torch.tensor([7, 7]))
    with NoNumbers(), torch.no_grad():
        for hook in hooks().values():
            assert two.logits(prompt, hooks=hook).device.type == "cpu"
        for site in ("resid_pre", "k", "pattern", "z", "mlp_out"):
            assert two.sweep(prompt, site, over="layer", metric=metric).path != "whole"


def test_interventions_on_two_devices():
    two = split("demo-vlm")
    record = interp.Task.load("existence", count=1)[0]
    prompt = two.encode(record.prompt, images=record.image)
    with NoNumbers(), torch.no_grad():
        for name in INTERVENTIONS:
            less = {"tokens": 2} if name == "CARVE" else {}  # it writes before it looks
            method = INTERVENTIONS[name](**{**INTERVENTIONS[name].strong, **less})
            assert two.logits(prompt, using=method).device.type == "cpu", name
            assert two.generate(prompt, using=method, **GREEDY).device.type == "cpu", name
