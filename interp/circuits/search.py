"""The plainest way to a circuit: patch one node at a time, exactly, and keep those that matter.

Nodes that back each other up are missed by noising and found by denoising; of a chain in which every
link is needed, denoising finds a link only where it suffices by itself (Heimersheim and Nanda 2024,
arXiv 2404.15255). So both directions are worth asking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.circuits.graph import Graph, Node
from interp.circuits.record import Circuit
from interp.circuits.replaced import read
from interp.pairs import pairs
from interp.registry import unknown
from interp.statistics import standard_error
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

DIRECTIONS = ("noising", "denoising")


@dataclass(frozen=True, eq=False)
class NodeEffects:
    """The metric with one node patched, beside both plain runs; rows are the task's records.

    `start` is the run that is patched into and `goal` the one whose values are put there.
    """

    nodes: tuple[Node, ...]
    start: Tensor  # [record]
    goal: Tensor  # [record]
    patched: Tensor  # [node, record]

    @property
    def share(self) -> dict[Node, float]:
        """How far each node alone moves the mean from start to goal: 0 nothing, 1 all the way.

        Of noising that is damage, of denoising it is what is restored.
        """
        return dict(zip(self.nodes, self._shares().tolist(), strict=True))

    @property
    def share_error(self) -> Tensor:
        """The standard error of each share, a ratio of means, [node]; not a number for one record."""
        way = self.goal - self.start
        rest = (self.patched - self.start) - self._shares()[:, None] * way
        return standard_error(rest.T) / way.mean().abs()

    def _shares(self) -> Tensor:
        return (self.patched - self.start).mean(1) / (self.goal - self.start).mean()


def node_effects(
    model: "Model",
    task: Any,
    direction: str = "noising",
    metric: str = "logit_diff",
    batch: int = 16,
    stack: str | None = None,
    first: bool = False,
    kinds: Sequence[str] = ("head", "mlp"),
    **settings: Any,
) -> NodeEffects:
    """Every head (its z) and every MLP, one at a time, at all positions; or one of the `kinds`. Exact.

    "noising" puts the counterfactual's value into the clean run: is the node needed? "denoising" puts
    the clean value into the counterfactual's run: does it suffice? `settings` go to `model.sweep`.
    """
    if direction not in DIRECTIONS:
        raise LookupError(unknown("direction", direction, list(DIRECTIONS)))
    graph = Graph.of(model, stack)
    nodes = tuple(sorted(one for one in graph.nodes if one.kind in kinds))
    parts, numbers = [], []
    for pair in pairs(model, task, "node_effects", batch):
        own, other = pair.clean, pair.corrupted
        if direction == "denoising":
            own, other = other, own
        judge = pair.metric(model, metric, first)
        parts.append(_effects(model, graph, nodes, own, other, judge, settings))
        numbers += pair.numbers
    order = torch.tensor(numbers).argsort()
    start, goal, patched = (
        torch.cat([one[at] for one in parts], -1)[..., order] for at in range(3)
    )
    return NodeEffects(nodes, start, goal, patched)


def _effects(
    model: "Model",
    graph: Graph,
    nodes: tuple[Node, ...],
    own: Any,
    other: Any,
    metric: Any,
    settings: dict[str, Any],
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one batch: start [row], goal [row] and patched [node, row]."""
    found: dict[Node, Tensor] = {}
    sites = {one.kind: ("z" if one.kind == "head" else "mlp_out") for one in nodes}
    with torch.no_grad():
        trace = model.trace(other, *sites.values(), stack=graph.stack)
    start = torch.empty(0)
    for kind, site in sites.items():
        over = ("layer", "head") if kind == "head" else ("layer",)
        grid = model.sweep(
            own, site, take=trace, over=over, metric=metric, stack=graph.stack, **settings
        )
        start = grid.plain
        for at, layer in enumerate(grid.labels["layer"]):
            if kind == "mlp":
                found[Node("mlp", layer)] = grid[:, at]
                continue
            for head in range(graph.heads[layer]):
                found[Node("head", layer, head)] = grid[:, at, head]
    goal = read(metric, trace.logits, other)
    return start.cpu(), goal.cpu(), torch.stack([found[one].cpu() for one in nodes])


def searched(
    model: "Model", task: Any, least: float = 0.1, direction: str = "noising", **settings: Any
) -> Circuit:
    """The nodes whose exact effect is at least `least` of the whole, either way, as a record."""
    effects = node_effects(model, task, direction, **settings)
    kept = {one: share for one, share in effects.share.items() if abs(share) >= least}
    found = {"method": "exact node effects", "direction": direction, "least": least}
    graph = Graph.of(model, settings.get("stack"))
    named = task.name if isinstance(task, Task) else None
    shares = {str(one): share for one, share in sorted(kept.items())}
    return Circuit.of(graph, kept, task=named, found={**found, "shares": shares})
