"""What each node is worth by itself: knocked out alone, with what stands in for parts outside a circuit.

runs = NodeRuns(model, task, Instead("mean", groups="template"))
knocked_out(runs).share  # 1: without it the task is done as badly as without any head
"""

from typing import Any

import torch
from torch import Tensor

from interp.circuits.graph import Node
from interp.circuits.nodes import NodeRuns
from interp.circuits.replaced import Replaced
from interp.circuits.search import NodeEffects


def knocked_out(runs: NodeRuns, **settings: Any) -> NodeEffects:
    """The metric with each part of `runs` replaced alone, at all positions: an exact sweep.

    `start` is the whole model and `goal` the run with every part replaced, so that a `share` below 0
    is of a part that works against the answer. `settings` go to `model.sweep` (budget, progress, ...).
    """
    nodes = tuple(sorted(one for one in runs.parts if isinstance(one, Node)))
    patched = torch.empty(len(nodes), runs.count)
    for one in runs.batches:
        patched[:, list(one.numbers)] = _batch(runs, nodes, one, settings)
    return NodeEffects(nodes, runs.values(runs.parts), runs.values(()), patched)


def _batch(
    runs: NodeRuns, nodes: tuple[Node, ...], one: Replaced, settings: dict[str, Any]
) -> Tensor:
    """[node, row] of one batch."""
    found: dict[Node, Tensor] = {}
    for kind, site in (("head", "z"), ("mlp", "mlp_out")):
        layers = sorted({each.layer for each in nodes if each.kind == kind})
        if not layers:
            continue
        take = {layer: one.values[site, layer] for layer in layers}
        over = ("layer", "head") if kind == "head" else ("layer",)
        grid = runs.model.sweep(
            one.prompt, site, take=take, over=over, metric=one.metric, layers=layers,
            stack=runs.graph.stack, **settings,
        )  # fmt: skip
        for each in nodes:
            if each.kind == kind:
                at = grid[:, layers.index(each.layer)]
                found[each] = at[:, each.head] if kind == "head" else at
    return torch.stack([found[each].cpu().float() for each in nodes])
