"""Running a circuit of nodes: all heads, and MLPs if asked, that are outside of it are replaced."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.circuits.graph import Graph, Node, Part, node
from interp.circuits.places import places
from interp.circuits.record import Circuit
from interp.circuits.replaced import Instead, Replaced, read
from interp.sites import At, Hook
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model


class NodeRuns:
    """`runs.mean(circuit)` is F(C): the metric's mean with everything outside the circuit replaced.

        runs = NodeRuns(model, task, Instead("mean", groups="template"))
        faithfulness(runs, circuit)

    Heads outside are replaced at all positions, heads inside at those that are not theirs. MLPs are all
    kept (`mlps="kept"`), or count as parts ("parts"). The embedding is never replaced.
    """

    def __init__(
        self,
        model: "Model",
        task: Any,
        instead: Instead | str = "patch",
        mlps: str = "kept",
        metric: Any = "logit_diff",
        batch: int = 16,
        stack: str | None = None,
    ):
        if mlps not in ("kept", "parts"):
            raise ValueError(f"mlps={mlps!r}: 'kept' (never replaced), or 'parts' (like heads).")
        self.model = model
        self.graph = Graph.of(model, stack)
        self.instead = Instead(instead) if isinstance(instead, str) else instead
        self.batches = self.instead.of(model, task, "a circuit's run", metric, batch, stack)
        self.count = sum(len(one.numbers) for one in self.batches)
        self.task = getattr(task, "name", None) if isinstance(task, Task) else None
        kinds = ("head",) if mlps == "kept" else ("head", "mlp")
        self.parts: frozenset[Part] = frozenset(
            one for one in self.graph.nodes if one.kind in kinds
        )
        self._known: dict[Any, Tensor] = {}

    def values(self, kept: Circuit | Iterable[Any]) -> Tensor:
        """The metric of each record, in the order of the task, with everything else replaced."""
        where = {}
        if isinstance(kept, Circuit):
            kept.check(self.graph)
            if kept.kind == "edges":
                raise ValueError("this is a circuit of edges: EdgeRuns run it.")
            where = kept.positions
            kept = kept.nodes
        chosen = frozenset(node(one) for one in kept)
        if lost := sorted(str(one) for one in chosen - self.graph.nodes):
            raise LookupError(f"{self.graph.model} has no node {', '.join(lost)}.")
        if idle := sorted(str(one) for one in chosen - self.parts):
            raise ValueError(
                f"the circuit holds {', '.join(idle)}, and these runs keep every MLP whether it is in the "
                "circuit or not: NodeRuns(..., mlps='parts') lets them count; or leave MLPs out of it."
            )
        key = chosen, frozenset((one, at) for one, at in where.items() if one in chosen)
        if key not in self._known:
            self._known[key] = self._run(chosen, dict(key[1]))
        return self._known[key]

    def mean(self, kept: Circuit | Iterable[Any]) -> float:
        """The mean metric over records with only these nodes kept."""
        return float(self.values(kept).mean())

    def _run(self, kept: frozenset[Node], where: dict[Node, Any]) -> Tensor:
        found = torch.empty(self.count)
        for one in self.batches:
            masks = self._masks(one, kept, where)
            with torch.no_grad():
                logits = self.model.logits(one.prompt, hooks=self._hooks(one, masks))
            found[list(one.numbers)] = read(one.metric, logits, one.prompt).cpu()
        return found

    def _masks(
        self, one: Replaced, kept: frozenset[Node], where: dict[Node, Any]
    ) -> dict[tuple[str, int], Tensor]:
        """Where each part stays as it is, [row, position, head] or [row, position]."""
        masks = {}
        device = self.model.device
        for part in self.parts:
            assert isinstance(part, Node)
            site = "z" if part.kind == "head" else "mlp_out"
            value = one.values[site, part.layer]
            if (site, part.layer) not in masks:
                shape = value.shape[: 3 if site == "z" else 2]
                masks[site, part.layer] = torch.zeros(shape, dtype=torch.bool, device=device)
            if part not in kept:
                continue
            at = places(one.prompt, where.get(part, "all")).to(device)
            own = masks[site, part.layer]
            (own[..., part.head] if site == "z" else own).copy_(at)
        return masks

    def _hooks(self, one: Replaced, masks: dict[tuple[str, int], Tensor]) -> list[Hook]:
        def put(value: Tensor, at: At) -> Tensor:
            mask, other = masks[at.site, at.layer], one.values[at.site, at.layer]
            return torch.where(mask[..., None], value, other)

        return [
            Hook(site, put, [layer], self.graph.stack)
            for (site, layer), mask in sorted(masks.items())
            if not bool(mask.all())
        ]
