"""Corners where a sweep could be wrong in silence, each against a plain forward with hooks."""

import copy

import pytest
import torch
from torch import Tensor

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.metrics import divergence, logit, logit_diff, probability
from interp.replay import Change, Replay

CLOSE = 1e-5
IDS = torch.arange(5, 45).view(2, 20)
METRIC = logit_diff(7, 9)


def plain(grid):
    return grid.as_subclass(Tensor)


@pytest.fixture
def model():
    return interp.load("demo-lm")


def tiny(name):
    return interp.wrap(FAMILIES[name].model())


def drawn(*shape, seed=0):
    return torch.randint(5, 40, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("site, over", [("z", "head"), ("mlp_out", "position")])
def test_a_function_over_all_layers_sees_what_earlier_ones_made(model, site, over):
    grid = model.sweep(IDS, site, lambda value, at: value * 0.5, over, METRIC)
    assert grid.path == "whole" and "several layers" in grid.why

    def half(value, at):
        if site == "z":
            return value * 0.5
        value = value.clone()
        value[:, 3] *= 0.5
        return value

    with torch.no_grad():
        expected = METRIC(
            model.logits(IDS, hooks=[Hook(site, half, heads=[3] if site == "z" else None)])
        )
    assert (plain(grid)[:, 3] - expected).abs().max() < CLOSE


@pytest.mark.parametrize("name", ["t5", "bart"])
@torch.no_grad()
def test_a_decoder_as_long_as_its_encoder_has_positions_of_its_own(name):
    model = tiny(name)
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[1, 3:] = 0
    inputs = {
        "input_ids": drawn(2, 6),
        "attention_mask": mask,
        "decoder_input_ids": drawn(2, 6, seed=1),
    }
    prompt = interp.Prompt.from_inputs(model, inputs)
    grid = model.sweep(prompt, "resid_pre", "zero", metric=logit(7), stack="decoder", layers=[1])
    assert (grid.plain - model.logits(prompt)[:, -1, 7]).abs().max() < CLOSE
    for place in (4, 5):

        def put(value, at):
            value = value.clone()
            value[:, place] = 0
            return value

        hook = Hook("resid_pre", put, layers=[1], stack="decoder")
        expected = model.logits(prompt, hooks=[hook])[:, -1, 7]
        assert (plain(grid)[:, 0, place] - expected).abs().max() < CLOSE
    with pytest.raises(ValueError, match="give positions= as numbers"):
        model.sweep(
            prompt, "resid_pre", "zero", "layer", logit(7), stack="decoder", positions="last"
        )


def test_a_folder_knows_what_a_metric_function_holds(model, tmp_path):
    with torch.no_grad():
        base = model.logits(IDS)

    def made(token):
        return lambda logits: logits[:, -1, token] - base[:, -1, token]

    asked = {"take": "zero", "over": ("layer", "head"), "save": tmp_path / "one"}
    first = model.sweep(IDS, "z", metric=made(7), **asked)
    again = model.sweep(IDS, "z", metric=made(7), **asked)
    assert torch.equal(plain(first), plain(again))
    with pytest.raises(FileExistsError, match="another sweep"):
        model.sweep(IDS, "z", metric=made(9), **asked)
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "sweep.77.tmp").write_text("half")  # of a process killed while it wrote
    model.sweep(IDS, "z", metric=made(7), **asked | {"save": tmp_path / "two"})


def test_a_hook_put_on_later_is_found_out(model):
    asked = {
        "site": "resid_pre",
        "take": "zero",
        "metric": METRIC,
        "layers": [1],
        "positions": [5, 19],
    }
    assert model.sweep(IDS, **asked).path == "positions"

    def cut(module, inputs, output):  # acts on one position: tokens are not alike any more
        output = output.clone()
        output[:, 5] = 0
        return output

    handle = model.hf.model.layers[2].mlp.register_forward_hook(cut)
    try:
        grid = model.sweep(IDS, **asked)
        whole = model.sweep(IDS, **asked, path="whole")
    finally:
        handle.remove()
    assert grid.path == "whole" and "more to a token" in grid.why
    assert (plain(grid) - plain(whole)).abs().max() < CLOSE
    assert model.sweep(IDS, **asked).path == "positions", "and forgotten when it is gone"


def test_memory_that_ran_out_once_is_no_verdict(model, monkeypatch):
    from interp.replay.wave import Wave

    run = Wave.run

    def full(self, rows):
        raise torch.OutOfMemoryError("once")

    fresh = interp.wrap(copy.deepcopy(model.hf))
    monkeypatch.setattr(Wave, "run", full)
    with pytest.raises(torch.OutOfMemoryError):
        fresh.sweep(IDS, "z", "zero", "layer", METRIC)
    monkeypatch.setattr(Wave, "run", run)
    assert fresh.sweep(IDS, "z", "zero", "layer", METRIC).path == "positions"


