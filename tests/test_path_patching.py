"""Path patching: both operators against passes written out by hand, and against known circuits."""

import pytest
import torch
from known_models import INDUCTION, MOVER, PREVIOUS, induction_model, lookup_model, redundant_model
from spelled_out import Spelled, path_patched

import interp
from analyses import ANALYSES
from interp.circuits.paths import OPERATORS, path_effects
from interp.families import FAMILIES
from interp.metrics import logit_diff
from interp.pairs import pairs

LENGTH = 9
TWO_LAYERS = [(1, 0, "k"), (2, 3, "q"), (2, 2, "v"), (3, 1, "q")]


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def tiny(request):
    """A model, two prompts for its rows, and a metric."""
    hf = FAMILIES[request.param].model()
    model = interp.wrap(hf)
    ids = torch.randint(10, 128, (2, 2, LENGTH), generator=torch.Generator().manual_seed(3))
    clean, corrupted = model.encode(ids[0]), model.encode(ids[1])
    metric = logit_diff(torch.tensor([20, 40]), torch.tensor([30, 50])).bind(model, clean)
    return model, Spelled(hf), clean, corrupted, metric


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


def test_the_reference_is_the_model(tiny):
    model, spelled, clean, *_ = tiny
    with torch.no_grad():
        assert torch.allclose(spelled.run(clean.ids), model.logits(clean), atol=1e-5)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("freeze_mlps", [False, True])
@pytest.mark.parametrize(
    "receivers, position",
    [("logits", "last"), ("logits", "all"), (TWO_LAYERS, [2, 5]), ([(2, 1, "v")], -1)],
)  # fmt: skip
def test_equals_the_passes_written_out(tiny, operator, freeze_mlps, receivers, position):
    model, spelled, clean, corrupted, metric = tiny
    senders = ["0.1", "0.3", "mlp 0"] if receivers != "logits" else ["1.2", "3.0", "mlp 1"]
    found = path_effects(
        model, clean, corrupted, metric, senders, receivers, operator, position, freeze_mlps
    )
    at = torch.zeros_like(clean.mask)
    at[:, slice(None) if position == "all" else [-1] if position == "last" else position] = True
    for row, sender in zip(found.patched, found.senders, strict=True):
        own = (sender.kind, sender.layer, sender.head)
        to = [] if receivers == "logits" else receivers
        logits = path_patched(spelled, clean.ids, corrupted.ids, own, to, operator, at, freeze_mlps)
        assert torch.allclose(row, metric(logits, clean), atol=1e-5), sender
    assert float(found.raw.abs().max()) > 1e-3


def test_the_operators_differ_where_receivers_of_several_layers_are_met_elsewhere(tiny):
    model, _, clean, corrupted, metric = tiny
    one, other = (
        path_effects(model, clean, corrupted, metric, None, TWO_LAYERS, operator, [2, 5])
        for operator in OPERATORS
    )
    assert float((one.patched - other.patched).abs().max()) > 1e-3
    one, other = (
        path_effects(model, clean, corrupted, metric, None, [(2, 3, "q")], operator, "last")
        for operator in OPERATORS
    )
    assert torch.allclose(one.patched, other.patched, atol=1e-5)


def test_a_run_patched_with_itself_is_unchanged(tiny):
    model, _, clean, _, metric = tiny
    for operator in OPERATORS:
        for receivers in ("logits", TWO_LAYERS):
            found = path_effects(model, clean, clean, metric, None, receivers, operator)
            assert float(found.raw.abs().max()) < 1e-5


def test_how_many_senders_share_a_forward_changes_nothing(tiny):
    model, _, clean, corrupted, metric = tiny
    found = [
        path_effects(model, clean, corrupted, metric, None, TWO_LAYERS, rows=rows).patched
        for rows in (1, 7, 64)
    ]
    assert torch.allclose(found[0], found[1], atol=1e-5)
    assert torch.allclose(found[0], found[2], atol=1e-5)


