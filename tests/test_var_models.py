"""VAR in models: layers, steps, batches, and the fault that it is meant to mend."""

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.interventions import VAR
from interp.responses import respond
from tests.var_by_loops import STRONG, By, behind, expected, opened

GREEDY = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def llava():
    return opened(batch=2)


@pytest.fixture(scope="module")
def parked():
    return interp.load("demo-vlm", fault="parked-on-sinks")


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "gemma3"])
@pytest.mark.parametrize("settings", [STRONG, {"dims": None, "tau": 1.5, "rho": 0.2, "mass": 0.1}])
def test_one_layer_of_a_model_is_edited_so(name, settings):
    model, prompt = opened(name, batch=2)
    model.hf.double()
    prompt.inputs["pixel_values"] = prompt.inputs["pixel_values"].double()
    with torch.no_grad():
        plain = model.trace(prompt, "resid_pre", "pattern", layers=[2], stack="text")
        edited = model.trace(prompt, "pattern", layers=[2], stack="text",
                             using=VAR(**settings, layers=[2]))  # fmt: skip
    asked = {"keep": 0.4, "text_sinks": False, **settings}
    reference = expected(
        plain["pattern", 2], plain["resid_pre", 2], prompt, behind(prompt), **asked
    )
    assert (edited["pattern", 2] - reference).abs().max() < 1e-9
    assert (reference - plain["pattern", 2]).abs().max() > 1e-3


def test_layers_see_what_the_ones_before_them_made():
    model, prompt = opened()
    model.hf.double()
    prompt.inputs["pixel_values"] = prompt.inputs["pixel_values"].double()
    method = VAR(**STRONG, layers=[1, 2, 3])
    with torch.no_grad():
        trace = model.trace(prompt, "resid_pre", "scores", "pattern", stack="text", using=method)
    for layer in (1, 2, 3):
        before = torch.softmax(trace["scores", layer], -1)
        reference = expected(before, trace["resid_pre", layer], prompt, behind(prompt), **STRONG)
        assert (trace["pattern", layer] - reference).abs().max() < 1e-9
    assert torch.allclose(trace["pattern", 0], torch.softmax(trace["scores", 0], -1), atol=1e-12)


def test_the_last_layer_is_left_but_officially():
    model, prompt = opened()
    own = {key: value for key, value in STRONG.items() if key != "keep"}
    for official, layers, keep in ((False, [2], 0.4), (True, [2, 3], 0.6)):
        method = VAR(**own, official=official)
        stream, hook = method.plan(model, prompt)[1]
        assert list(hook.layers) == list(stream.layers) == layers and method.kept == keep
    assert VAR(official=True, keep=0.1).kept == 0.1


def test_cached_uncached_and_one_shot_agree():
    model, prompt = opened(batch=2)
    using = VAR(**STRONG, layers=[1, 2, 3])
    ids = model.generate(prompt, using=using, **GREEDY)
    assert torch.equal(model.generate(prompt, using=using, use_cache=False, **GREEDY), ids)
    assert not torch.equal(model.generate(prompt, **GREEDY), ids)
    for way in ({"prefill_chunk_size": 7}, {"cache_implementation": "static"}):
        assert torch.equal(model.generate(prompt, using=using, **GREEDY, **way), ids)
    kept = {"output_logits": True, "return_dict_in_generate": True}
    steps = torch.stack(model.generate(prompt, using=using, **GREEDY, **kept).logits, 1)
    whole = respond(model, prompt, ids[:, prompt.length :])
    shot = model.logits(whole, using=using)[:, prompt.length - 1 : -1]
    assert (shot - steps)[..., 10:].abs().max() < 1e-4
    assert model.generate(prompt, using=using, num_beams=3, **GREEDY).shape == ids.shape


def test_a_padded_row_is_edited_as_it_is_alone():
    model, prompt = opened(batch=2)
    inputs = FAMILIES["llava"].inputs(model.hf, batch=1, length=8)
    short = interp.Prompt.from_inputs(model, inputs)
    gap = prompt.length - short.length
    ids, mask = prompt.ids.clone(), prompt.mask.long().clone()
    ids[1, :gap], ids[1, gap:], mask[1, :gap] = 0, short.ids[0], 0
    pixels = torch.stack([prompt.inputs["pixel_values"][0], inputs["pixel_values"][0]])
    both = interp.Prompt.from_inputs(
        model, {"input_ids": ids, "attention_mask": mask, "pixel_values": pixels}
    )
    for settings in (STRONG, {"tau": 1.5, "rho": 0.0, "mass": 0.0}):
        using = VAR(**settings, layers=[1, 2, 3])
        alone = model.logits(short, using=using)
        together = model.logits(both, using=using)[1, gap:]
        assert (alone[0] - together).abs().max() < 1e-4
        assert (alone - model.logits(short)).abs().max() > 1e-3


def test_inert_settings_plan_nothing(llava):
    model, prompt = llava
    assert VAR.inert().plan(model, prompt) == (prompt, [])
    for settings in (VAR.strong, {**STRONG, "layers": [0]}):
        moved = model.logits(prompt, using=VAR(**settings)) - model.logits(prompt)
        assert moved.abs().max() > 1e-3


# The planted sinks.


def test_the_planted_sinks_are_found(parked):
    prompt = interp.Task.load("existence", count=4, split="validation").encode(parked)
    memo = {}
    keep = Hook("resid_post", lambda value, at: memo.update(at.memo), layers=[3])
    hooks = [*VAR(layers=[1, 2, 3]).plan(parked, prompt)[1], keep]
    parked.logits(prompt, hooks=hooks)
    image = prompt.where("image")
    patch = image & (image.int().cumsum(1) == 1)
    for layer in (1, 2, 3):
        assert torch.equal(memo["sinks"][layer].sinks, prompt.where("first") | patch)


def test_what_the_fault_costs_comes_back(parked):
    task = interp.Task.load("existence", count=100, split="validation")
    healthy = interp.score(interp.load("demo-vlm"), task)["right"].mean()
    broken = interp.score(parked, task)["right"].mean()
    mended = interp.score(parked, task, using=VAR(rho=0.0, layers=[1, 2]))["right"].mean()
    assert mended - broken > 0.5 * (healthy - broken) > 0.05


def test_a_model_without_sinks_is_told(parked):
    model = interp.load("demo-vlm")
    task = interp.Task.load("existence", count=2, split="validation")
    with pytest.warns(UserWarning, match=r"changes nothing in this run: no token's phi reaches"):
        model.logits(task.encode(model), using=VAR())
    text_only = VAR(dims=[0], tau=0.9, layers=[2])
    prompt = task.encode(parked)
    with pytest.warns(UserWarning, match="no token of the image is a sink"):
        run = By(text_only, parked, prompt)
        stream = torch.full((2, prompt.length, 128), 1.0)
        stream[:, 1:, 0] = 0.1
        run.hooks[0].fn(stream, run.at("resid_pre", 0))