def test_logits_of_the_last_position_alone(model):
    inputs = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS), "logits_to_keep": 1}
    grid = model.sweep(inputs, "z", "zero", "layer", METRIC)
    assert grid.path == "whole" and "logits_to_keep" in grid.why
    assert (plain(grid) - plain(model.sweep(IDS, "z", "zero", "layer", METRIC))).abs().max() < CLOSE


def test_a_metric_that_works_in_place_harms_nothing(model):
    grid = model.sweep(IDS, "mlp_out", "zero", "layer", lambda logits: logits.mul_(2)[:, -1, 7])
    wanted = model.sweep(IDS, "mlp_out", "zero", "layer", logit(7))
    assert (plain(grid) - 2 * plain(wanted)).abs().max() < CLOSE
    assert (grid.plain - 2 * wanted.plain).abs().max() < CLOSE


def test_answers_are_tokens_that_exist(model):
    for answers in (
        torch.tensor([[7, -100], [7, 8]]),
        -1,
        torch.tensor([7.0, 8.0]),
        torch.tensor([-1, -1]),
    ):
        with pytest.raises((ValueError, TypeError), match="token ids"):
            model.sweep(IDS, "z", "zero", "layer", logit(answers))
    with pytest.raises(ValueError, match="token 1000000, and demo-lm has 598"):
        model.sweep(IDS, "z", "zero", "layer", logit(1_000_000))
    several = model.sweep(IDS, "z", "zero", "layer", logit([[7, 8], [9]]))
    with torch.no_grad():
        logits = model.logits(IDS)[:, -1]
    expected = torch.stack([logits[0, [7, 8]].mean(), logits[1, 9]])
    assert (several.plain - expected).abs().max() < CLOSE


def test_what_leaves_a_layer_comes_before_what_enters_the_next(model):
    rows, place = torch.arange(2), torch.full((2,), 9)
    first, second = (
        torch.randn(2, 128, generator=torch.Generator().manual_seed(n)) for n in (0, 1)
    )
    cell = [
        Change("resid_pre", 2, rows, place, first),
        Change("resid_post", 1, rows, place, second),
    ]
    found = [
        Replay(model, IDS, path=path).values([cell, cell[::-1]], METRIC) for path in (None, "whole")
    ]
    assert (found[0] - found[1]).abs().max() < CLOSE
    assert torch.equal(found[0][:, 0], found[0][:, 1])


@torch.no_grad()
def test_values_and_pattern_of_cross_attention_together():
    model = tiny("bart")
    prompt = interp.Prompt.from_inputs(model, FAMILIES["bart"].inputs(model.hf, batch=2))
    trace = model.trace(prompt, "v", "pattern", stack="cross")
    value, pattern = trace["v", 1, "cross"], trace["pattern", 1, "cross"]
    rows = torch.arange(2)
    other = torch.softmax(torch.randn(2, *pattern.shape[1:2], pattern.shape[3],
                                      generator=torch.Generator().manual_seed(0)), -1)  # fmt: skip
    cell = [
        Change("v", 1, rows, torch.zeros(2, dtype=torch.long), value[:, 3] * 3, stack="cross"),
        Change("pattern", 1, rows, torch.full((2,), 2), other, stack="cross"),
    ]
    found = [
        Replay(model, prompt, path=path).values([cell], logit(7, at="last"))
        for path in (None, "whole")
    ]
    assert (found[0] - found[1]).abs().max() < CLOSE


@torch.no_grad()
def test_models_that_cannot_be_kept_take_forwards_of_their_own():
    model = tiny("mllama")
    ids = drawn(2, 9)  # text alone: its cross layers are skipped, and the others are out of order
    for path in (None, "whole"):
        grid = model.sweep(ids, "mlp_out", "zero", "layer", logit(7), layers=[0], path=path)
        hook = Hook("mlp_out", lambda value, at: value * 0, layers=[0])
        expected = model.logits(ids, hooks=[hook])[:, -1, 7]
        assert grid.path == "whole" and (plain(grid)[:, 0] - expected).abs().max() < CLOSE


@torch.no_grad()
def test_a_model_without_an_unembedding():
    from transformers import AutoModelForTokenClassification

    config = FAMILIES["llama"].tiny()
    model = interp.wrap(AutoModelForTokenClassification.from_config(config).eval())
    grid = model.sweep(IDS, "z", "zero", "layer", lambda logits: logits[:, -1, 1])
    hook = Hook("z", lambda value, at: value * 0, layers=[2])
    assert (plain(grid)[:, 2] - model.logits(IDS, hooks=[hook])[:, -1, 1]).abs().max() < CLOSE


