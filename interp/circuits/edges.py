"""Running a circuit of edges: every destination reads its own mixture of what was written before.

Along edges of the circuit flows what the running circuit writes, along all others what is put in its
place (Hanna et al. 2024, arXiv 2403.17806): input_v = what has been written so far, plus, for each
edge u -> v that is not in the circuit, (what stands in for u) - (what u wrote).

All destinations of a layer are copies of the rows in one forward: a copy for the query, key and value
input of each head, and one for the MLP and the logits. The stream that each copy's layer receives is
its own; at the seam, a head takes its key and value from the copies that were made for them. So each
layer's own modules do the arithmetic, whatever the family.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.circuits.graph import EMBED, LOGITS, PARTS, Edge, Graph, Node, Part, edge
from interp.circuits.places import repeated
from interp.circuits.record import Circuit
from interp.circuits.replaced import Instead, Replaced, read
from interp.circuits.writing import Writing, first_rows
from interp.sites import At, Hook
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

CLOSE = 1e-4  # of the largest logit, above 1: how far the whole graph may be from the model


class EdgeRuns:
    """`runs.mean(circuit)` is the metric's mean with every edge outside the circuit replaced.

    Refuses a model of which the whole graph does not give the plain run, and no edge at all that of
    the counterfactual.
    """

    def __init__(
        self,
        model: "Model",
        task: Any,
        instead: Instead | str = "patch",
        metric: Any = "logit_diff",
        batch: int = 8,
        stack: str | None = None,
    ):
        self.model = model
        self.instead = Instead(instead) if isinstance(instead, str) else instead
        self.batches = self.instead.of(model, task, "a circuit's run", metric, batch, stack)
        self.graph = Graph.of(model, stack, self.batches[0].prompt)
        self.writing = Writing.of(model, self.graph.stack, self.batches[0].prompt)
        self.count = sum(len(one.numbers) for one in self.batches)
        self.task = getattr(task, "name", None) if isinstance(task, Task) else None
        self.parts: frozenset[Part] = frozenset(self.graph.edges)
        self._known: dict[frozenset[Edge], Tensor] = {}
        self._check()

    def values(self, kept: Circuit | Iterable[Any]) -> Tensor:
        """The metric of each record, in the order of the task."""
        if isinstance(kept, Circuit):
            kept.check(self.graph)
            if kept.kind == "nodes":
                raise ValueError("this is a circuit of nodes: NodeRuns run it.")
            kept = kept.parts
        chosen = frozenset(edge(one) for one in kept)
        if lost := sorted(str(one) for one in chosen - self.graph.edges):
            raise LookupError(f"{self.graph.model} has no edge {', '.join(lost)}.")
        if chosen not in self._known:
            found = torch.empty(self.count)
            for one in self.batches:
                logits = self.logits(one, chosen)
                found[list(one.numbers)] = read(one.metric, logits, one.prompt).cpu()
            self._known[chosen] = found
        return self._known[chosen]

    def mean(self, kept: Circuit | Iterable[Any]) -> float:
        """The mean metric over records with only these edges kept."""
        return float(self.values(kept).mean())

    def logits(self, one: Replaced, kept: frozenset[Edge]) -> Tensor:
        """Of a batch's rows, [row, position, token]."""
        mixed = _Mixed(self.graph, self.writing, one, kept)
        prompt = repeated(self.model, one.prompt, mixed.copies)
        with torch.no_grad(), first_rows(self.model, len(one.prompt)):
            logits = self.model.logits(prompt, hooks=mixed.hooks())
        return logits[: len(one.prompt)]

    def _check(self) -> None:
        one = self.batches[0]
        with torch.no_grad():
            found = [("the whole graph", self.logits(one, self.graph.edges), one.prompt)]
            if one.corrupted is not None:
                found.append(("no edge", self.logits(one, frozenset()), one.corrupted))
            for name, logits, prompt in found:
                plain = self.model.logits(prompt)
                size = max(1.0, float(plain.abs().max()))
                limit = max(CLOSE, 16 * torch.finfo(plain.dtype).eps) * size
                apart = float((logits - plain).abs().max())
                if not apart <= limit:
                    raise ValueError(
                        f"{name} gives logits that are {apart:.2g} from the model's own: what the parts of "
                        f"{type(self.model.hf).__name__} write does not add up to its stream, so its edges "
                        "are not served; circuits of nodes are (NodeRuns)."
                    )


