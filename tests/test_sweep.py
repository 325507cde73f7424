"""What sweeps take, go over, read and say; each against a plain forward with hooks."""

import pandas
import pytest
import torch
from torch import Tensor

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.metrics import divergence, logit, logit_diff, probability
from interp.replay import Change, Replay

CLOSE = 1e-5


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def task():
    return interp.Task.load("ioi", count=12, split="test", template=1)


@pytest.fixture(scope="module")
def pair(model, task):
    clean, other = task.encode(model), task.encode(model, counterfactual=True)
    right = [list(record.answers) for record in task]
    wrong = [list(record.wrong) for record in task]
    return clean, other, logit_diff(right, wrong).bind(model, clean)


def plain(grid):
    return grid.as_subclass(Tensor)


def test_a_run_patched_with_itself_stays_what_it_is_and_costs_nothing(model, pair):
    clean, _, metric = pair
    with torch.no_grad():
        trace = model.trace(clean, "resid_pre", "z")
    for site, over in (("resid_pre", ("layer", "position")), ("z", ("layer", "head"))):
        grid = model.sweep(clean, site, trace, over, metric)
        assert torch.equal(grid.effect, torch.zeros_like(grid.effect))
        assert grid.skipped == grid[0].numel()


def test_restoring_everything_restores_everything(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(clean, "resid_pre", "resid_post")
        expected = metric(model.logits(clean), clean)
    for site, layer in (("resid_pre", 0), ("resid_pre", 2), ("resid_post", 3)):
        grid = model.sweep(other, site, trace, "layer", metric, layers=[layer])
        assert (grid.plain - expected).abs().max() > 1
        assert (plain(grid)[:, 0] - expected).abs().max() < CLOSE


@pytest.mark.parametrize("take", ["zero", "mean", "mean_all", "resample", "noise"])
def test_takes(model, pair, take):
    clean, _, metric = pair
    grid = model.sweep(clean, "z", take, ("layer", "head"), metric, seed=3, positions="last")
    values = replacement(model, clean, take)
    last = clean.position("last")
    rows = torch.arange(len(clean))
    for layer, head in ((0, 1), (3, 5)):

        def put(value, at):
            value = value.clone()
            value[rows, last, head] = values(value, layer)[rows, last, head]
            return value

        with torch.no_grad():
            expected = metric(model.logits(clean, hooks=[Hook("z", put, layers=[layer])]), clean)
        if take in ("resample", "noise"):  # drawn: only that something else came in
            assert (plain(grid)[:, layer, head] - grid.plain).abs().max() > 1e-4
        else:
            assert (plain(grid)[:, layer, head] - expected).abs().max() < CLOSE


def replacement(model, prompt, take):
    if take == "zero":
        return lambda value, layer: torch.zeros_like(value)
    if take == "mean":
        return lambda value, layer: value.mean(0, keepdim=True).expand_as(value)
    return lambda value, layer: value.mean((0, 1), keepdim=True).expand_as(value)


def test_resample_draws_another_row_and_the_seed_decides(model, pair):
    clean, _, metric = pair
    one, same, two = (
        model.sweep(clean, "z", "resample", ("layer", "head"), metric, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(plain(one), plain(same)) and not torch.equal(plain(one), plain(two))
    from interp.sweep.takes import _others

    for rows in (2, 3, 12):
        order = _others(rows, rows, 0, own=True)
        assert sorted(order.tolist()) == list(range(rows))
        assert not bool((order == torch.arange(rows)).any())


def test_mean_and_resample_of_other_texts(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "z")
    given = model.sweep(clean, "z", "mean", ("layer", "head"), metric, reference=other)
    traced = model.sweep(clean, "z", "mean", ("layer", "head"), metric, reference=trace)
    means = {layer: trace["z", layer].mean(0).expand_as(trace["z", layer]) for layer in range(4)}
    mapped = model.sweep(clean, "z", means, ("layer", "head"), metric)
    assert torch.equal(plain(given), plain(traced))
    assert (plain(given) - plain(mapped)).abs().max() < CLOSE


def test_a_function_is_called_like_a_hook(model, pair):
    clean, _, metric = pair

    def double(value, at):
        assert at.site == "mlp_out" and at.where("S2", value).shape == value.shape[:2]
        return value * 2

    grid = model.sweep(clean, "mlp_out", double, "layer", metric)
    for layer in range(4):
        with torch.no_grad():
            hook = Hook("mlp_out", lambda value, at: value * 2, layers=[layer])
            expected = metric(model.logits(clean, hooks=[hook]), clean)
        assert (plain(grid)[:, layer] - expected).abs().max() < CLOSE


@pytest.mark.parametrize("take", ["trace", "function"])
def test_windows_of_layers_are_changed_together(model, pair, take):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "attn_out")
    given = trace if take == "trace" else (lambda value, at: value * 0.5)
    grid = model.sweep(clean, "attn_out", given, ("layer", "position"), metric, window=3,
                       positions=[4, 14], layers=[0, 2, 3])  # fmt: skip
    assert grid.path == ("positions" if take == "trace" else "whole")
    for number, window in enumerate(([0, 1], [1, 2, 3], [2, 3])):  # l - 1 .. l + 2 exclusive

        def put(value, at):
            value = value.clone()
            value[:, 14] = (
                trace["attn_out", at.layer][:, 14] if take == "trace" else value[:, 14] * 0.5
            )
            return value

        with torch.no_grad():
            expected = metric(
                model.logits(clean, hooks=[Hook("attn_out", put, layers=window)]), clean
            )
        assert (plain(grid)[:, number, 1] - expected).abs().max() < CLOSE


def test_spans_lie_where_each_row_has_them(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "resid_pre")
    grid = model.sweep(clean, "resid_pre", trace, ("layer", "span"), metric, spans=["S2", "IO"])
    assert grid.labels["span"] == ["S2", "IO"]
    by_place = plain(model.sweep(clean, "resid_pre", trace, metric=metric))
    for number, name in enumerate(("S2", "IO")):
        place = clean.position(name)
        rows = torch.arange(len(clean))
        assert (plain(grid)[rows, :, number] - by_place[rows, :, place]).abs().max() < CLOSE
    masks = {"mine": clean.where("S2")}
    mine = model.sweep(clean, "resid_pre", trace, ("layer", "span"), metric, spans=masks)
    assert torch.equal(plain(mine)[..., 0], plain(grid)[..., 0])
    only = model.sweep(clean, "resid_pre", trace, "layer", metric, positions="S2")
    assert torch.equal(plain(only), plain(grid)[..., 0])


def test_any_function_of_logits_is_a_metric(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "resid_pre")
        reference = model.logits(clean)
    wanted = plain(model.sweep(clean, "resid_pre", trace, metric=metric))
    called = model.sweep(clean, "resid_pre", trace, metric=lambda logits: metric(logits, clean))
    assert (plain(called) - wanted).abs().max() < CLOSE
    rows = model.sweep(clean, "resid_pre", trace, metric=lambda logits: logits[:, -1, 5:8])
    assert rows.shape == (*wanted.shape, 3) and rows.plain.shape == (len(clean), 3)
    everywhere = model.sweep(
        clean, "resid_pre", trace, metric=lambda logits: logits[:, 3, 9], layers=[1]
    )
    assert bool((everywhere.effect[:, 0, 4:] == 0).all()), (
        "later positions cannot move earlier logits"
    )
    assert everywhere.effect[:, 0, :4].abs().max() > 0.01
    for one in (probability(7), logit([3, 4, 5] * 4), divergence(reference)):
        own = model.sweep(clean, "resid_pre", trace, metric=one, layers=[2], positions=[14])
        expected = expected_at(model, clean, trace, 2, 14, one.bind(model, clean))
        assert (plain(own)[:, 0, 0] - expected).abs().max() < CLOSE


def test_a_metric_may_read_another_place_than_the_last(model, pair):
    clean, other, _ = pair
    with torch.no_grad():
        trace = model.trace(other, "resid_pre")
    metric = logit_diff(7, 9, at="S2")
    grid = model.sweep(clean, "resid_pre", trace, metric=metric)
    read = clean.position("S2")
    for layer, place in ((1, 3), (3, int(read[0])), (2, 14)):
        expected = expected_at(model, clean, trace, layer, place, metric)
        assert (plain(grid)[:, layer, place] - expected).abs().max() < CLOSE
    for row, place in enumerate(read.tolist()):
        assert bool((grid.effect[row, :, place + 1 :] == 0).all()), "later places cannot reach it"
    assert grid.effect.abs().max() > 0.1


@torch.no_grad()
def expected_at(model, prompt, trace, layer, place, metric):
    def put(value, at):
        value = value.clone()
        value[:, place] = trace["resid_pre", layer][:, place]
        return value

    return metric(model.logits(prompt, hooks=[Hook("resid_pre", put, layers=[layer])]), prompt)


def test_changes_that_cannot_reach_what_is_read_are_free(model, pair):
    """In the last layer only the read position's own output counts: nothing is left to be run."""
    clean, _, metric = pair
    grid = model.sweep(clean, "mlp_out", "zero", metric=metric, layers=[3], positions=[1, 4])
    assert grid.path == "positions" and bool((grid.effect == 0).all())
    moved = model.sweep(clean, "mlp_out", "zero", metric=metric, layers=[3], positions="last")
    assert bool((moved.effect.flatten(1).abs().max(1).values > 0).all())


def test_the_slower_ways_give_the_same(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "z")
    fast, layers, whole = (
        model.sweep(clean, "z", trace, ("layer", "head"), metric, path=path)
        for path in (None, "layers", "whole")
    )
    assert [fast.path, layers.path, whole.path] == ["positions", "layers", "whole"]
    assert (plain(fast) - plain(whole)).abs().max() < CLOSE
    assert (plain(layers) - plain(whole)).abs().max() < CLOSE


@pytest.mark.parametrize(
    "name", ["llama", "gemma2", "gpt_oss", "mistral", "opt", "llava", "qwen2_vl"]
)
@torch.no_grad()
def test_padded_rows_equal_each_alone(name):
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    inputs = family.inputs(model.hf, batch=2)
    other = family.inputs(model.hf, batch=2, seed=1)
    cut = 3
    mask = inputs["attention_mask"].clone()
    mask[0, :cut] = 0
    both = interp.Prompt.from_inputs(model, inputs | {"attention_mask": mask})
    theirs = interp.Prompt.from_inputs(
        model, {**inputs, "attention_mask": mask, "input_ids": other["input_ids"]}
        if "pixel_values" not in inputs else {**other, "attention_mask": mask}
    )  # fmt: skip
    metric = logit_diff(5, 7)
    trace = model.trace(theirs, "resid_pre", "z")
    grid = model.sweep(both, "resid_pre", trace, metric=metric)
    heads = model.sweep(both, "z", trace, ("layer", "head"), metric)
    assert grid.path == heads.path == "positions"
    for layer in (0, 2):
        for place in (cut, both.length // 2, both.length - 1):
            expected = expected_at(model, both, trace, layer, place, metric)
            assert (plain(grid)[:, layer, place] - expected).abs().max() < CLOSE
    assert bool((grid.effect[0, :, :cut] == 0).all()), "padding reaches nobody"
    assert heads.effect.abs().max() > 1e-3


@pytest.mark.parametrize("name, kind", [("bert", "text"), ("vit", "image"), ("deit", "image")])
@torch.no_grad()
def test_stacks_that_see_both_ways_go_on_from_a_layer(name, kind):
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    prompts = [
        interp.Prompt.from_inputs(model, family.inputs(model.hf, batch=2, seed=s)) for s in (0, 1)
    ]
    trace = model.trace(prompts[1], "resid_pre", "z")

    def metric(logits):
        return logits[:, 1, 5] if logits.ndim == 3 else logits[:, 0] - logits[:, 1]

    grid = model.sweep(prompts[0], "resid_pre", trace, metric=metric, positions=[0, 3])
    assert grid.path == "layers" and "both ways" in grid.why
    for layer in (0, 2):
        for number, place in enumerate((0, 3)):

            def put(value, at):
                value = value.clone()
                value[:, place] = trace["resid_pre", layer][:, place]
                return value

            expected = metric(
                model.logits(prompts[0], hooks=[Hook("resid_pre", put, layers=[layer])])
            )
            assert (plain(grid)[:, layer, number] - expected).abs().max() < CLOSE


@torch.no_grad()
def test_towers_before_the_text_take_forwards_of_their_own():
    family = FAMILIES["llava"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf))
    grid = model.sweep(prompt, "z", "zero", ("layer", "head"), logit_diff(5, 7), stack="vision")
    assert grid.path == "whole" and "vision" in grid.why
    hook = Hook("z", lambda value, at: value * 0, layers=[1], heads=[2], stack="vision")
    expected = logit_diff(5, 7)(model.logits(prompt, hooks=[hook]))
    assert (plain(grid)[:, 1, 2] - expected).abs().max() < CLOSE


def test_hooks_of_the_run(model, pair):
    """At the input they are part of what is kept; deeper ones have to run in every changed run."""
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(clean, "resid_pre")
    for hook, path in (
        (Hook("resid_pre", lambda value, at: value * 1.5, layers=[0]), "positions"),
        (Hook("z", lambda value, at: value * 0, layers=[2], heads=[1]), "whole"),
    ):
        grid = model.sweep(
            other, "resid_pre", trace, metric=metric, hooks=[hook], layers=[1], positions=[5]
        )
        assert grid.path == path

        def put(value, at):
            value = value.clone()
            value[:, 5] = trace["resid_pre", 1][:, 5]
            return value

        with torch.no_grad():
            hooks = [hook, Hook("resid_pre", put, layers=[1])]
            expected = metric(model.logits(other, hooks=hooks), other)
            bare = metric(model.logits(other, hooks=[hook]), other)
        assert (plain(grid)[:, 0, 0] - expected).abs().max() < CLOSE
        assert (grid.plain - bare).abs().max() < CLOSE


def test_using_around_a_sweep_counts(model, pair):
    clean, _, metric = pair
    silence = Hook("z", lambda value, at: value * 0, layers=[1])
    with model.using(silence):
        grid = model.sweep(clean, "z", "zero", "layer", metric, layers=[2])
    assert grid.path == "whole" and "using" in grid.why
    with torch.no_grad():
        both = [silence, Hook("z", lambda value, at: value * 0, layers=[2])]
        expected = metric(model.logits(clean, hooks=both), clean)
    assert (plain(grid)[:, 0] - expected).abs().max() < CLOSE
    again = model.sweep(clean, "z", "zero", "layer", metric, layers=[2])
    assert again.path == "positions" and (plain(again) - plain(grid)).abs().max() > 1e-3


def test_cells_of_several_changes_and_held_values(model, pair):
    """A state restored while a later MLP is held: what severed tracing asks for."""
    clean, other, metric = pair
    replay = Replay(model, other)
    rows, place = torch.arange(len(other)), torch.full((len(other),), 9)
    with torch.no_grad():
        good, bad = model.trace(clean, "resid_pre"), model.trace(other, "mlp_out")
    cell = [Change("resid_pre", 1, rows, place, good["resid_pre", 1][:, 9])]
    cell += [Change("mlp_out", layer, rows, place, bad["mlp_out", layer][:, 9]) for layer in (1, 2)]
    found = replay.values([cell, cell[:1]], metric)
    hooks = [change.hook("text") for change in cell]
    with torch.no_grad():
        expected = metric(model.logits(other, hooks=hooks), other)
    assert (found[:, 0] - expected).abs().max() < CLOSE
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-3, "holding the MLPs counts"


def test_what_a_grid_says(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "z")
    grid = model.sweep(clean, "blocks.2.attn.hook_z", trace, ("layer", "head"), metric)
    assert grid.tokens == clean.tokens
    assert grid.labels == {"layer": [2], "head": list(range(8))} and grid.site == "z"
    assert "path: positions" in repr(grid)
    assert type(grid + 1) is Tensor and type(grid[0]) is Tensor
    table = grid.table()
    assert isinstance(table, pandas.DataFrame)
    assert list(table) == ["batch", "layer", "head", "value", "plain", "effect"]
    assert len(table) == grid.numel()
    one = table[(table["batch"] == 3) & (table["head"] == 5)]
    assert one["value"].item() == pytest.approx(float(plain(grid)[3, 0, 5]))
    swapped = model.sweep(clean, "z", trace, ("head", "layer"), metric, layers=[2])
    assert torch.equal(plain(swapped)[:, :, 0], plain(grid)[:, 0])


def test_nothing_is_left_on_the_model(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        before = model.logits(clean)
        trace = model.trace(other, "mlp_out")
        model.sweep(clean, "mlp_out", trace, metric=metric)
        assert torch.equal(model.logits(clean), before)
    from interp.shadow import _SHADOWS

    assert not _SHADOWS


def test_a_grid_draws_itself(model, pair):
    clean, other, metric = pair
    with torch.no_grad():
        trace = model.trace(other, "resid_pre", "z")
    one = model.sweep(clean, "resid_pre", trace, metric=metric)
    table = one.table()
    assert list(table) == ["batch", "layer", "position", "token", "value", "plain", "effect"]
    assert table["token"][clean.length - 1] == clean.tokens[0][-1]
    figure = one.figure(row=2)
    assert figure.data[0].z.shape == (4, clean.length)
    assert list(figure.layout.xaxis.ticktext)[-1].strip("·") == "to"
    mean = one.figure()
    assert torch.allclose(torch.tensor(mean.data[0].z), one.effect.mean(0))
    assert (
        len(model.sweep(clean, "z", trace, ("layer", "position", "head"), metric).figure().data)
        == 8
    )
    assert model.sweep(clean, "z", trace, "layer", metric).figure().data[0].z.shape == (1, 4)
    rows = model.sweep(clean, "z", trace, "layer", lambda logits: logits[:, -1, :2])
    with pytest.raises(ValueError, match="2 numbers a cell"):
        rows.figure()
