"""Circuits: records, how they are built, how they are run, and the numbers that judge them."""

import json
import math

import pytest
import torch

import interp
from interp.circuits import (
    SIZES,
    Circuit,
    Edge,
    Graph,
    Node,
    areas,
    completeness,
    curve,
    faithfulness,
    greedy,
    minimality,
    overlap,
    pruned,
    top,
)
from interp.circuits.graph import edge, node
from interp.families import FAMILIES

GPT2_SMALL = Graph("gpt2", "", "text", (12,) * 12, (True,) * 12, False)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


# The graph


def test_edges_are_as_many_as_published():
    assert len(GPT2_SMALL.edges) == 32491  # arXiv 2403.17806
    assert len(GPT2_SMALL.nodes) == 156


@pytest.mark.parametrize("name, parallel", [("gpt2", False), ("phi", True), ("gpt_neox", True)])
def test_whether_mlps_read_the_heads_of_their_layer(name, parallel):
    graph = Graph.of(interp.wrap(FAMILIES[name].model()))
    assert graph.parallel is parallel
    assert (Edge(node("1.2"), node("mlp 1")) in graph.edges) is not parallel
    assert Edge(node("1.2"), node("1.3"), "q") not in graph.edges
    assert Edge(node("mlp 1"), node("1.3"), "q") not in graph.edges


def test_names_and_parts():
    for name in ("2.3", "mlp 2", "embed", "logits"):
        assert str(node(name)) == name
    for name in ("0.2->2.1.k", "embed->mlp 0", "mlp 1->logits", "embed->1.0.v"):
        assert str(edge(name)) == name
    assert node((2, 3)) == Node("head", 2, 3)
    assert sorted([node("logits"), node("mlp 0"), node("1.0"), node("0.11"), node("embed")]) == [
        node(name) for name in ("embed", "0.11", "mlp 0", "1.0", "logits")
    ]
    for wrong in ("2,3", "mlp2", 3, "2.3.q", "2.1->"):
        with pytest.raises(ValueError, match="is no"):
            edge(wrong) if isinstance(wrong, str) and "->" in wrong else node(wrong)


# Records


def test_a_circuit_saves_and_loads_and_refuses_another_model(demo, tmp_path):
    graph = Graph.of(demo)
    where = {"2.1": ("last", -2), (1, 5): "S2"}
    circuit = Circuit.of(graph, ["2.1", "1.5", "mlp 0"], where, "ioi", {"method": "by hand"})
    path = circuit.save(tmp_path / "circuits" / "own.json")
    assert Circuit.load(path, demo) == circuit
    assert Circuit.load(path).minus(circuit).complement(graph).parts == graph.nodes
    assert Circuit.load(path).found == {"method": "by hand"}
    assert json.loads(path.read_text())["nodes"] == ["mlp 0", "1.5", "2.1"]
    edges = Circuit.of(graph, ["embed->0.2.v", "0.2->logits"])
    assert Circuit.load(edges.save(tmp_path / "edges.json"), demo) == edges
    assert edges.minus(edges).complement(graph).parts == graph.edges
    other = interp.wrap(FAMILIES["gpt2"].model())
    with pytest.raises(ValueError, match="this circuit is of demo-lm"):
        Circuit.load(path, other)
    (tmp_path / "none.json").write_text("[]")
    with pytest.raises(ValueError, match="holds no circuit"):
        Circuit.load(tmp_path / "none.json")


def test_sets_and_sizes():
    circuit = Circuit.of(GPT2_SMALL, ["9.9", "9.6", "mlp 0"], {"9.9": "last"})
    assert len(circuit) == 3
    assert (9, 9) in circuit
    assert "mlp 0" in circuit
    assert "9.7" not in circuit
    assert circuit.heads == {(9, 9), (9, 6)}
    less = circuit.minus(["9.9", "3.3"])
    assert [str(one) for one in less] == ["mlp 0", "9.6"]
    assert not less.positions
    assert less.plus(["9.9"]).parts == circuit.parts
    assert len(circuit.complement(GPT2_SMALL)) == 153
    assert circuit.share(GPT2_SMALL) == pytest.approx(3 / 156)
    assert Circuit.of(GPT2_SMALL, ["embed->0.1.q", "0.1->mlp 0"]).nodes == {
        node("0.1"),
        node("mlp 0"),
    }