class _Mixed:
    """One forward of all copies: copy 0 is the MLP's and the logits', three for each head follow."""

    def __init__(self, graph: Graph, writing: Writing, batch: Replaced, kept: frozenset[Edge]):
        self.graph, self.writing, self.batch, self.kept = graph, writing, batch, kept
        self.copies = 1 + len(PARTS) * max(graph.heads)
        self.rows = len(batch.prompt)
        self.stream = torch.empty(0)  # what has been written before the layer that runs
        self.apart: dict[Node, Tensor] = {}  # what stands in for a source, less what it wrote
        self.now: dict[Node, tuple[Tensor, Tensor]] = {}  # of the layer that runs: wrote, apart

    def hooks(self) -> list[Hook]:
        stack, layers = self.graph.stack, self.writing.layers
        attending = [at for at in layers if self.graph.heads[at]]
        fed = [at for at in layers if self.graph.mlps[at]]
        found = [Hook("resid_pre", self._enter, layers, stack)]
        for site, fn in (("k", self._join), ("v", self._join), ("z", self._attended)):
            found += [Hook(site, fn, attending, stack)] if attending else []
        found += [Hook("mlp_out", self._fed, fed, stack)] if fed else []
        return [*found, Hook("resid_post", self._leave, [layers[-1]], stack)]

    def _split(self, value: Tensor) -> Tensor:
        """[copy, row, ...]"""
        return value.reshape(self.copies, self.rows, *value.shape[1:])

    def _copy(self, head: int, part: str) -> int:
        return 1 + len(PARTS) * head + PARTS.index(part)

    def _enter(self, value: Tensor, at: At) -> Tensor:
        """The stream that each destination of the layer receives."""
        if at.layer == self.writing.layers[0]:
            self.stream = self._split(value)[0].clone()
            self.apart[EMBED] = self.batch.values["resid_pre", at.layer] - self.stream
        else:
            self._hand_on(at.layer - 1)
        heads = [Node("head", at.layer, head) for head in range(self.graph.heads[at.layer])]
        targets = [(Node("mlp", at.layer), ""), *((head, part) for head in heads for part in PARTS)]
        mixed = self._mixed(targets)
        rest = self.stream.expand(self.copies - len(targets), *self.stream.shape)
        return torch.cat([mixed, rest]).view(value.shape).to(value)

    def _mixed(self, targets: list[tuple[Node, str]]) -> Tensor:
        """What arrives at each target, [target, row, position, d_model]."""
        outside = torch.tensor(
            [
                [Edge(source, *target) not in self.kept for source in self.apart]
                for target in targets
            ]
        )
        apart = torch.stack(list(self.apart.values()))
        return self.stream + torch.einsum("vs,sbtd->vbtd", outside.to(apart), apart)

    def _join(self, value: Tensor, at: At) -> Tensor:
        """A head's query meets the key and value that were made for the same head."""
        copies = self._split(value.clone())
        heads = self.graph.heads[at.layer]
        for head in range(heads):
            shared = head // (heads // value.shape[2])
            copies[self._copy(head, "q"), :, :, shared] = copies[
                self._copy(head, at.site), :, :, shared
            ]
        return copies.view(value.shape)

    def _attended(self, value: Tensor, at: At) -> Tensor:
        """Each head writes its own copy's z; the MLP reads what its edges let through."""
        copies = self._split(value.clone())
        heads = [Node("head", at.layer, head) for head in range(self.graph.heads[at.layer])]
        own = torch.stack([copies[self._copy(one.head, "q"), :, :, one.head] for one in heads], 2)
        other = self.batch.values["z", at.layer]
        wrote, apart = (self.writing.of_heads(at.layer, z) for z in (own, other - own))
        for one in heads:
            self.now[one] = wrote[one.head], apart[one.head]
            through = Edge(one, Node("mlp", at.layer)) in self.kept
            copies[0, :, :, one.head] = (own if through else other)[:, :, one.head]
        return copies.view(value.shape)

    def _fed(self, value: Tensor, at: At) -> None:
        own, other = self._split(value)[0], self.batch.values["mlp_out", at.layer]
        wrote, apart = (self.writing.of_mlp(at.layer, out) for out in (own, other - own))
        self.now[Node("mlp", at.layer)] = wrote, apart

    def _hand_on(self, layer: int) -> None:
        """What the layer wrote joins the stream."""
        self.stream = self.stream + sum(wrote for wrote, _ in self.now.values())
        self.stream = self.stream + self.writing.constant[layer]
        self.apart |= {one: apart for one, (_, apart) in self.now.items()}
        self.now.clear()

    def _leave(self, value: Tensor, at: At) -> Tensor:
        """The logits read their own mixture; only the first copy's are looked at."""
        self._hand_on(at.layer)
        copies = self._split(value.clone())
        copies[0] = self._mixed([(LOGITS, "")])[0]
        return copies.view(value.shape)
