"""What a sweep refuses: what was given, what would do, what to do next."""

import pytest
import torch

import interp
from interp import Hook
from interp.metrics import divergence, logit_diff
from interp.replay import Change, Replay

IDS = torch.arange(5, 25).view(2, 10)
METRIC = logit_diff(7, 9)


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


def traced(model, ids, *sites):
    with torch.no_grad():
        return model.trace(ids, *(sites or ("resid_pre",)))


REFUSED = {
    "no metric": ({"metric": None}, TypeError, "reads a metric"),
    "unknown take": ({"take": "zeros"}, LookupError, "Did you mean 'zero'"),
    "no take": ({"take": 3}, TypeError, "take= is a Trace"),
    "unknown axis": ({"over": ("layer", "token")}, ValueError, "layer, position, span, head"),
    "axis twice": ({"over": ("layer", "layer")}, ValueError, "at most once"),
    "position and span": ({"over": ("position", "span")}, ValueError, "two ways to cut"),
    "heads of a stream": ({"over": ("layer", "head")}, ValueError, "no heads to go over"),
    "unknown site": ({"site": "resid_mid"}, LookupError, "no site"),
    "layer too high": ({"layers": [4]}, IndexError, "layers 0 to 3"),
    "position too high": ({"positions": [10]}, IndexError, "0 to 9"),
    "window of none": ({"window": 0}, ValueError, "1 or more"),
    "spans without the axis": ({"spans": ["last"]}, ValueError, "over=\\(..., 'span'\\)"),
    "reference without use": ({"reference": IDS}, ValueError, "goes with take='mean'"),
    "unknown path": ({"path": "fast"}, ValueError, "positions, layers, whole"),
    "unknown stack": ({"stack": "vision"}, LookupError, "no 'vision' stack"),
    "budget too small": ({"budget": 1e4}, ValueError, "one row takes about .* give budget="),
    "answers for other rows": (
        {"metric": logit_diff([1, 2, 3], [4, 5, 6])},
        ValueError,
        "the prompt has 2",
    ),
    "metric of another shape": (
        {"metric": lambda logits: logits.mean()},
        ValueError,
        "one number or",
    ),
    "metric that is no tensor": ({"metric": lambda logits: 1.0}, TypeError, "gave float"),
    "change of shape": (
        {"take": lambda value, at: value[:1]},
        ValueError,
        "shape must be the same",
    ),
    "change in place": ({"take": lambda value, at: value.mul_(2)}, RuntimeError, "in place"),
    "mapping without a layer": (
        {"take": {0: torch.zeros(2, 10, 128)}},
        LookupError,
        "no resid_pre of layer 1",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals(model, name):
    given, kind, says = REFUSED[name]
    asked = {"site": "resid_pre", "take": "zero", "metric": METRIC} | given
    with pytest.raises(kind, match=says):
        model.sweep(IDS, asked.pop("site"), **asked)
    model.sweep(IDS, "resid_pre", "zero", "layer", METRIC)  # nothing is left behind


def test_prompts_that_do_not_match(model):
    trace = traced(model, torch.arange(5, 27).view(2, 11))
    with pytest.raises(ValueError, match="2 x 11 tokens and the prompt of 2 x 10.*as many tokens"):
        model.sweep(IDS, "resid_pre", trace, metric=METRIC)
    with pytest.raises(ValueError, match="1 x 10 tokens"):
        model.sweep(IDS, "resid_pre", traced(model, IDS[:1]), metric=METRIC)
    padded = model.encode([[5, 6, 7], [8, 9]])
    other = model.encode([[5, 6], [8, 9, 10]])
    with pytest.raises(ValueError, match="padded at other positions"):
        model.sweep(padded, "resid_pre", traced(model, other), metric=METRIC)
    with pytest.raises(LookupError, match="holds no z"):
        model.sweep(IDS, "z", traced(model, IDS), metric=METRIC)
    part = model.trace(IDS, "resid_pre", layers=[0])
    with pytest.raises(LookupError, match="no resid_pre of layer 1; it has layers \\[0\\]"):
        model.sweep(IDS, "resid_pre", part, metric=METRIC)


def test_records_that_do_not_match():
    from interp.pairs import pairs

    model = interp.load("demo-lm")
    record = interp.Record("Then, Ryan and Lisa went", (" Ryan",), (" Lisa",), "Then, Ryan went")
    with pytest.raises(
        ValueError, match="record 0 has .* tokens and its counterfactual .*equal length"
    ):
        list(pairs(model, interp.Task("own", (record,)), "patching"))


def test_answers_of_several_tokens(model):
    prompt = model.encode("Then, Ryan and Lisa went to the museum. Lisa gave a bag to")
    for metric in (logit_diff(" Ryan Lisa", " Lisa"), logit_diff(" Lisa", [" Ryan Lisa"])):
        with pytest.raises(ValueError, match="is 2 tokens .*first=True"):
            model.sweep(prompt, "z", "zero", ("layer", "head"), metric)
    first = logit_diff(" Ryan Lisa", " Lisa").bind(model, prompt, first=True)
    short = logit_diff(" Ryan", " Lisa")
    grids = [model.sweep(prompt, "z", "zero", ("layer", "head"), one) for one in (first, short)]
    assert torch.equal(grids[0].effect, grids[1].effect)


@pytest.mark.parametrize("path", [None, "whole"])
def test_a_metric_that_is_no_number_names_its_cell(model, path):
    def metric(logits):
        moved = (logits[:, -1] - model_logits).abs().amax(-1) > 1e-3
        return torch.where(moved, torch.nan, 1.0)

    with torch.no_grad():
        model_logits = model.logits(IDS)[:, -1]
    with pytest.raises(ValueError, match="NaN in row 0 for the cell .*layer 2 at position \\[9\\]"):
        model.sweep(IDS, "resid_pre", "zero", metric=metric, layers=[2], path=path, positions=[9])
    with pytest.raises(ValueError, match="metric of the run itself"):
        model.sweep(IDS, "resid_pre", "zero", metric=lambda logits: logits[:, -1, 0] * torch.nan)


def test_one_row_has_no_mean_and_no_other(model):
    for take in ("mean", "resample"):
        with pytest.raises(ValueError, match="with one row.*reference="):
            model.sweep(IDS[:1], "z", take, ("layer", "head"), METRIC)
    padded = model.encode([[5, 6, 7], [8, 9]])
    with pytest.raises(ValueError, match="reference is padded.*mean_all"):
        model.sweep(padded, "z", "mean", ("layer", "head"), METRIC)
    with pytest.raises(ValueError, match="prompts of one length"):
        model.sweep(IDS, "z", "mean", ("layer", "head"), METRIC, reference=IDS[:, :4])
    with pytest.raises(ValueError, match="is no pattern"):
        model.sweep(IDS, "pattern", "mean_all", ("layer", "head"), METRIC)


def test_training_mode_and_empty_prompts(model):
    model.hf.train()
    try:
        with pytest.raises(ValueError, match="eval"):
            model.sweep(IDS, "z", "zero", ("layer", "head"), METRIC)
    finally:
        model.hf.eval()


def test_changes_that_cannot_be_placed(model):
    replay = Replay(model, IDS)
    rows, places = torch.tensor([0]), torch.tensor([3])
    value = torch.zeros(1, 128)
    with pytest.raises(LookupError, match="no site 'resid_mid'"):
        replay.values([[Change("resid_mid", 0, rows, places, value)]], METRIC)
    with pytest.raises(IndexError, match="layer 7"):
        replay.values([[Change("resid_pre", 7, rows, places, value)]], METRIC)
    with pytest.raises(ValueError, match="path='whole'"):
        replay.values(
            [[Change("resid_pre", 1, rows, places, None, fn=lambda value, at: value)]], METRIC
        )
    with pytest.raises(ValueError, match="give the pattern"):
        replay.values([[Change("scores", 1, rows, places, torch.zeros(1, 8, 10))]], METRIC)


def test_a_reference_of_other_rows(model):
    with torch.no_grad():
        reference = model.logits(IDS[:1])
    with pytest.raises(ValueError, match="1 reference rows"):
        model.sweep(IDS, "z", "zero", ("layer", "head"), divergence(reference))


def test_hooks_that_never_run_are_an_error(model):
    with pytest.raises(LookupError, match="no 'vision' stack"):
        model.sweep(
            IDS, "z", "zero", "layer", METRIC, hooks=[Hook("z", lambda v, at: v, stack="vision")]
        )
