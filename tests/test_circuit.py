"""The analysis `circuit`: tables that agree with each other, on demo-lm and on a hand-set model."""

import math

import pandas
import pytest
from known_models import induction_model

import interp
from analyses import ANALYSES
from interp import Record, Task
from interp.circuits import Instead, NodeRuns, areas, faithfulness
from interp.circuits.curves import SIZES
from interp.circuits.held_out import parts, stands_in
from interp.statistics import NORMAL

circuit = ANALYSES["circuit"]


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def ioi():
    return Task.load("ioi", count=120)


@pytest.fixture(scope="module")
def result(demo, ioi):
    return circuit(demo, ioi)


def kept(table):
    own = table[table["in_circuit"]]
    return list(zip(own["layer"], own["head"], strict=True))


def test_the_circuit_of_ioi_is_small_and_faithful(result):
    """At least 0.85 of the logit difference with every other head mean-ablated, at 30 % of the heads."""
    own = kept(result.table)
    assert len(own) <= 0.3 * 32 and {(0, 1), (2, 1)} <= set(own)
    row = result.tables["faithfulness"].iloc[0]
    assert row["instead"] == "mean" and row["share"] >= 0.85
    assert row["random_most"] < row["share"]


def test_the_circuit_of_coloured_objects_is_small_and_faithful(demo):
    found = circuit(demo, Task.load("colored_objects", count=120, apart=True), draws=5, roles=False)
    assert len(kept(found.table)) <= 0.3 * 32 and (3, 3) in kept(found.table)
    assert found.tables["faithfulness"].iloc[0]["share"] >= 0.85


def test_the_judging_is_of_records_that_the_search_did_not_see(demo, ioi, result):
    _, judging = parts(ioi)
    runs = NodeRuns(demo, judging, stands_in(ioi), batch=32)
    found = faithfulness(runs, kept(result.table))
    row = result.tables["faithfulness"].iloc[0]
    for name, value in (("share", found.share), ("circuit", found.circuit), ("model", found.whole),
                        ("nothing", found.empty), ("low", found.share - NORMAL * found.error)):  # fmt: skip
        assert row[name] == pytest.approx(value, rel=1e-4), name


def test_every_way_of_replacing_the_rest_is_told(demo, ioi, result):
    table = result.tables["faithfulness"]
    assert table["instead"].tolist() == ["mean", "mean", "patch", "resample", "zero"]
    assert table["random"].notna().tolist() == [True, False, False, False, False]
    _, judging = parts(ioi)
    zero = faithfulness(NodeRuns(demo, judging, Instead("zero"), batch=32), kept(result.table))
    assert table.iloc[-1]["share"] == pytest.approx(zero.share, rel=1e-4)


def test_sizes_end_at_the_whole_model(result):
    sizes = result.tables["sizes"]
    assert sizes["count"].iloc[[0, -1]].tolist() == [0, 32]
    assert sizes["share"].iloc[[0, -1]].tolist() == pytest.approx([0, 1])
    assert sizes["random"].iloc[[0, -1]].tolist() == pytest.approx([0, 1])
    assert (sizes["low"] <= sizes["share"]).all() and (sizes["share"] <= sizes["high"]).all()


def test_areas_completeness_and_minimality(result):
    named = result.tables["areas"].set_index("ranked")
    assert named.loc["size of score", "cmd"] < 0.749 and named.loc["score", "cpr"] > 0.25
    gaps = result.tables["completeness"]
    assert {"none", "class", "random"} == set(gaps["kind"])
    assert (gaps["gap"] - (gaps["circuit"] - gaps["model"]).abs()).abs().max() < 1e-5
    needed = result.tables["minimality"]
    assert len(needed) == len(kept(result.table))


def test_published_identities_of_cpr_and_cmd():
    """MIB, arXiv 2504.13151: as the model at every size; only at the whole; and in proportion."""
    assert areas([1.0] * 10).cpr == pytest.approx(0.999) and areas([1.0] * 10).cmd == 0
    last = areas([0.0] * 9 + [1.0])
    assert last.cpr == pytest.approx(0.25) and last.cmd == pytest.approx(0.749)
    even = areas(SIZES)
    assert even.cpr == pytest.approx(0.4999995) and even.cmd == pytest.approx(0.4990005)