def test_any_function_of_logits_is_a_metric(tiny):
    model, _, clean, corrupted, metric = tiny
    read = path_effects(model, clean, corrupted, metric, ["2.1"], position="last")
    plain = path_effects(
        model, clean, corrupted, lambda logits: metric(logits, clean), ["2.1"], position="last"
    )
    assert torch.allclose(read.patched, plain.patched, atol=1e-6)
    # What is read at another position than the receivers' is the clean run's.
    for position, place in (("last", 3), (3, -1)):
        elsewhere = path_effects(
            model,
            clean,
            corrupted,
            lambda logits, place=place: logits[:, place, 20],
            position=position,
        )
        assert float(elsewhere.raw.abs().max()) < 1e-5


def paths(known, **settings):
    (pair,) = pairs(known.model, known.task, "test")
    metric = pair.metric(known.model)
    found = path_effects(known.model, pair.clean, pair.corrupted, metric, **settings)
    return {
        str(one): float(share)
        for one, share in zip(found.senders, found.share, strict=True)
        if abs(share) > 0.01
    }


@pytest.mark.parametrize("operator", OPERATORS)
def test_finds_the_induction_circuit_link_by_link(operator):
    known = induction_model()
    previous, induction = (f"{layer}.{head}" for layer, head in (PREVIOUS, INDUCTION))
    assert paths(known, operator=operator) == {induction: pytest.approx(1, abs=1e-4)}
    keys = paths(known, operator=operator, receivers=[(*INDUCTION, "k")], position=["B", "C"])
    assert keys == {previous: pytest.approx(1, abs=1e-4)}
    rest = [(*INDUCTION, "q"), (*INDUCTION, "v")]
    assert paths(known, operator=operator, receivers=rest, position="all") == {}


@pytest.mark.parametrize("operator", OPERATORS)
def test_finds_the_lookup_and_what_moves_it(operator):
    known = lookup_model()
    mover = f"{MOVER[0]}.{MOVER[1]}"
    assert paths(known, operator=operator) == {mover: pytest.approx(1, abs=1e-4)}
    settings = {"operator": operator, "receivers": [(*MOVER, "v")], "position": "subject"}
    assert paths(known, **settings) == {}  # no head feeds it
    fed = paths(known, senders=["mlp 0", "mlp 1"], **settings)
    assert fed == {"mlp 1": pytest.approx(1, abs=1e-4)}


def test_a_path_with_a_stand_in_shows_nothing():
    assert paths(redundant_model()) == {}


def test_the_analysis_finds_the_planted_head():
    known = induction_model()
    result = ANALYSES["path_patching"](known.model, known.task, batch=3)
    assert len(result.table) == 20
    best = result.table.loc[result.table["share"].idxmax()]
    assert (int(best["layer"]), int(best["head"])) == INDUCTION
    assert best["share"] == pytest.approx(1, abs=1e-4)
    assert best["raw"] == pytest.approx(-40, abs=0.1)
    assert (result.table["share"].drop(best.name).abs() < 1e-4).all()
    assert "2.1 (+1.00)" in " ".join(result.notes)
    to_keys = ANALYSES["path_patching"](
        known.model, known.task, receivers=[(*INDUCTION, "k")], position=["B", "C"]
    )
    assert sorted(set(to_keys.table["layer"])) == [0, 1]
    best = to_keys.table.loc[to_keys.table["share"].idxmax()]
    assert (int(best["layer"]), int(best["head"])) == PREVIOUS


def test_records_of_several_lengths_keep_their_order(demo):
    task = interp.Task.load("ioi", count=12, split="test")
    result = ANALYSES["path_patching"](demo, task, batch=4)
    assert len({len(record.prompt.split()) for record in task}) > 1
    number = 7
    (pair,) = pairs(demo, task[number : number + 1], "test")
    alone = path_effects(demo, pair.clean, pair.corrupted, pair.metric(demo))
    assert torch.allclose(result.tensors["patched"][:, number], alone.patched[:, 0], atol=1e-4)
    row = result.tables["records"].iloc[number]
    assert row["clean"] == pytest.approx(float(alone.clean), abs=1e-4)
    assert row["corrupted"] == pytest.approx(float(alone.corrupted), abs=1e-4)
    raw = result.tensors["patched"].mean(1) - float(result.tables["records"]["clean"].mean())
    assert torch.allclose(raw, torch.tensor(result.table["raw"].to_numpy()).float(), atol=1e-4)
    assert (result.table["share_low"] <= result.table["share"]).all()
    assert (result.table["share"] <= result.table["share_high"]).all()