def test_a_record_refuses_what_the_model_does_not_have():
    with pytest.raises(LookupError, match="no 9.12"):
        Circuit.of(GPT2_SMALL, ["9.12"])
    with pytest.raises(LookupError, match="no 9.1->9.2.q"):
        Circuit.of(GPT2_SMALL, ["9.1->9.2.q"])
    with pytest.raises(ValueError, match="not both"):
        Circuit.of(GPT2_SMALL, ["9.1", "9.1->logits"])
    with pytest.raises(ValueError, match="a circuit of nodes, and holds nothing else"):
        Circuit.of(GPT2_SMALL, ["9.1"]).plus(["9.1->logits"])
    with pytest.raises(ValueError, match="a circuit of nodes"):
        Circuit.of(GPT2_SMALL, ["9.1"], kind="edges")
    with pytest.raises(ValueError, match="no node of the circuit"):
        Circuit.of(GPT2_SMALL, ["9.1"], {"9.2": "last"})


# Building


def test_the_best_by_score_or_by_size():
    scores = {"0.0": 3.0, "0.1": -5.0, "mlp 0": 1.0, "1.0": 3.0}
    assert top(scores, 2) == {node("0.0"), node("1.0")}
    assert top(scores, 2, absolute=True) == {node("0.1"), node("0.0")}
    assert top(scores, 0) == frozenset()
    with pytest.raises(ValueError, match="scores of 4 parts"):
        top(scores, 5)
    with pytest.raises(ValueError, match="not a number"):
        top({"0.0": math.nan}, 1)


def test_greedy_takes_only_what_leads_somewhere():
    scores = {
        "embed->0.0.q": 9.0, "0.0->1.0.k": 2.0, "1.0->logits": 1.0, "embed->1.0.v": 3.0,
        "0.1->logits": 0.5, "embed->0.1.v": 8.0,
    }  # fmt: skip
    assert [len(greedy(scores, count)) for count in range(7)] == list(range(7))
    assert greedy(scores, 1) == {edge("1.0->logits")}
    assert greedy(scores, 2) == {edge("1.0->logits"), edge("embed->1.0.v")}
    assert greedy(scores, 4) == {
        edge("1.0->logits"), edge("embed->1.0.v"), edge("0.0->1.0.k"), edge("embed->0.0.q"),
    }  # fmt: skip
    assert top(scores, 2) == {edge("embed->0.0.q"), edge("embed->0.1.v")}
    with pytest.raises(ValueError, match="use top"):
        greedy({"0.0": 1.0}, 1)


def test_pruning_takes_away_loose_ends_until_none_is_left():
    whole = ["embed->0.0.q", "0.0->1.0.k", "1.0->logits"]
    loose = ["0.1->1.1.q", "1.1->2.0.v", "embed->mlp 2", "mlp 0->1.0.q"]
    assert pruned(whole + loose) == {edge(one) for one in whole}
    assert pruned(loose) == frozenset()


# Areas and overlaps


def test_golden_areas():
    """arXiv 2504.13151: the ten sizes, without 0."""
    assert len(SIZES) == 10
    one = areas([1.0] * 10)
    assert (one.cpr, one.cmd) == (pytest.approx(0.999), 0)
    late = areas([0.0] * 9 + [1.0])
    assert (late.cpr, late.cmd) == (pytest.approx(0.25), pytest.approx(0.749))
    even = areas(SIZES)
    assert even.cpr == pytest.approx(0.4999995, abs=1e-12)
    assert even.cmd == pytest.approx(0.4990005, abs=1e-12)
    assert areas([0.0, *[1.0] * 10], (0.0, *SIZES)).cpr == pytest.approx(0.9995)
    assert areas([2.0] * 10).cmd == pytest.approx(0.999)
    for wrong in ([1.0] * 9, [math.nan] * 10):
        with pytest.raises(ValueError, match="f "):
            areas(wrong)
    with pytest.raises(ValueError, match="each larger"):
        areas([1, 1], (0.5, 0.1))


def test_golden_overlap():
    found = overlap(range(32), range(7, 39), 384)
    assert found.shared == 25
    assert found.expected == pytest.approx(2.67, abs=0.01)
    assert found.most == 5
    assert found.p == pytest.approx(8e-27, rel=0.1)
    assert found.jaccard == pytest.approx(25 / 39)
    with pytest.raises(ValueError, match="of 30"):
        overlap(range(32), range(7), 30)


# Judging


class Toy:
    """Runs whose metric is a sum of weights, or any function of the kept parts."""

    def __init__(self, fn):
        self.parts = frozenset(node((0, head)) for head in range(6))
        self.fn = fn

    def values(self, kept):
        heads = {node(one).head for one in getattr(kept, "parts", kept)}
        return torch.tensor([self.fn(heads), 2 * self.fn(heads)])

    def mean(self, kept):
        return float(self.values(kept).mean())


