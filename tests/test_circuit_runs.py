"""Running circuits of nodes and of edges: against hooks, and against models written out part by part."""

import pytest
import torch
from known_models import induction_model
from spelled_out import Spelled, edge_circuit

import interp
from interp import Hook
from interp.circuits import (
    Circuit,
    EdgeRuns,
    Graph,
    Instead,
    NodeRuns,
    curve,
    path_effects,
)
from interp.circuits.graph import edge
from interp.circuits.replaced import Replaced, written
from interp.circuits.writing import Writing
from interp.families import FAMILIES
from interp.metrics import logit_diff
from interp.pairs import pairs
from interp.task import Task


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def ioi():
    return interp.Task.load("ioi", count=10, split="test")


class Given(EdgeRuns):
    """Runs of two prompts that are no task's."""

    def __init__(self, model, clean, corrupted, metric):
        values = written(model, corrupted)
        self.batches = [Replaced(clean, metric, tuple(range(len(clean))), values, corrupted)]
        self.model, self.count, self._known = model, len(clean), {}
        self.graph = Graph.of(model, prompt=clean)
        self.writing = Writing.of(model, self.graph.stack, clean)
        self.parts = frozenset(self.graph.edges)
        self._check()


def tiny_runs(name):
    hf = FAMILIES[name].model()
    model = interp.wrap(hf)
    ids = torch.randint(10, 128, (2, 2, 9), generator=torch.Generator().manual_seed(3))
    clean, corrupted = model.encode(ids[0]), model.encode(ids[1])
    metric = logit_diff(torch.tensor([20, 40]), torch.tensor([30, 50])).bind(model, clean)
    return Given(model, clean, corrupted, metric), clean, corrupted, metric


# Running circuits of nodes


def test_whole_and_empty_are_the_model_and_the_counterfactual(demo, ioi):
    runs = NodeRuns(demo, ioi, mlps="parts")
    for pair in pairs(demo, ioi, "test"):
        metric = pair.metric(demo)
        with torch.no_grad():
            clean = metric(demo.logits(pair.clean))
        numbers = list(pair.numbers)
        assert torch.allclose(runs.values(runs.parts)[numbers], clean, atol=1e-5)
    # Everything but the embedding is the counterfactual's, so the stream's end nearly is.
    assert runs.mean(()) < 0.5 < runs.mean(runs.parts)


@pytest.mark.parametrize("take", ["patch", "zero", "mean"])
def test_a_circuit_equals_hooks_of_its_own(demo, ioi, take):
    """Rows of one length, so that means can be taken here by hand."""
    pair = max(pairs(demo, ioi, "test"), key=lambda one: len(one.records))
    own = Task("own", pair.records)
    assert len(own) > 2
    circuit = Circuit.of(
        Graph.of(demo), ["2.1", "1.5", "mlp 1"], {"2.1": "last", "1.5": ("S2", -1)}
    )
    other = demo.trace(pair.corrupted, "z", "mlp_out")

    def instead(value):
        value = value.detach()
        if take == "patch":
            return value
        return value * 0 if take == "zero" else value.mean(0, keepdim=True).expand_as(value)

    kept = {(2, 1): [[-1]] * len(own), (1, 5): [[int(at), -1] for at in pair.clean.position("S2")]}

    def put(value, at):
        new = instead(other[at.site, at.layer]).clone()
        if at.site == "mlp_out":
            return value if at.layer == 1 else new
        for (layer, head), rows in kept.items():
            for row, places in enumerate(rows if layer == at.layer else []):
                new[row, places, head] = value[row, places, head]
        return new

    with torch.no_grad():
        logits = demo.logits(pair.clean, hooks=[Hook("z", put), Hook("mlp_out", put)])
    found = NodeRuns(demo, own, Instead(take), mlps="parts").values(circuit)
    assert torch.allclose(found, pair.metric(demo)(logits), atol=1e-5)


def test_means_are_by_group_and_rows_are_drawn_from_others(demo, ioi):
    grouped = Instead("mean", "counterfactual", "template").of(demo, ioi, "test")
    for one in grouped:
        templates = [ioi[number].notes["template"] for number in one.numbers]
        value = one.values["z", 1]
        for row, template in enumerate(templates):
            assert torch.equal(value[row], value[templates.index(template)])
        others = [row for row, name in enumerate(templates) if name != templates[0]]
        assert all(not torch.equal(value[0], value[row]) for row in others)
    drawn = Instead("resample", "prompt", seed=1)
    many = interp.Task.load("ioi", count=10, split="test", template=0)
    for one in drawn.of(demo, many, "test"):
        with torch.no_grad():
            own = demo.trace(one.prompt, "z", layers=1)["z", 1]
        for row in range(len(own)):
            assert not torch.allclose(one.values["z", 1][row], own[row], atol=1e-4)
    alike = drawn.of(demo, many, "test")
    assert torch.equal(alike[0].values["z", 1], drawn.of(demo, many, "test")[0].values["z", 1])


def test_kept_mlps_are_never_replaced(demo, ioi):
    kept, parts = NodeRuns(demo, ioi, "zero"), NodeRuns(demo, ioi, "zero", mlps="parts")
    assert {one.kind for one in kept.parts} == {"head"}
    heads = [one for one in parts.parts if one.kind == "head"]
    mlps = [f"mlp {layer}" for layer in range(4)]
    assert kept.mean(heads[:5]) == pytest.approx(parts.mean([*heads[:5], *mlps]), abs=1e-5)
    assert kept.mean(()) != pytest.approx(parts.mean(()), abs=0.1)


