"""One set of weights through transformers and through nnsight: the same traces, edits and answers."""

import runpy
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import interp
from interp.backends.nnsight import local, trace_of
from interp.families import FAMILIES
from interp.interventions import VAR, VCD, VHR
from interp.metrics import logit_diff
from interp.points import default_prompt, disturb
from interp.shipped import find
from interp.sites import MAP_SITES, SITES, Hook
from tests.documented import snippets

pytest.importorskip("nnsight")
ROOT = Path(__file__).parents[1]
# GPT-2, grouped heads, an image before the text; windows in several calls, a stream added to between
# layers, a learned sink, cross attention with a bias.
SHAPES = ["gpt2", "llama", "llava", "qwen2_5_vl", "qwen3_vl", "gpt_oss", "t5"]


def close(ours, theirs):
    """To 1e-5 of what the values are; hidden scores are as low as can be, which adds nothing."""
    ours, theirs = ours.clamp_min(-1e4), theirs.clamp_min(-1e4)
    scale = max(1.0, float(theirs.detach().abs().max()))
    return (
        ours.shape == theirs.shape and float((ours - theirs).detach().abs().max()) <= 1e-5 * scale
    )


def real(value, site, mask):
    """The value at the tokens: what padding passes on differs between SDPA and eager attention."""
    if site == "pattern":
        return value  # padding rows are 0 in both
    if site in MAP_SITES:
        return value.masked_fill(~mask[:, None, :, None], 0)
    return value[mask]


def pair_of(hf):
    return interp.wrap(hf), interp.wrap(hf, backend="nnsight")


@pytest.fixture(scope="module", params=SHAPES)
def pair(request):
    """The same tiny weights behind both, and inputs."""
    family = FAMILIES[request.param]
    plain, ours = pair_of(family.model())
    return plain, ours, plain._prompt(family.inputs(plain.hf))


@pytest.fixture(scope="module")
def llama():
    """Grouped heads, and two rows of which one is padded on the left."""
    plain, ours = pair_of(FAMILIES["llama"].model())
    ids = torch.arange(14).view(2, 7) + 20
    mask = torch.tensor([[1] * 7, [0, 0] + [1] * 5])
    return plain, ours, plain._prompt({"input_ids": ids, "attention_mask": mask})


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm"), interp.load("demo-lm", backend="nnsight")


@pytest.fixture(scope="module")
def demo_vlm():
    plain = interp.load("demo-vlm")
    return plain, interp.load("demo-vlm", backend="nnsight"), default_prompt(plain)


@torch.no_grad()
def test_every_site_of_every_layer_agrees(pair):
    plain, ours, prompt = pair
    assert ours.hf is not plain.hf and ours.hf.config._attn_implementation == "eager"
    assert close(ours.logits(prompt), plain.logits(prompt))
    for stack in plain.stacks:
        expected, found = plain.trace(prompt, stack=stack), ours.trace(prompt, stack=stack)
        assert set(found) == set(expected) and len(expected) > len(SITES)
        assert all(close(found[key], expected[key]) for key in expected)
        assert close(found.logits, expected.logits)


@torch.no_grad()
def test_edits_move_the_logits_equally(pair):
    plain, ours, prompt = pair
    base = plain.logits(prompt)
    moved = 0
    for name, stack in plain.stacks.items():
        for site in SITES:
            layer = stack.size // 2
            hook = Hook(site, disturb, layers=layer, stack=name)
            try:
                expected = plain.logits(prompt, hooks=hook)
            except LookupError:  # cross attention has no stream, a later layer no cross attention
                with pytest.raises(LookupError):
                    ours.logits(prompt, hooks=hook)
                continue
            assert close(ours.logits(prompt, hooks=hook), expected), (name, site)
            moved += int((expected - base).abs().max() > 1e-3)
    assert moved >= len(SITES)


