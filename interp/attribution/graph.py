"""The parts of a transformer as a graph: who writes into the residual stream, and who reads it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Node:
    """What writes ("embed", "head", "mlp") or reads ("q", "k", "v", "mlp", "logits") the stream.

    Named as the nodes of circuits: embed, 2.3, mlp 2; 2.3.q, mlp 2, logits. Where query heads share
    keys and values, those of KV head 1 are 2.g1.k and 2.g1.v: one input, which all of them read.
    """

    kind: str
    layer: int | None = None
    head: int | None = None
    grouped: bool = False  # `head` counts KV heads that several query heads share

    @property
    def name(self) -> str:
        """As circuits name it: "2.1", "mlp 0", "2.g0.v" for a value that query heads share."""
        if self.head is None:
            return self.kind if self.layer is None else f"{self.kind} {self.layer}"
        part = "" if self.kind == "head" else f".{self.kind}"
        return f"{self.layer}.{'g' if self.grouped else ''}{self.head}{part}"

    def ungrouped(self, heads: int) -> list["Node"]:
        """The same input, once for each query head that reads it."""
        if not self.grouped or self.head is None:
            return [self]
        first = self.head * heads
        return [Node(self.kind, self.layer, head) for head in range(first, first + heads)]


@dataclass(eq=False)
class Graph:
    """Sources in the order in which they write, and how many of them each destination reads."""

    sources: list[Node] = field(default_factory=lambda: [Node("embed")])
    destinations: list[Node] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)  # of each destination: sources written before

    def read_by(self, readers: list[Node]) -> slice:
        """Add destinations that read all that has been written so far; their places."""
        first = len(self.destinations)
        self.destinations += readers
        self.reads += [len(self.sources)] * len(readers)
        return slice(first, len(self.destinations))

    @property
    def exists(self) -> Tensor:
        """True where there is an edge, [source, destination]."""
        order = torch.arange(len(self.sources))
        return order[:, None] < torch.tensor(self.reads)[None]


@dataclass(eq=False)
class Edges:
    """Estimated scores of edges: how much the loss (less the metric) rises when one is corrupted.

    `scores` is [batch, source, destination], 0 where there is no edge (`exists`); `nodes`
    [batch, source] scores a source by the gradient at its own output, which is the sum of the edges
    that leave it. A positive score says that corrupting it hurts: the sign is the opposite of that of
    `Nodes`, whose effects are of the metric.
    """

    method: str
    graph: Graph
    scores: Tensor
    nodes: Tensor
    notes: list[str]

    def __repr__(self) -> str:
        return f"Edges({self.method}, estimates: {int(self.exists.sum())} edges)"

    @property
    def sources(self) -> list[Node]:
        """Nodes that edges leave, in the order of the rows."""
        return self.graph.sources

    @property
    def destinations(self) -> list[Node]:
        """Inputs that edges reach, in the order of the columns."""
        return self.graph.destinations

    @property
    def exists(self) -> Tensor:
        """True where there is an edge, [source, destination]."""
        return self.graph.exists

    def by_name(self) -> dict[str, float]:
        """Mean scores by the names that circuits go by: "0.2->2.1.k", "embed->mlp 0".

        A key or value input that query heads share gives its score to the edge into each of them.
        """
        mean = self.scores.mean(0).tolist()
        shared = {
            node.layer: sum(
                one.kind == "q" and one.layer == node.layer for one in self.destinations
            )
            // sum(one.kind == "k" and one.layer == node.layer for one in self.destinations)
            for node in self.destinations
            if node.grouped
        }
        named: dict[str, float] = {}
        for source, destination in self.exists.nonzero().tolist():
            one, other = self.sources[source], self.destinations[destination]
            for target in other.ungrouped(shared.get(other.layer, 1)):
                named[f"{one.name}->{target.name}"] = mean[source][destination]
        return named

    def table(self, top: int | None = None) -> "pandas.DataFrame":
        """Edges by the size of their mean score over examples, the largest first."""
        return edge_table(self.method, self.graph, self.scores.mean(0), top)


def edge_table(
    method: str, graph: Graph, mean: Tensor, top: int | None = None
) -> "pandas.DataFrame":
    """Edges by the size of their score [source, destination], the largest first."""
    import pandas

    mean = mean.detach().float().cpu()
    places = graph.exists.nonzero()
    sizes = mean[places[:, 0], places[:, 1]].abs()
    places = places[sizes.argsort(descending=True, stable=True)[:top]]
    rows: list[dict[str, Any]] = []
    for source, destination in places.tolist():
        one, other = graph.sources[source], graph.destinations[destination]
        score = float(mean[source, destination])
        rows.append(
            {"source": one.name, "destination": other.name, "method": method, "score": score,
             "from_layer": one.layer, "to_layer": other.layer, "estimate": True}
        )  # fmt: skip
    table = pandas.DataFrame(rows)
    return table.astype({"from_layer": "Int64", "to_layer": "Int64"}) if len(table) else table