def test_batches_do_not_change_the_numbers(demo, ioi):
    one, other = (NodeRuns(demo, ioi, batch=size).values([(2, 1)]) for size in (2, 16))
    assert torch.allclose(one, other, atol=1e-5)
    one, other = (EdgeRuns(demo, ioi, batch=size).values(["2.1->logits"]) for size in (3, 8))
    assert torch.allclose(one, other, atol=1e-4)


# Running circuits of edges


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_edge_circuits_equal_the_ones_written_out(name):
    runs, clean, corrupted, metric = tiny_runs(name)
    spelled = Spelled(runs.model.hf)
    every = sorted(runs.parts)
    chance = torch.Generator().manual_seed(5)
    found = []
    for share in (0.0, 0.2, 0.5, 0.8, 1.0):
        drawn = torch.rand(len(every), generator=chance) < share
        kept = {str(one) for one, keep in zip(every, drawn, strict=True) if keep}
        logits = edge_circuit(spelled, clean.ids, corrupted.ids, kept)
        own = runs.logits(runs.batches[0], frozenset(edge(one) for one in kept))
        assert torch.allclose(own, logits, atol=1e-5), share
        found.append(own)
    with torch.no_grad():
        assert torch.allclose(found[0], runs.model.logits(corrupted), atol=1e-5)
        assert torch.allclose(found[-1], runs.model.logits(clean), atol=1e-5)
    assert float((found[1] - found[2]).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["granite", "phi", "qwen3", "opt", "mixtral", "gpt_oss"])
def test_whole_and_empty_graphs_of_other_families(name):
    runs, clean, corrupted, _ = tiny_runs(name)
    for prompt, kept in ((clean, runs.parts), (corrupted, frozenset())):
        with torch.no_grad():
            plain = runs.model.logits(prompt)
        assert torch.allclose(runs.logits(runs.batches[0], kept), plain, atol=1e-5)


@pytest.mark.parametrize("name", ["gemma2", "olmo2", "bert"])
def test_families_whose_parts_do_not_add_up_are_refused(name):
    with pytest.raises(ValueError, match="edges of .* are not served.*NodeRuns"):
        tiny_runs(name)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_cutting_one_edge_to_the_logits_is_path_patching_with_frozen_mlps(name):
    runs, clean, corrupted, metric = tiny_runs(name)
    senders = ["0.1", "1.3", "2.0", "3.2", "mlp 1"]
    paths = path_effects(
        runs.model, clean, corrupted, metric, senders, position="all", freeze_mlps=True
    )
    for sender, patched in zip(senders, paths.patched, strict=True):
        assert torch.allclose(
            runs.values(runs.parts - {edge(f"{sender}->logits")}), patched, atol=1e-5
        )


def test_zero_and_mean_edges(demo, ioi):
    for take in ("zero", "mean"):
        runs = EdgeRuns(demo, ioi, Instead(take))
        plain = NodeRuns(demo, ioi, Instead(take))
        assert runs.mean(runs.parts) == pytest.approx(plain.mean(plain.parts), abs=1e-4)
        assert abs(runs.mean(()) - runs.mean(runs.parts)) > 1


def test_a_curve_of_true_scores_beats_their_opposite():
    known = induction_model()
    runs = EdgeRuns(known.model, known.task)
    chain = {edge(one) for one in ("embed->0.2.v", "0.2->2.1.k", "2.1->logits")}
    best = {one: float(one in chain) for one in runs.parts}
    good = curve(runs, best, build="greedy")
    assert good.areas.cmd < 0.01
    worst = curve(runs, {one: -score for one, score in best.items()})
    assert worst.areas.cpr == pytest.approx(0.25, abs=0.01)
    assert worst.areas.cmd == pytest.approx(0.749, abs=0.01)


# Refusals


def test_what_runs_refuse(demo, ioi):
    with pytest.raises(LookupError, match="Did you mean 'patch'"):
        Instead("patches")
    with pytest.raises(ValueError, match="'kept'"):
        NodeRuns(demo, ioi, mlps="all")
    with pytest.raises(LookupError, match="no note 'templates'"):
        NodeRuns(demo, ioi, Instead("mean", groups="templates"))
    with pytest.raises(ValueError, match="nothing to resample from"):
        NodeRuns(demo, ioi[:1], Instead("resample", "prompt"))
    bare = Task("bare", tuple(interp.Task.load("facts", count=2, split="test")))
    with pytest.raises(ValueError, match="no row of the reference"):
        NodeRuns(demo, ioi, Instead("mean", bare))
    runs = NodeRuns(demo, ioi[:2])
    with pytest.raises(LookupError, match="no node 5.0"):
        runs.mean(["5.0"])
    other = Circuit.of(Graph("gpt2", "", "text", (12,), (True,), False), ["0.1"])
    with pytest.raises(ValueError, match="this circuit is of gpt2"):
        runs.mean(other)
    edges = EdgeRuns(demo, ioi[:2])
    with pytest.raises(LookupError, match="no edge 3.1->2.1.q"):
        edges.mean(["3.1->2.1.q"])
    nodes, links = Circuit.of(runs.graph, ["1.1"]), Circuit.of(runs.graph, ["1.1->logits"])
    with pytest.raises(ValueError, match="EdgeRuns run it"):
        runs.mean(links)
    with pytest.raises(ValueError, match="NodeRuns run it"):
        edges.mean(nodes)
    demo.hf.train()
    try:
        with pytest.raises(ValueError, match="training mode"):
            NodeRuns(demo, ioi[:2])
    finally:
        demo.hf.eval()
