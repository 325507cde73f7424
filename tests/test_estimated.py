"""Circuits from gradients, on models whose circuit was put there by hand and on a trained one."""

import random

import pytest
import torch
from known_models import (
    FIRST,
    INDUCTION,
    LOOKUP,
    MOVER,
    PREVIOUS,
    SATURATING,
    SECOND,
    induction_model,
    lookup_model,
    redundant_model,
)

import interp
from interp.attribution import NoEdges, eap_ig_inputs
from interp.circuits import Circuit, EdgeRuns, Graph, faithfulness, pruned
from interp.circuits.estimated import estimated
from interp.families import FAMILIES
from interp.pairs import pairs
from interp.task import Record, Task


def name(head):
    return f"{head[0]}.{head[1]}"


# What the counterfactual changes on its way to the answer.
KNOWN = {
    "induction": (induction_model, [
        f"embed->{name(PREVIOUS)}.v", f"{name(PREVIOUS)}->{name(INDUCTION)}.k",
        f"{name(INDUCTION)}->logits"]),
    "lookup": (lookup_model, [
        f"embed->mlp {LOOKUP}", f"mlp {LOOKUP}->{name(MOVER)}.v", f"{name(MOVER)}->logits"]),
    "redundant": (redundant_model, [
        f"embed->{name(FIRST)}.v", f"embed->{name(SECOND)}.v", f"{name(FIRST)}->mlp {SATURATING}",
        f"{name(SECOND)}->mlp {SATURATING}", f"mlp {SATURATING}->logits"]),
}  # fmt: skip


@pytest.fixture(scope="module", params=KNOWN)
def known(request):
    make, edges = KNOWN[request.param]
    return make(), {str(one) for one in edges}


@pytest.fixture(scope="module")
def ioi():
    model = interp.load("demo-lm")
    return model, interp.Task.load("ioi", count=24, split="validation", counterfactual="names")


def auroc(scores, true):
    """The chance that a true edge's size is above another's; of equals one half."""
    inside = [abs(score) for one, score in scores.items() if str(one) in true]
    outside = [abs(score) for one, score in scores.items() if str(one) not in true]
    wins = sum((one > other) + (one == other) / 2 for one in inside for other in outside)
    return wins / (len(inside) * len(outside))


@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
def test_edges_of_a_known_circuit_come_before_all_others(known, metric):
    model, true = known[0].model, known[1]
    found = estimated(model, known[0].task, edges=12, metric=metric)
    assert set(found.scores) == Graph.of(model).edges
    area = auroc(found.scores, true)
    assert area > 0.999
    assert true <= {str(one) for one in found.circuit}
    assert known[0].heads <= found.circuit.heads
    assert sum(found.shares[head] for head in known[0].heads) > 0.99
    assert sum(found.shares.values()) == pytest.approx(1)
    runs = EdgeRuns(model, known[0].task)
    assert faithfulness(runs, found.circuit).share == pytest.approx(1, abs=1e-4)


def test_clean_gradients_alone_would_miss_what_saturates():
    known = redundant_model()
    into = [f"{name(head)}->mlp {SATURATING}" for head in (FIRST, SECOND)]
    at_clean = estimated(known.model, known.task, edges=12, steps=1, rule="right").scores
    on_the_way = estimated(known.model, known.task, edges=12).scores
    for one, score in at_clean.items():
        if str(one) in into:
            assert abs(score) < 1e-4 and on_the_way[one] > 10


@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
def test_edges_out_of_the_input_add_up_to_the_change(known, metric):
    model, task = known[0].model, known[0].task
    (pair,) = pairs(model, task, "test")
    with torch.no_grad():
        clean, other = (model.logits(one) for one in (pair.clean, pair.corrupted))
    if metric == "kl":
        one, two = (logits[:, -1].log_softmax(-1) for logits in (clean, other))
        change = float((one.exp() * (one - two)).sum(-1).mean())
        assert change > 1
    else:
        judge = pair.metric(model)
        change = float((judge(clean, pair.clean) - judge(other, pair.corrupted)).mean())
    errors = []
    for steps in (5, 60):
        scores = estimated(model, task, edges=1, metric=metric, steps=steps, rule="midpoint").scores
        out = sum(score for edge, score in scores.items() if edge.source.kind == "embed")
        errors.append(abs(out - change) / change)
    assert errors[-1] < 0.02
    assert errors[-1] <= errors[0] + 1e-4