def test_notes_say_what_is_shared_and_who_comes_late(demo):
    task = interp.Task.load("ioi", count=4, split="test")
    result = ANALYSES["path_patching"](
        demo, task, receivers=[(1, 3, "k"), (2, 1, "q")], position="all", operator="ioi"
    )
    notes = " ".join(result.notes)
    assert "shared by 2 heads" in notes
    assert "Receivers stand in layers [1, 2]" in notes
    assert "4 records are few" in notes
    one = ANALYSES["path_patching"](demo, task[:1])
    assert "no interval" in " ".join(one.notes)
    assert one.table["share_low"].isna().all()


def test_the_figure_shows_the_table(demo):
    task = interp.Task.load("ioi", count=4, split="test")
    for settings in ({}, {"receivers": [(2, 1, "q")], "position": -1}):
        result = ANALYSES["path_patching"](demo, task, **settings)
        figure = result.figure()
        layers = sorted(set(result.table["layer"]))
        share = result.table.set_index(["layer", "head"])["share"]
        for at, layer in enumerate(layers):
            assert figure.data[0].z[at][3] == pytest.approx(share[layer, 3])
        assert figure.data[0].zmid == 0
        assert figure.data[1].y[0] == "{}.{}".format(*share.abs().idxmax())


@pytest.mark.parametrize(
    "settings, error, said",
    [
        ({"receivers": [(0, 1, "q")]}, ValueError, "no head comes before"),
        ({"receivers": "logit"}, LookupError, "Did you mean 'logits'"),
        ({"receivers": [(1, 1, "z")]}, ValueError, "a receiver is"),
        ({"receivers": []}, ValueError, "names none"),
        ({"receivers": [(9, 1, "q")]}, IndexError, "layers 0 to 3"),
        ({"receivers": [(1, 8, "q")]}, IndexError, "heads 0 to 7"),
        ({"operator": "both"}, LookupError, "circuit_reuse, ioi"),
        ({"metric": "logits"}, LookupError, "Did you mean 'logit'"),
        ({"position": "S2"}, ValueError, "no direct path"),
        ({"position": 99}, IndexError, "out of range"),
        ({"batch": 0}, ValueError, "at least 1"),
    ],
)
def test_refusals(demo, settings, error, said):
    task = interp.Task.load("ioi", count=2, split="test")
    with pytest.raises(error, match=said):
        ANALYSES["path_patching"](demo, task, **settings)


def test_what_the_library_refuses(tiny):
    model, _, clean, corrupted, metric = tiny
    with pytest.raises(ValueError, match="comes after every receiver"):
        path_effects(model, clean, corrupted, metric, ["2.1"], [(2, 0, "q")])
    with pytest.raises(ValueError, match="senders are heads and MLPs"):
        path_effects(model, clean, corrupted, metric, ["embed"])
    with pytest.raises(IndexError, match="no head 1.9"):
        path_effects(model, clean, corrupted, metric, [(1, 9)])
    with pytest.raises(ValueError, match="pairs of equal length"):
        path_effects(model, clean, model.encode(corrupted.ids[:, 1:]), metric)
    with pytest.raises(ValueError, match="one number a row"):
        path_effects(model, clean, corrupted, lambda logits: logits[:, -1, :3])


def test_counterfactuals_that_change_nothing_are_refused(demo):
    from dataclasses import replace

    task = interp.Task.load("ioi", count=2, split="test")
    same = tuple(replace(one, counterfactual=one.prompt) for one in task)
    with pytest.raises(ValueError, match="do not change the metric"):
        ANALYSES["path_patching"](demo, replace(task, records=same))
