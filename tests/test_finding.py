"""Finding circuits: exact knock-outs, stages of paths, estimates; and judging them on other records."""

import pytest
import torch
from known_models import FIRST, SECOND, induction_model, lookup_model, redundant_model

import interp
from interp import Task
from interp.circuits import Graph, Instead, NodeRuns, Stage, faithfulness, in_stages, knocked_out
from interp.circuits.finding import Search, fewest, needed, ranked
from interp.circuits.graph import Node, node
from interp.circuits.held_out import judged, parts, stands_in
from interp.circuits.staged import task_effects
from interp.statistics import standard_error

PATCH = Instead("patch")


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def ioi():
    return Task.load("ioi", count=40, split="validation")


@pytest.fixture(scope="module")
def runs(demo, ioi):
    return NodeRuns(demo, ioi, Instead("mean", groups="template"), batch=40)


@pytest.fixture(scope="module", params=[induction_model, lookup_model], ids=["induction", "lookup"])
def known(request):
    return request.param()


def heads_of(circuit):
    return {(one.layer, one.head) for one in circuit.nodes if one.kind == "head"}


@pytest.mark.parametrize("method", ["sweep", "paths"])
def test_exact_methods_find_the_heads_that_were_put_there(known, method):
    """Recall and precision are 1."""
    found = Search(method, instead=PATCH).find(known.model, known.task)
    assert heads_of(found.circuit) == set(known.heads)
    runs = NodeRuns(known.model, known.task, PATCH)
    assert faithfulness(runs, found.circuit).share == pytest.approx(1, abs=1e-3)


def test_the_estimate_ranks_them_first(known):
    found = Search("eap_ig", instead=PATCH).find(known.model, known.task)
    first = found.top(len(known.heads))
    assert {(one.layer, one.head) for one in first} == set(known.heads)
    assert sum(found.scores[one] for one in first) > 0.99


def test_of_heads_that_stand_in_for_each_other_one_is_enough_and_that_is_said():
    known = redundant_model()
    found = Search("sweep", instead=PATCH).find(known.model, known.task)
    assert len(found.circuit) == 1 and heads_of(found.circuit) <= {FIRST, SECOND}
    assert "stand in for each other" in found.notes[0]
    assert faithfulness(NodeRuns(known.model, known.task, PATCH), found.circuit).share > 0.99


def test_a_knock_out_is_the_run_without_the_head(runs):
    effects = knocked_out(runs)
    assert torch.equal(effects.start, runs.values(runs.parts))
    assert torch.equal(effects.goal, runs.values(()))
    for one in (node("0.1"), node("2.1"), node("3.6")):
        without = runs.values(runs.parts - {one})
        at = effects.nodes.index(one)
        assert torch.allclose(effects.patched[at], without, atol=1e-4), one
        whole = effects.goal.mean() - effects.start.mean()
        share = float((without - effects.start).mean() / whole)
        assert effects.share[one] == pytest.approx(share, abs=1e-4)


def test_mlps_are_knocked_out_where_they_are_parts(demo, ioi):
    runs = NodeRuns(demo, ioi, Instead("mean"), mlps="parts", batch=40)
    effects = knocked_out(runs)
    assert sum(one.kind == "mlp" for one in effects.nodes) == 4
    at = effects.nodes.index(node("mlp 1"))
    assert torch.allclose(effects.patched[at], runs.values(runs.parts - {node("mlp 1")}), atol=1e-4)


def test_the_error_of_a_share_is_that_of_a_ratio(runs):
    effects = knocked_out(runs)
    chance, shares = torch.Generator().manual_seed(0), []
    for _ in range(400):
        rows = torch.randint(runs.count, (runs.count,), generator=chance)
        moved = (effects.patched - effects.start)[:, rows].mean(1)
        shares.append(moved / (effects.goal - effects.start)[rows].mean())
    boot, own = torch.stack(shares).std(0), effects.share_error
    large = own > 0.005
    assert bool(large.any())
    assert torch.allclose(boot[large] / own[large], torch.ones(int(large.sum())), atol=0.35)