@torch.no_grad()
def test_shipped_models_agree(demo, demo_vlm):
    plain, ours = demo
    prompt = plain.encode(["the cat sat on", "a"])
    assert torch.equal(ours.encode(["the cat sat on", "a"]).ids, prompt.ids)
    expected, found = plain.trace(prompt), ours.trace(prompt)
    for site, layer in expected:
        both = (real(one[site, layer], site, prompt.mask) for one in (found, expected))
        assert close(*both), (site, layer)
    plain, ours, prompt = demo_vlm
    for stack in plain.stacks:
        expected, found = plain.trace(prompt, stack=stack), ours.trace(prompt, stack=stack)
        assert set(found) == set(expected) and all(
            close(found[key], expected[key]) for key in found
        )


@torch.no_grad()
def test_padding(llama):
    plain, ours, prompt = llama
    expected, found = plain.trace(prompt), ours.trace(prompt)
    for site, layer in expected:
        assert close(*(real(one[site, layer], site, prompt.mask) for one in (found, expected))), (
            site
        )
    assert bool((found["pattern", 1][1, :, :2] == 0).all())
    for site in ("scores", "pattern"):  # sharper, by what the mask leaves
        hook = Hook(
            site, lambda value, at: value * 2 if at.site == "scores" else value**2, layers=1
        )
        both = [model.logits(prompt, hooks=hook)[prompt.mask] for model in (ours, plain)]
        assert close(*both), site
    opened = Hook("scores", lambda value, at: value * 0, layers=1)  # uncovers nothing
    pattern = ours.trace(prompt, "pattern", layers=1, hooks=opened)["pattern", 1]
    assert bool((pattern.triu(1) == 0).all()) and close(pattern.sum(-1)[0], torch.ones(4, 7))


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["entropy", "received", "waad", "sinkness", "value_drain", "massive"]
)
def test_metrics_agree(llama, name):
    plain, ours, prompt = llama
    expected, found = plain.trace(prompt, keep=name), ours.trace(prompt, keep=name)
    assert set(found) == set(expected) and len(found) > 0
    assert all(close(found[key].nan_to_num(), expected[key].nan_to_num()) for key in expected)


@torch.no_grad()
def test_heads_and_rows(llama):
    plain, ours, prompt = llama
    hooks = [
        Hook("z", lambda z, at: z * 0, layers=[1, 2], heads=[0, 3]),
        Hook("v", lambda v, at: -v, layers=0, heads=1),
        Hook("pattern", lambda value, at: value**2, layers=3, heads=[2], within=(4, None)),
    ]
    both = [model.logits(prompt, hooks=hooks)[prompt.mask] for model in (ours, plain)]
    assert close(*both) and not close(both[0], plain.logits(prompt)[prompt.mask])


def test_gradients_reach_what_is_kept(llama):
    plain, ours, prompt = llama
    gradients = []
    for model in (ours, plain):
        trace = model.trace(prompt, "z", layers=1)
        (own,) = torch.autograd.grad(trace.logits[:, -1].logsumexp(-1).sum(), trace["z", 1])
        gradients.append(own[prompt.mask])
    assert float(gradients[1].abs().max()) > 1e-4
    assert torch.allclose(*gradients, atol=1e-7, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("more", [{}, {"num_beams": 2}])
def test_generate_runs_hooks_at_every_step(llama, more):
    plain, ours, prompt = llama
    steps = []

    def dim(value, at):
        steps.append((at.first, value.shape[1]))
        return value * 0.2

    hook = Hook("v", dim, layers=1)
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, **more}
    expected = plain.generate(prompt, hooks=hook, **settings)
    before = list(steps)
    steps.clear()
    assert torch.equal(ours.generate(prompt, hooks=hook, **settings), expected)
    assert steps == before and len(steps) == 5
    assert not torch.equal(expected, plain.generate(prompt, **settings))
    with ours.using(hook):
        assert torch.equal(ours.hf.generate(**prompt.inputs, **settings), expected)