def test_roles_are_of_the_circuits_heads(result):
    assert result.table.loc[result.table["in_circuit"], "role"].notna().all()
    assert result.table.loc[~result.table["in_circuit"], "role"].isna().all()


def test_a_hand_set_circuit_is_found_by_the_exact_methods():
    known = induction_model()
    task = known.task
    for method in ("sweep", "paths"):
        found = circuit(known.model, task, method=method, instead="patch", draws=2, roles=False)
        assert set(kept(found.table)) == set(known.heads), method
        assert found.tables["faithfulness"].iloc[0]["share"] == pytest.approx(1, abs=1e-3)


def test_edges_are_estimates_that_are_run(demo):
    task = Task.load("ioi", count=24)
    found = circuit(demo, task, method="eap_ig", size=0.02, draws=2, roles=False)
    assert found.table["estimate"].all() and found.tables["edges"]["estimate"].all()
    assert any("with all other edges corrupted" in note for note in found.notes)
    shares = found.tables["edge_sizes"]["share"]
    assert math.isclose(shares.iloc[-1], 1, abs_tol=1e-3)
    assert found.table["score"].sum() == pytest.approx(1, abs=1e-4)


def test_stages_are_told(demo):
    found = circuit(demo, Task.load("ioi", count=24), method="paths", draws=2, roles=False)
    stages = found.tables["stages"]
    taken = stages[stages["taken"]]
    assert set(kept(found.table)) == set(zip(taken["layer"], taken["head"], strict=True))
    assert set(found.table.loc[found.table["in_circuit"], "stage"]) <= set(stages["stage"])
    assert any("Stage queries" in note for note in found.notes)


def test_a_saved_result_is_drawn(result, tmp_path):
    again = interp.Result.load(result.save(tmp_path / "run"))
    pandas.testing.assert_frame_equal(again.table, result.table)
    figure = again.figure()
    frames = [one for one in figure.layout.shapes if one.type == "rect"]
    assert len(frames) == len(kept(result.table))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "acdc"}, "no method 'acdc'"),
        ({"instead": "noise"}, "no instead 'noise'"),
        ({"metric": "accuracy"}, "no metric 'accuracy'"),
        ({"held_out": 0}, "held_out=0"),
        ({"draws": 0}, "draws=0"),
        ({"size": 99}, "the model has 32 heads"),
        ({"size": "9"}, "a whole number"),
        ({"draws": 2.5}, "a whole number, 1 or more"),
        ({"seed": "a"}, "seed='a'"),
        ({"instead": "patch", "reference": "prompt"}, "'mean' or 'resample'"),
        ({"groups": "orders"}, "Did you mean 'order'"),
    ],
)
def test_what_cannot_be_done_is_refused(demo, ioi, settings, message):
    with pytest.raises((ValueError, LookupError), match=message):
        circuit(demo, ioi[:10], **settings)


def test_what_is_no_task_is_refused(demo, ioi):
    for given, message in (
        ("ioi", "Task.load\\('ioi'\\)"), (None, "no task"), ([ioi, ioi], "one task, and was given 2"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=message):
            circuit(demo, given)


def test_means_over_few_rows_are_told(demo, ioi, result):
    few = circuit(demo, ioi[:16], size=4, draws=1, roles=False)
    assert any("over one row, which is no mean" in note for note in few.notes)
    assert not any("over one row" in note for note in result.notes)


def test_another_tasks_prompts_are_a_reference(demo, ioi):
    other = Task.load("ioi", count=60, split="validation")
    found = circuit(demo, ioi[:24], reference=other, size=4, draws=1, roles=False)
    assert found.tables["faithfulness"]["reference"].iloc[0] == "ioi"
    facts = Task.load("facts", count=200)
    with pytest.raises(ValueError, match="no row of the reference is of the length"):
        circuit(demo, Task.load("colored_objects", count=8), reference=facts, size=4, draws=1)


def test_a_task_without_counterfactuals_is_refused(demo):
    bare = tuple(Record(f"{number} and", (" two",), (" one",)) for number in ("one", "two") * 5)
    with pytest.raises(ValueError, match="has no counterfactual"):
        circuit(demo, Task("bare", bare))