def test_stages_go_from_the_logits_back(demo, ioi):
    found = {one.stage.name: one for one in in_stages(demo, ioi, share=0.06, batch=40)}
    assert found["logits"].heads[0] == node("2.1")
    assert found["values and keys"].heads[0] == node("0.1")
    # Nothing feeds the movers' queries: what would have fed them is asked of the movers instead.
    assert not found["queries"].heads and found["queries"].why
    receiving = {(layer, head) for layer, head, _ in found["values and keys"].receivers}
    assert receiving == {(one.layer, one.head) for one in found["logits"].heads}
    direct = task_effects(demo, ioi, batch=40)
    at = direct.senders.index(node("2.1"))
    assert found["logits"].rows()[at][1] == pytest.approx(float(direct.share[at]))
    assert "no head of a layer after the first" in found["keys"].why


def test_stages_are_checked(demo, ioi):
    with pytest.raises(LookupError, match="which no earlier stage is"):
        in_stages(demo, ioi, [Stage("queries", of="logits", parts="q")])
    with pytest.raises(ValueError, match="share=0"):
        in_stages(demo, ioi, share=0)


def test_the_fewest_heads_that_are_needed(runs):
    order = ranked(knocked_out(runs).share)[:10]
    count, reached = fewest(runs, order, 0.9)
    assert reached >= 0.9 and faithfulness(runs, order[: count - 1]).share < 0.9
    kept = needed(runs, order, 0.9)
    assert faithfulness(runs, kept).share >= 0.9
    assert all(faithfulness(runs, kept - {one}).share < 0.9 for one in kept)
    assert len(kept) < len(order)
    most, best = fewest(runs, order[:2], 0.99)
    assert most == 2 and best < 0.99


def test_equal_scores_are_ranked_as_they_run():
    assert ranked({node("1.0"): -0.5, node("0.3"): 0.5, node("0.1"): 0.6}) == (
        node("0.1"), node("0.3"), node("1.0"),
    )  # fmt: skip


def test_sizes_are_counts_or_shares(demo, ioi):
    for size, count in ((5, 5), (0.25, 8), (0.001, 1)):
        found = Search("sweep", size).find(demo, ioi)
        assert len(found.circuit) == count
        assert found.at(0.25) == found.top(8)
    with pytest.raises(ValueError, match="the model has 32 heads"):
        Search("sweep", 33).find(demo, ioi)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "sweeps"}, "Did you mean 'sweep'"),
        ({"faithful": 0}, "faithful=0"),
        ({"faithful": 1.2}, "up to 1"),
        ({"size": -1}, "size=-1"),
        ({"size": 2.5}, "a whole number"),
        ({"size": "5"}, "a whole number"),
    ],
)
def test_a_search_is_checked(settings, message):
    with pytest.raises((ValueError, LookupError), match=message):
        Search(**settings)


def test_records_that_find_are_not_those_that_judge(ioi):
    finding, judging = parts(ioi, 0.25)
    assert finding.records + judging.records == ioi.records and len(judging) == 10
    with pytest.raises(ValueError, match="at least 4 for each"):
        parts(ioi[:6], 0.5)
    with pytest.raises(ValueError, match="held_out=1"):
        parts(ioi, 1.0)


def test_means_are_over_all_records_and_by_the_note_where_there_is_one(ioi):
    own = stands_in(ioi)
    assert own.groups == "template" and len(own.reference) == len(ioi)
    assert stands_in(Task.load("facts", count=8)).groups is None
    assert stands_in(ioi, "resample").reference == "counterfactual"


def test_random_circuits_are_of_the_same_size(runs):
    found = judged(runs, [node("0.1"), node("2.1")], draws=6, seed=1)
    again = judged(runs, [node("0.1"), node("2.1")], draws=6, seed=1)
    assert len(found.random) == 6 and found.random == again.random
    assert found.as_good == sum(one >= found.found.share for one in found.random)
    every = judged(runs, runs.parts, draws=2)
    assert every.random == pytest.approx((1, 1)) and every.as_good == 2


def test_the_error_of_faithfulness_by_hand(runs):
    kept = {Node("head", 0, 1), Node("head", 2, 1)}
    found = faithfulness(runs, kept)
    way = runs.values(runs.parts) - runs.values(())
    got = runs.values(kept) - runs.values(())
    error = standard_error(got - found.share * way) / way.mean()
    assert found.error == pytest.approx(float(error), rel=1e-4)
    assert found.share == pytest.approx(float(got.mean() / way.mean()), rel=1e-5)


def test_the_graph_is_of_heads(demo):
    assert len([one for one in Graph.of(demo).nodes if one.kind == "head"]) == 32
