"""Circuits found from gradients: EAP-IG scores of all edges, and the best of them from the logits back.

Hanna et al. 2024 (arXiv 2403.17806), Syed et al. 2023 (arXiv 2310.10348); with KL divergence, a threshold
and importances of heads, "Thinking Sparks" (arXiv 2509.25758).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_stack
from interp.attribution import Edges, eap_ig_inputs, fractions
from interp.circuits.building import greedy, pruned, top
from interp.circuits.graph import Edge, Graph, edge
from interp.circuits.record import Circuit
from interp.mapping import over
from interp.pairs import METRICS, Pair, pairs
from interp.readouts import Divergence
from interp.registry import unknown
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

SCORED = (*METRICS, "kl")
BUILDS = {"greedy": greedy, "top": top}
RANKS = ("score", "size")


@dataclass(frozen=True, eq=False)
class Estimated:
    """A circuit of edges, and the estimates that it was built from.

    `scores`: mean over records, above 0 where corrupting the edge hurts; `sizes`: mean of |score|.
    `heads`: of each head, the sizes of the circuit's edges that leave it, added up (0 for those that
    the circuit does without).
    """

    circuit: Circuit
    scores: dict[Edge, float]
    sizes: dict[Edge, float]
    heads: dict[tuple[int, int], float]

    @property
    def shares(self) -> dict[tuple[int, int], float]:
        """The same importances with a sum of 1; all 0 where no edge leaves a head."""
        total = sum(self.heads.values())
        return {head: size / total if total else 0.0 for head, size in self.heads.items()}

    def __repr__(self) -> str:
        return f"Estimated({self.circuit!r}, of {len(self.scores)} edges)"


@dataclass(frozen=True, eq=False)
class _Kept(Divergence):
    """The divergence's opposite: 0 for the reference's own distribution, and below for others."""

    def of(self, logits: Tensor, rows: Tensor) -> Tensor:
        return -super().of(logits, rows)


def estimated(
    model: "Model",
    task: Any,
    edges: int | None = None,
    share: float = 0.05,
    steps: int = 5,
    rule: str = "left",
    metric: str = "logit_diff",
    build: str = "greedy",
    absolute: bool = True,
    least: float = 0.0,
    stack: str | None = None,
    batch: int = 16,
    *,
    rank: str = "score",
    first: bool = False,
) -> Estimated:
    """A circuit of `edges` edges (or a `share` of all), by EAP-IG in `steps` by `rule`.

    Every record needs a counterfactual of its own length. `metric`: one of interp.pairs.METRICS, or "kl",
    the divergence of the clean prompt's next-token distribution from that of the input on its way, summed
    over the vocabulary; then a positive score says that corrupting the edge moves the distribution away.
    `build`: "greedy" takes edges from the logits back, "top" the best wherever they are. They are ranked by
    their mean score ("score"; its size where `absolute`), or by the mean of their sizes ("size"). Of the
    chosen ones those whose ranked number is below `least` in size are left out, then those that no longer
    lead from the input to the logits. "Thinking Sparks": edges=5000, steps=100, metric="kl",
    build="top", least=0.1, rank="size".

    Query heads that share a key or value have one such input together, whose score goes to the edge into
    each of them (`Edges.by_name`); the importance of a head counts it once. Models whose edges cannot
    be told apart are refused (`NoEdges`). An estimate: `EdgeRuns` and `faithfulness` judge it.
    """
    _check(metric, build, rank, absolute, least, steps, rule)
    tower = choose_stack(model.stacks, stack, model.name)
    scores, sizes = _scores(model, task, steps, rule, metric, first, tower.name, batch)
    count = _count(edges, share, len(scores))
    ranked = sizes if rank == "size" else scores
    chosen = BUILDS[build](ranked, count, absolute)
    loud = {one for one in map(edge, chosen) if abs(ranked[one]) >= least}
    kept = pruned(loud)
    found = {
        "method": "EAP-IG over inputs", "estimate": True, "steps": steps, "rule": rule,
        "metric": metric, "build": build, "rank": rank, "absolute": absolute, "least": least,
        "edges_asked": count, "edges_kept": len(kept), "edges_of": len(scores),
    }  # fmt: skip
    graph = Graph.of(model, tower.name, _some_prompt(model, task))
    name = task.name if isinstance(task, Task) else None
    circuit = Circuit.of(graph, kept, task=name, found=found, kind="edges")
    heads = _heads(graph, map(edge, kept), sizes, tower.heads // tower.kv_heads)
    return Estimated(circuit, scores, sizes, heads)


def _scores(
    model: "Model",
    task: Any,
    steps: int,
    rule: str,
    metric: str,
    first: bool,
    stack: str,
    batch: int,
) -> tuple[dict[Edge, float], dict[Edge, float]]:
    """Means over records of each edge's score and of its size."""

    def of_pair(pair: Pair) -> Edges:
        judge = _judge(model, pair, metric, first)
        return eap_ig_inputs(
            model, pair.clean, pair.corrupted, judge, steps=steps, rule=rule, stack=stack
        )

    total, size, count, last = None, None, 0, None
    given = list(pairs(model, task, "estimated", batch))
    for last in over(model, given, of_pair, "estimated"):
        scores = last.scores.double()
        total = scores.sum(0) if total is None else total + scores.sum(0)
        size = scores.abs().sum(0) if size is None else size + scores.abs().sum(0)
        count += len(scores)
    if last is None or total is None or size is None:
        raise ValueError("the task has no records, so no edge can be scored.")
    return _named(last, total / count), _named(last, size / count)