@torch.no_grad()
def test_plain_code_under_using(llama):
    plain, ours, prompt = llama
    hook = Hook("mlp_out", lambda value, at: value * 0, layers=1)
    with ours.using(hook):
        found = ours.hf(**prompt.inputs).logits
    with plain.using(hook):
        expected = plain.hf(**prompt.inputs).logits
    assert close(found[prompt.mask], expected[prompt.mask])


@torch.no_grad()
def test_interventions(demo_vlm, monkeypatch):
    plain, ours, prompt = demo_vlm
    for method in (VAR(**VAR.strong), VCD()):
        expected = plain.logits(prompt, using=method)
        assert close(ours.logits(prompt, using=method), expected)
        assert not close(expected, plain.logits(prompt))
    monkeypatch.setattr(local, "PATIENCE", 0.3)
    with pytest.raises(RuntimeError, match="one run at a time"):  # a second run in step
        ours.logits(prompt, using=VHR())
    assert close(ours.logits(prompt), plain.logits(prompt))


@torch.no_grad()
def test_a_sweep_runs_whole_forwards(llama):
    plain, ours, prompt = llama
    metric = logit_diff(5, 6)
    grids = [
        model.sweep(prompt, "z", "zero", over=("layer", "head"), metric=metric)
        for model in (ours, plain)
    ]
    assert grids[0].path == "whole" and close(*map(torch.Tensor.clone, map(torch.as_tensor, grids)))


@torch.no_grad()
def test_points(demo, demo_vlm):
    _, ours, prompt = demo_vlm
    table = ours.points(prompt)
    assert bool(table.read.all()) and bool(table.change.all())
    twin = interp.wrap(demo[0].hf, backend="nnsight")
    twin.hf.set_attn_implementation("sdpa")
    table = twin.points()
    maps = table[table.site.isin(MAP_SITES)]
    assert not maps.read.any() and bool(maps.note.str.contains('attn_implementation="eager"').all())
    assert bool(table[~table.site.isin(MAP_SITES)].change.all())


