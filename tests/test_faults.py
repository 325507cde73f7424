"""Planted faults do what they say, cost what they should, and touch only the model they are put into."""

import json

import pytest
import torch

import interp
from data.recipes.saving import MODELS
from interp.faults import FAULTS
from interp.faults.damped_visual_heads import DAMPING, image_change
from interp.scoring import score
from interp.tasks import TASKS

EDITS = [name for name, fault in FAULTS.items() if fault.edit is not None]
VISUAL = [name for name in EDITS if FAULTS[name].model == "demo-vlm"]
LEAST = 0.08  # of accuracy that a fault must cost to be worth mending


@pytest.fixture(scope="module")
def plain():
    return {name: interp.load(name) for name in ("demo-lm", "demo-vlm")}


@pytest.fixture(scope="module")
def broken():
    return {name: interp.load(FAULTS[name].model, fault=name) for name in EDITS}


@pytest.mark.parametrize("name", EDITS)
def test_a_fault_costs_accuracy(plain, broken, name):
    fault = FAULTS[name]
    task, settings = fault.judged
    asked = TASKS[task](120, "test", **settings)
    before, after = (
        float(score(model, asked)["right"].mean()) for model in (plain[fault.model], broken[name])
    )
    assert before - after >= LEAST, (before, after)
    card = json.loads((MODELS / fault.model / "report.json").read_text())["shipped"]
    assert abs(card[f"fault {name}: accuracy"] - after) < 0.15
    assert abs(card[f"fault {name}: without it"] - before) < 0.15


@pytest.mark.parametrize("name", EDITS)
def test_a_fault_is_the_same_each_time_and_stays_in_its_model(plain, broken, name):
    fault = FAULTS[name]
    again = interp.load(fault.model, fault=name).hf.state_dict()
    for key, weight in broken[name].hf.state_dict().items():
        assert torch.equal(weight, again[key]), key
    fresh = interp.load(fault.model).hf.state_dict()
    for key, weight in plain[fault.model].hf.state_dict().items():
        assert torch.equal(weight, fresh[key]), key


def attention(model):
    """[layer, head] from the last token: to the image, to the first token, to the first patch."""
    prompt = TASKS["existence"](40, "test").encode(model)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern", stack="text")
    image, first, last = (prompt.where(name) for name in ("image", "first", "last"))
    patch = image & (image.int().cumsum(1) == 1)
    rows = torch.stack(
        [trace["pattern", layer].transpose(1, 2)[last] for layer in trace.layers("pattern")]
    )
    return tuple((rows * part[None, :, None]).sum(-1).mean(1) for part in (image, first, patch))


def test_attention_is_parked(plain, broken):
    _, first, patch = attention(plain["demo-vlm"])
    assert (first + patch)[1:].mean() < 0.25
    _, first, patch = attention(broken["parked-on-sinks"])
    assert (first + patch)[1:].mean() > 0.5
    assert patch[1:].mean() > 0.1  # a visual sink too, in one dimension that stands out
    prompt = TASKS["existence"](8, "test").encode(broken["parked-on-sinks"])
    with torch.no_grad():
        stream = broken["parked-on-sinks"].trace(prompt, "resid_pre", stack="text")["resid_pre", 2]
    sizes = (stream / stream.pow(2).mean(-1, keepdim=True).sqrt()).abs().amax((0, 1))
    assert sizes.max() > 11 and (sizes > 11).sum() == 1


def test_the_image_is_suppressed(plain, broken):
    usual, _, _ = attention(plain["demo-vlm"])
    fainter, _, _ = attention(broken["image-suppressed"])
    assert fainter[1:].mean() < 0.7 * usual[1:].mean()
    outshouted, _, _ = attention(broken["image-outshouted"])
    assert outshouted[1:].mean() < 0.7 * usual[1:].mean()
    late, _, _ = attention(broken["late-layers-blind"])
    assert late[2:].mean() < 0.3 * usual[2:].mean()
    assert late[1].mean() > 0.7 * usual[1].mean()


def test_the_visual_heads_are_damped(plain, broken):
    change = image_change(plain["demo-vlm"])
    stack = plain["demo-vlm"].stacks["text"]
    for layer in range(1, stack.size):
        aware = change[layer] > change[layer].median()
        assert 0 < int(aware.sum()) <= stack.heads // 2
        old, new = (
            model.stacks["text"]
            .layers[layer]
            .attention.o_proj.weight.unflatten(1, (stack.heads, -1))
            for model in (plain["demo-vlm"], broken["damped-visual-heads"])
        )
        assert torch.allclose(new[:, aware], DAMPING * old[:, aware])
        assert torch.equal(new[:, ~aware], old[:, ~aware])


def test_distractors_are_heard(plain, broken):
    """Less of the last token's attention on the key sentence, more on the others."""
    task = TASKS["open_book"](40, "test", kind="where", sentences=8)
    shares = []
    for model in (plain["demo-lm"], broken["shouted-down"]):
        prompt = task.encode(model)
        with torch.no_grad():
            trace = model.trace(prompt, "pattern")
        key, last = prompt.where("key"), prompt.where("last")
        rows = torch.stack([trace["pattern", layer].transpose(1, 2)[last] for layer in (2, 3)])
        shares.append(float((rows * key[None, :, None]).sum(-1).mean()))
    assert shares[1] < shares[0]


def test_a_fault_of_the_inputs_says_what_to_ask_instead(plain):
    with pytest.raises(ValueError, match=r"interp.Task.load\('colour', small=True\)"):
        interp.load("demo-vlm", fault="cluttered-scenes")
    task, settings = FAULTS["cluttered-scenes"].judged
    hard = score(plain["demo-vlm"], TASKS[task](120, **settings))["right"].mean()
    usual = score(plain["demo-vlm"], TASKS[task](120))["right"].mean()
    assert usual - hard > 0.2


def test_every_fault_says_what_it_is_for():
    for fault in FAULTS.values():
        assert fault.repairs and fault.about.endswith(".") and fault.judged[0] in TASKS