def _named(like: Edges, mean: Tensor) -> dict[Edge, float]:
    whole = Edges(like.method, like.graph, mean[None], like.nodes, like.notes)
    return {edge(name): score for name, score in whole.by_name().items()}


def _judge(model: "Model", pair: Pair, metric: str, first: bool) -> Any:
    if metric != "kl":
        return pair.metric(model, metric, first)
    with torch.no_grad():
        return _Kept("kl", reference=model.logits(pair.clean)).bind(model, pair.clean)


def _heads(
    graph: Graph, kept: Any, sizes: dict[Edge, float], sharing: int
) -> dict[tuple[int, int], float]:
    heads = {(at, one): 0.0 for at, count in enumerate(graph.heads) for one in range(count)}
    for one in kept:
        if one.source.kind == "head":
            # The edges into heads that share a key are one score, given to each of them.
            part = sizes[one] / (sharing if one.part in ("k", "v") else 1)
            heads[one.source.layer, one.source.head] += part
    return heads


def _some_prompt(model: "Model", task: Any) -> Any:
    return next(pairs(model, task[:1] if isinstance(task, Task) else task, "estimated")).clean


def _count(edges: int | None, share: float, most: int) -> int:
    if edges is None:
        if not 0 < share <= 1:
            raise ValueError(f"share={share}: of all edges, above 0 and up to 1.")
        return max(1, round(share * most))
    if isinstance(edges, bool) or not isinstance(edges, int) or not 1 <= edges <= most:
        raise ValueError(f"edges={edges!r}: a whole number from 1 to {most}, all that there are.")
    return edges


def _check(
    metric: str, build: str, rank: str, absolute: bool, least: float, steps: int, rule: str
) -> None:
    for noun, given, known in (
        ("metric", metric, SCORED), ("build", build, list(BUILDS)), ("rank", rank, RANKS)
    ):  # fmt: skip
        if given not in known:
            raise LookupError(unknown(noun, given, list(known)))
    fractions(steps, rule)
    if not least >= 0:
        raise ValueError(f"least={least}: the size that an edge needs, 0 or more.")
    if rank == "size" and not absolute:
        raise ValueError("rank='size' has no signs: absolute=False goes with rank='score'.")