def test_what_cannot_be_is_refused(demo, demo_vlm):
    import nnsight

    _, ours, prompt = demo_vlm
    text = ours.encode("what is there?")

    def fails(value, at):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        ours.logits(prompt, hooks=Hook("pattern", fails))
    with pytest.raises(ValueError, match="the shape must stay"):
        ours.logits(prompt, hooks=Hook("z", lambda z, at: z[:1, :1]))
    with pytest.raises(RuntimeError, match="again in the midst of its own run"):
        ours.logits(prompt, hooks=Hook("z", lambda z, at: ours.logits(text)))
    with pytest.raises(LookupError, match="never ran"):
        ours.logits(text, hooks=Hook("z", lambda z, at: None, stack="vision"))
    with pytest.raises(ValueError, match="wrap the whole"):
        interp.wrap(ours.nn.model)
    with pytest.raises(TypeError, match="transformers models"):
        interp.wrap(nnsight.NNsight(torch.nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="no backend"):
        interp.load("demo-lm", backend="nsight")
    twice = interp.wrap(nnsight.NNsight(demo[0].hf))  # a model that is on the seam already
    with pytest.raises(RuntimeError, match="hooks would run twice"):
        twice.logits(prompt)


@torch.no_grad()
def test_threads_take_turns(llama):
    plain, ours, prompt = llama
    found, expected = {}, {}

    def work(number):
        hook = Hook("z", lambda z, at: z * (number / 5), layers=1)
        with torch.no_grad():
            found[number] = ours.logits(prompt, hooks=hook)[prompt.mask]
            expected[number] = plain.logits(prompt, hooks=hook)[prompt.mask]

    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(found) == len(expected) == 6
    assert all(close(found[number], expected[number]) for number in found)
    assert not close(found[0], found[5])


@torch.no_grad()
def test_a_live_nnsight_model_with_its_edits(demo):
    import nnsight

    plain, _ = demo
    theirs = nnsight.TransformersModel(
        str(find("demo-lm")), task="text-generation", dispatch=True, attn_implementation="eager"
    )
    ours = interp.wrap(theirs)
    assert interp.wrap(theirs) is ours and ours.unwrap() is theirs and ours.name == "demo-lm"
    prompt = ours.encode("the cat sat on")
    half = Hook("mlp_out", lambda value, at: value * 0.5, layers=1)
    hook = Hook("z", lambda z, at: z * 0.3, layers=2)
    with theirs.edit(inplace=True):
        theirs.model.layers[1].mlp.output = theirs.model.layers[1].mlp.output * 0.5
    found = ours.trace(prompt, hooks=hook)
    expected = plain.trace(prompt, hooks=[half, hook])
    assert close(found.logits, expected.logits)
    assert close(found["mlp_out", 1], expected["mlp_out", 1])


@torch.no_grad()
def test_an_nnsight_trace_becomes_a_trace(demo):
    import nnsight

    plain, ours = demo
    prompt, nn = ours.encode(["the cat sat on", "a"]), ours.nn
    with nn.trace(**ours.arguments(prompt)) as tracer:
        cache = tracer.cache(include_inputs=True)
    with nn.trace(**ours.arguments(prompt)):
        layer = nn.model.layers[1]
        path, held = "model.layers.1", nnsight.save({})
        held[f"{path}.input"] = layer.input
        call = layer.self_attn.source.attention_interface_1
        inner = f"{path}.self_attn.source.attention_interface_1"
        held[f"{inner}.inputs"] = call.inputs
        softmax = call.source.nn_functional_softmax_0
        held[f"{inner}.source.nn_functional_softmax_0.input"] = softmax.input
        held[f"{inner}.source.nn_functional_softmax_0.output"] = softmax.output
        held[f"{inner}.output"] = call.output
        held[f"{path}.self_attn.o_proj.output"] = layer.self_attn.o_proj.output
        held[f"{path}.mlp.output"] = layer.mlp.output
        held[f"{path}.output"] = layer.output
        held["output"] = nn.output
    expected = ours.trace(prompt)
    found = trace_of(ours, prompt, held)
    assert {site for site, _ in found} == set(SITES) and torch.equal(found.logits, expected.logits)
    cached = trace_of(ours, prompt, cache)
    assert len(cached) == 5 * ours.stacks["text"].size
    for trace in (found, cached):
        assert all(close(trace[key], expected[key]) for key in trace)
    with pytest.raises(LookupError, match="stands for no site"):
        trace_of(ours, prompt, {"model.layers.1.self_attn.q_proj.output": prompt.mask})
    with pytest.raises(TypeError, match='backend="nnsight"'):
        trace_of(plain, prompt, held)


def test_the_page_runs(tmp_path):
    """From a file: nnsight reads the source of its `with` blocks."""
    page = tmp_path / "page.py"
    page.write_text("".join(snippets((ROOT / "docs" / "backends_nnsight.md").read_text("utf-8"))))
    names = runpy.run_path(str(page))
    model, mine, everything = (names[name] for name in ("model", "mine", "everything"))
    z = model.trace(names["prompt"], "z")
    assert close(mine["z", 1], z["z", 1]) and everything["pattern", 3].shape[1] == 8
    assert not close(names["logits"], z.logits) and ("entropy", 3) in names["trace"]


def test_nnsight_is_imported_late_and_mounts_nothing(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("API:\n  HOST: http://mine.example\n")
    told = (
        "import os, sys, interp\n"
        "assert 'nnsight' not in sys.modules\n"
        "interp.load('demo-lm', backend='nnsight')\n"
        "from nnsight.schema.config import CONFIG\n"
        "assert not hasattr(3, 'save') and CONFIG.API.HOST == 'http://mine.example'\n"
        f"assert os.environ['NNSIGHT_CONFIG'] == {str(config)!r}\n"
    )
    environment = {"PATH": "/usr/bin:/bin", "NNSIGHT_CONFIG": str(config), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", told], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