TOY = Graph("toy", "", "text", (6,), (False,), False)
WEIGHTS = {0: 4.0, 1: 2.0, 2: 1.0, 3: 1.0, 4: 0.0, 5: -2.0}


def weigh(heads):
    return 1.0 + sum(WEIGHTS[head] for head in heads)


def test_faithfulness_is_a_ratio_of_means():
    found = faithfulness(Toy(weigh), Circuit.of(TOY, ["0.0", "0.1"]))
    assert found.whole == pytest.approx(1.5 * 7)
    assert found.empty == pytest.approx(1.5)
    assert found.share == pytest.approx(1)
    assert found.gap == pytest.approx(0)
    half = faithfulness(Toy(weigh), ["0.1", "0.2"])
    assert half.share == pytest.approx(0.5)
    assert half.gap == pytest.approx(1.5 * 3)
    uneven = Toy(weigh)
    uneven.values = lambda kept: torch.tensor(
        [1.0 * len(kept), 0.5 if len(kept) == 2 else 0.1 * len(kept)]
    )
    found = faithfulness(uneven, [(0, 0), (0, 1)])
    assert found.share == pytest.approx(2.5 / 6.6)
    assert found.each == pytest.approx((2 / 6 + 0.5 / 0.6) / 2)
    with pytest.raises(ValueError, match="does not change the metric"):
        faithfulness(Toy(lambda heads: 3.0), ["0.0"])


def test_completeness_finds_what_a_circuit_lacks():
    def backed_up(heads):  # 0 and 1 each suffice
        return 3.0 * bool(heads & {0, 1}) + bool(heads & {2})

    runs, circuit = Toy(backed_up), Circuit.of(TOY, ["0.0", "0.2"])
    table = completeness(runs, circuit, {"movers": ["0.0"], "rest": ["0.2"]}, 6, 2).set_index(
        "name"
    )
    assert table["gap"]["nothing"] == 0
    assert table["gap"]["movers"] == pytest.approx(4.5)
    assert table["gap"]["rest"] == 0
    by = table.groupby("kind")["gap"].max()
    assert by["greedy"] == pytest.approx(4.5)
    assert len(table) == 1 + 2 + 6 + 2
    assert completeness(runs, circuit.plus(["0.1"]), draws=9, greedy_steps=3)["gap"].max() == 0
    with pytest.raises(LookupError, match="no part of the circuit"):
        completeness(runs, circuit, {"movers": ["0.1"]})


def test_minimality_takes_the_set_that_shows_a_part():
    def backed_up(heads):
        return 3.0 * bool(heads & {0, 1}) + bool(heads & {2})

    runs, circuit = Toy(backed_up), Circuit.of(TOY, ["0.0", "0.1", "0.2", "0.4"])
    plain = minimality(runs, circuit).set_index("part")
    assert plain["share"]["0.0"] == 0
    assert plain["share"]["0.2"] == pytest.approx(0.25)
    given = minimality(runs, circuit, {"0.0": ["0.0", "0.1"]}).set_index("part")
    assert given["share"]["0.0"] == pytest.approx(0.75)
    assert given["without"]["0.0"] == "0.1"
    searched = minimality(runs, circuit, search=2).set_index("part")
    assert searched["share"]["0.0"] == pytest.approx(0.75)
    assert searched["without"]["0.1"] == "0.0"
    assert searched["share"]["0.4"] == 0


def test_curves_of_scores():
    runs = Toy(weigh)
    scores = {f"0.{head}": weight for head, weight in WEIGHTS.items()}
    found = curve(runs, scores, (0, 1 / 6, 2 / 6, 1))
    assert found.table["count"].tolist() == [0, 1, 2, 6]
    assert found.table["share"].tolist() == pytest.approx([0, 4 / 6, 1, 1])
    assert found.areas.cpr == pytest.approx((4 / 6 / 2 + (4 / 6 + 1) / 2 + 4) / 6)
    by_size = curve(runs, scores, (0, 3 / 6, 1), absolute=True)
    assert by_size.table["share"].tolist() == pytest.approx([0, 4 / 6, 1])
    with pytest.raises(ValueError, match="1 have none"):
        curve(runs, dict.fromkeys(list(scores)[:5], 1.0))
    with pytest.raises(ValueError, match="'top' or 'greedy'"):
        curve(runs, scores, build="best")
