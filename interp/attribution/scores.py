"""From gradients at destinations and changes of sources to a score for each edge."""

import torch
from torch import Tensor, nn

from interp.attribution.contrast import Contrast, Key, precise
from interp.attribution.graph import Graph, Node
from interp.attribution.reads import ROLES, Reader, inputs, wanted
from interp.attribution.steps import Step

HEADS, MLP, LOGITS = "heads", "mlp", "logits"


class Scores:
    """Sums, over steps, of each source's change times the gradient at each destination.

    Gradients of steps that tell of the same sources are added up before they meet the changes, which
    is the dearest product: it is made once, however many steps there are.
    """

    def __init__(self, given: Contrast, changes: Tensor, found: list[Reader]):
        self.given, self.changes, self.readers = given, changes, found
        self.graph, self.places = Graph(), dict[Key, slice]()
        for reader in found:
            self._place(reader)
        self.last = found[-1].layer
        self.places[LOGITS, self.last] = self.graph.read_by([Node(LOGITS)])
        batch, sources = changes.shape[0], len(self.graph.sources)
        self.edges = torch.zeros(batch, sources, len(self.graph.destinations), dtype=changes.dtype)
        self.nodes = self.edges.new_zeros(batch, sources)
        self._part: tuple[str, int] | None = None
        self._read: dict[Key, Tensor] = {}  # gradients at destinations, [destination, batch, ...]
        self._written: dict[Key, Tensor] = {}  # and where sources write, [1, batch, ...]

    def _place(self, reader: Reader) -> None:
        graph, layer, heads = self.graph, reader.layer, reader.heads["q"]
        asked = [
            Node(role, layer, head, reader.heads[role] < heads)
            for role in ROLES
            for head in range(reader.heads[role])
        ]
        writing = [Node("head", layer, head) for head in range(heads)]
        self.places[HEADS, layer] = graph.read_by(asked)
        graph.sources += [] if reader.parallel else writing
        self.places[MLP, layer] = graph.read_by([Node("mlp", layer)])
        graph.sources += writing if reader.parallel else []
        graph.sources.append(Node("mlp", layer))

    def add(self, step: Step) -> None:
        """One step's gradients; of a step of one part, the edges that leave this part count."""
        if step.part != self._part:
            self.finish()
            self._part = step.part
        ran = step.ran
        after = [one for one in self.readers if step.part is None or one.layer >= step.part[1]]
        stops = {key: value for one in after for key, value in wanted(ran, one).items()}
        grads = dict(zip(stops, ran.gradients(list(stops.values())), strict=True))
        known: dict[Key | nn.Module, Tensor] = {
            key: torch.zeros_like(stops[key]) if grad is None else grad
            for key, grad in grads.items()
        }
        for reader in after:
            found, layer = inputs(self.given, ran, reader, known), reader.layer
            heads = [grad for role in ROLES for grad in found.heads[role]]
            _sum(self._read, (HEADS, layer), heads, step.weight)
            _sum(self._read, (MLP, layer), [found.mlp], step.weight)
            middle = known["attn_out", layer] / reader.scales.attention
            _sum(self._written, (HEADS, layer), [middle], step.weight)
            _sum(self._written, (MLP, layer), [known["resid_post", layer]], step.weight)
        _sum(self._read, (LOGITS, self.last), [known["resid_post", self.last]], step.weight)
        first = after[0].layer
        _sum(self._written, ("embed", first), [known["resid_pre", first]], step.weight)

    def finish(self) -> None:
        """Let the gradients so far meet the changes of the sources that they tell of."""
        own = self._own()
        for key, grads in self._read.items():
            places = self.places[key]
            before = slice(own.start, min(own.stop, self.graph.reads[places.start]))
            if before.start < before.stop:
                changes = self.changes[:, before]
                score = torch.bmm(changes, grads.flatten(2).permute(1, 2, 0).to(changes))
                self.edges[:, before, places] += score.to(self.edges)
        for place in range(own.start, own.stop):
            node = self.graph.sources[place]
            key = (HEADS if node.kind == "head" else node.kind, node.layer)
            grad = next(of for (kind, layer), of in self._written.items() if kind == key[0]
                        and key[1] in (None, layer))  # fmt: skip
            change = self.changes[:, place]
            self.nodes[:, place] += (change * grad[0].flatten(1).to(change)).sum(-1).to(self.nodes)
        self._read, self._written = {}, {}

    def _own(self) -> slice:
        """The sources that the gradients so far tell of."""
        if not self._read:
            return slice(0, 0)
        if self._part is None:
            return slice(0, len(self.graph.sources))
        site, layer = self._part
        kind = {"z": "head", "mlp_out": "mlp"}.get(site, "embed")
        own = [
            place
            for place, node in enumerate(self.graph.sources)
            if node.kind == kind and node.layer in (None, layer)
        ]
        return slice(own[0], own[-1] + 1)

    def notes(self) -> list[str]:
        slow = [reader.layer for reader in self.readers if reader.slices is None]
        return [] if not slow else [
            f"In layers {slow} heads do not read columns of their own, so that a backward was made for "
            "each head: slower, and as exact."
        ]  # fmt: skip


def _sum(total: dict[Key, Tensor], key: Key, grads: list[Tensor], weight: float) -> None:
    if key not in total:
        total[key] = precise(grads[0].new_zeros(len(grads), *grads[0].shape))
    for row, grad in zip(total[key], grads, strict=True):
        row.add_(grad, alpha=weight)