def test_signs_and_metrics_differ(ioi):
    model, task = ioi
    by_logits = estimated(model, task, edges=60)
    by_kl = estimated(model, task, edges=60, metric="kl")
    assert by_logits.circuit.found["metric"] == "logit_diff"
    pairs_of = [(by_logits.scores[one], by_kl.scores[one]) for one in by_logits.scores]
    one, other = torch.tensor(pairs_of).T
    assert 0 < float(torch.corrcoef(torch.stack([one, other]))[0, 1]) < 0.999
    assert by_logits.circuit != by_kl.circuit
    assert min(by_logits.scores.values()) < 0 < max(by_logits.scores.values())
    assert all(by_logits.sizes[e] >= abs(s) - 1e-9 for e, s in by_logits.scores.items())


def test_greedy_circuits_are_whole_and_do_the_task(ioi):
    model, task = ioi
    found = estimated(model, task, share=0.05)
    circuit = found.circuit
    assert circuit.found["edges_asked"] == round(0.05 * len(found.scores))
    assert circuit.found["edges_kept"] == len(circuit) <= circuit.found["edges_asked"]
    assert circuit.found["estimate"] and circuit.task == "ioi"
    assert pruned(circuit.parts) == circuit.parts
    writing = {(one.source.layer, one.source.head) for one in circuit if one.source.kind == "head"}
    assert {head for head, size in found.heads.items() if size > 0} == writing
    judged = interp.Task.load("ioi", count=24, split="test", counterfactual="names")
    runs = EdgeRuns(model, judged)
    share = faithfulness(runs, circuit).share
    drawn = random.Random(0).sample(sorted(found.scores), len(circuit))
    other = faithfulness(runs, Circuit.of(runs.graph, drawn)).share
    assert share > 0.9 > 0.3 > other


def test_heads_count_a_shared_key_once(ioi):
    model, task = ioi
    found = estimated(model, task, share=1.0)
    assert len(found.circuit) == len(found.scores)
    parts = [
        eap_ig_inputs(model, pair.clean, pair.corrupted, pair.metric(model))
        for pair in pairs(model, task, "test")
    ]
    total = torch.cat([one.scores.double().abs() for one in parts]).mean(0)
    for place, node in enumerate(parts[0].sources):
        if node.layer is not None and node.head is not None:
            expected = float(total[place].sum())
            assert found.heads[node.layer, node.head] == pytest.approx(expected, rel=1e-6)


def test_what_is_left_out(ioi):
    model, task = ioi
    every = estimated(model, task, edges=100, build="top", rank="size")
    loud = estimated(model, task, edges=100, build="top", rank="size", least=0.5)
    assert loud.circuit.parts < every.circuit.parts
    assert min(loud.sizes[one] for one in loud.circuit) >= 0.5
    none = estimated(model, task, edges=100, least=1e6)
    assert len(none.circuit) == 0 and not any(none.shares.values())
    signed = estimated(model, task, edges=100, build="top", absolute=False)
    assert min(signed.scores[one] for one in signed.circuit) > 0


def test_batches_do_not_matter(ioi):
    model, task = ioi
    one, other = (estimated(model, task[:6], edges=50, batch=size) for size in (2, 6))
    assert one.circuit == other.circuit
    assert all(one.scores[e] == pytest.approx(other.scores[e], abs=1e-5) for e in one.scores)


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"metric": "logits"}, LookupError, "logit_diff"),
        ({"metric": "logit_dif"}, LookupError, "Did you mean|logit_diff"),
        ({"build": "gready"}, LookupError, "greedy"),
        ({"rank": "mean"}, LookupError, "score"),
        ({"rule": "middle"}, LookupError, "midpoint"),
        ({"steps": 0}, ValueError, "at least 1"),
        ({"edges": 0}, ValueError, "from 1 to 1519"),
        ({"edges": 2000}, ValueError, "from 1 to 1519"),
        ({"share": 0.0}, ValueError, "above 0"),
        ({"least": -1.0}, ValueError, "0 or more"),
        ({"rank": "size", "absolute": False}, ValueError, "no signs"),
    ],
)
def test_what_cannot_be_asked(ioi, settings, error, said):
    with pytest.raises(error, match=said):
        estimated(ioi[0], ioi[1][:2], **settings)


def test_models_without_edges_are_refused(word_tokenizer):
    model = interp.wrap(FAMILIES["gemma2"].model(), word_tokenizer)
    task = Task("words", (Record("w1 w2 w3", (" w4",), (" w5",), counterfactual="w1 w6 w3"),))
    with pytest.raises(NoEdges, match="cannot be established: in layer 0"):
        estimated(model, task)


def test_a_text_is_refused(ioi):
    with pytest.raises(TypeError, match="estimated compares prompts with their counterfactuals"):
        estimated(ioi[0], "some words")