def test_only_layers_that_are_changed_are_read(model):
    by = {2: 0.5}
    grid = model.sweep(
        IDS, "mlp_out", lambda value, at: value * by[at.layer], "layer", METRIC, layers=[2]
    )
    with torch.no_grad():
        trace = model.trace(IDS.flip(0), "mlp_out", layers=[2])
    model.sweep(IDS, "mlp_out", "mean", "layer", METRIC, layers=[2], reference=trace)
    with pytest.raises(LookupError, match="holds no mlp_out of layers \\[1\\]"):
        model.sweep(IDS, "mlp_out", "mean", "layer", METRIC, layers=[1], reference=trace)
    last = {-2: torch.zeros(2, 20, 128)}
    assert grid.shape == (2, 1)
    zeros = model.sweep(IDS, "mlp_out", last, "layer", METRIC, layers=[2])
    assert torch.equal(
        plain(zeros), plain(model.sweep(IDS, "mlp_out", "zero", "layer", METRIC, layers=[2]))
    )


def test_callers_in_inference_mode(model):
    wanted = model.sweep(IDS, "z", lambda value, at: value * 2, ("layer", "head"), METRIC)
    with torch.inference_mode():
        found = model.sweep(IDS, "z", lambda value, at: value * 2, ("layer", "head"), METRIC)
    assert (plain(found) - plain(wanted)).abs().max() < CLOSE


@torch.no_grad()
def test_windows_pass_over_layers_without_the_site():
    family = FAMILIES["mllama"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf))
    holding = model.trace(prompt, "z").layers("z")
    assert holding != list(range(len(holding)))
    grid = model.sweep(prompt, "z", "zero", "layer", logit(7), window=2)
    assert grid.labels["layer"] == holding
    hook = Hook("z", lambda value, at: value * 0, layers=[holding[-1]])
    assert (plain(grid)[:, -1] - model.logits(prompt, hooks=[hook])[:, -1, 7]).abs().max() < CLOSE


@torch.no_grad()
def test_right_padding_beyond_a_window():
    model = tiny("gemma2")
    ids, mask = drawn(2, 16), torch.zeros(2, 16, dtype=torch.long)
    mask[0, :9], mask[1, :4] = 1, 1
    prompt = interp.Prompt.from_inputs(model, {"input_ids": ids, "attention_mask": mask})
    grid = model.sweep(prompt, "resid_pre", "zero", metric=logit(7), layers=[1])
    assert grid.path == "positions"
    expected = model.sweep(prompt, "resid_pre", "zero", metric=logit(7), layers=[1], path="whole")
    assert (plain(grid) - plain(expected)).abs().max() < CLOSE and grid.effect.abs().max() > 1e-3


def test_grids_can_be_copied_and_masks_be_lists(model):
    one = model.sweep(IDS, "z", "zero", ("layer", "head"), METRIC)
    two = copy.deepcopy(one)
    assert (
        torch.equal(plain(one), plain(two)) and two.axes == one.axes and two.plain is not one.plain
    )
    mask = torch.zeros(2, 20, dtype=torch.bool)
    mask[:, 4] = True
    asked = {"over": "layer", "metric": METRIC}
    wanted = plain(model.sweep(IDS, "z", "zero", positions=[4], **asked))
    for given in (mask, mask.numpy(), mask.tolist(), mask[0].tolist()):
        assert torch.equal(plain(model.sweep(IDS, "z", "zero", positions=given, **asked)), wanted)
    with pytest.raises(ValueError, match="noise on pattern"):
        model.sweep(IDS, "pattern", "noise", ("layer", "head"), METRIC)


def test_answers_that_say_nothing(model):
    with pytest.raises(ValueError, match="token 7 is both a right and a wrong answer of row 0"):
        model.sweep(IDS, "z", "zero", "layer", logit_diff(7, [7, 9]))
    twice = model.sweep(IDS, "z", "zero", "layer", probability([[7, 7], [8, 7]]))
    once = model.sweep(IDS, "z", "zero", "layer", probability([[7], [7, 8]]))
    assert torch.equal(plain(twice), plain(once))
    for reference in (None, [1, 2], torch.zeros(3)):
        with pytest.raises(TypeError, match="logits of a reference run"):
            divergence(reference)
    with pytest.raises(TypeError, match="is no span"):
        logit_diff(1, 2, at=5)


@pytest.mark.parametrize("setting", [{"budget": "1GB"}, {"budget": 0}, {"scale": -1}, {"seed": "a"},
                                     {"hooks": [lambda value: value]}])  # fmt: skip
def test_settings_that_cannot_be(model, setting):
    with pytest.raises((TypeError, ValueError), match=next(iter(setting))):
        model.sweep(IDS, "z", "zero", "layer", METRIC, **setting)


def test_one_row_and_a_bare_function_are_kept(model, tmp_path):
    """A metric's view of one row is strided; a metric that mentions the model names it by its weights."""

    def metric(logits):
        assert model.name
        return logits[:, -1, 5]

    asked = {"take": "zero", "over": "layer", "metric": metric, "save": tmp_path / "one"}
    first = model.sweep(IDS[:1], "z", **asked)
    model.hf.config.note = "changed since"
    assert torch.equal(plain(first), plain(model.sweep(IDS[:1], "z", **asked)))
    with pytest.raises(FileExistsError, match="another sweep: prompt, plain differ"):
        model.sweep(IDS[1:], "z", **asked)
