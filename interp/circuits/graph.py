"""A model as a graph: what writes to the residual stream, what reads from it, and the edges between.

Sources are the embedding, every head and every MLP; destinations are the q, k and v input of every
head (one for each query head, whatever keys they share), the input of every MLP, and the logits.
"""

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from interp.asking import choose_stack
from interp.making import weights_digest
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.tokens import vocabulary

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

KINDS = ("embed", "head", "mlp", "logits")
PARTS = ("q", "k", "v")
_NODE = re.compile(r"(?P<layer>\d+)\.(?P<head>\d+)|mlp (?P<mlp>\d+)|embed|logits")


@dataclass(frozen=True)
class Node:
    """A head, an MLP, the embedding or the logits: "2.3", "mlp 2", "embed", "logits"."""

    kind: str
    layer: int = 0
    head: int = 0

    def __str__(self) -> str:
        if self.kind == "head":
            return f"{self.layer}.{self.head}"
        return f"mlp {self.layer}" if self.kind == "mlp" else self.kind

    __repr__ = __str__

    def __lt__(self, other: "Node") -> bool:
        return self.order < other.order

    @property
    def order(self) -> tuple[int, int, int]:
        """As they run; the heads of a layer before its MLP."""
        outer = {"embed": -1, "logits": 1}.get(self.kind, 0)
        return outer, 0 if outer else self.layer, 1000000 if self.kind == "mlp" else self.head


EMBED, LOGITS = Node("embed"), Node("logits")


@dataclass(frozen=True)
class Edge:
    """What a source writes, as a destination reads it: "0.2->2.1.k", "embed->mlp 0"."""

    source: Node
    target: Node
    part: str = ""  # q, k or v of a head

    def __str__(self) -> str:
        return f"{self.source}->{self.target}{'.' if self.part else ''}{self.part}"

    __repr__ = __str__

    def __lt__(self, other: "Edge") -> bool:
        return self.order < other.order

    @property
    def order(self) -> tuple[Any, ...]:
        """As the ends run: by target, its input, and source."""
        return self.target.order, self.part, self.source.order


Part = Node | Edge


def node(given: Any) -> Node:
    """A node from itself, from its name, or a head from (layer, head)."""
    if isinstance(given, Node):
        return given
    if isinstance(given, str) and (found := _NODE.fullmatch(given)):
        if found["head"] is not None:
            return Node("head", int(found["layer"]), int(found["head"]))
        return Node(given) if found["mlp"] is None else Node("mlp", int(found["mlp"]))
    if isinstance(given, tuple) and len(given) == 2 and all(isinstance(one, int) for one in given):
        return Node("head", *given)
    raise ValueError(
        f"{given!r} is no node: heads are '2.3' or (2, 3) (layer, head), MLPs 'mlp 2', and there are "
        "'embed' and 'logits'."
    )


def edge(given: Any) -> Edge:
    """An edge from itself or from its name."""
    if isinstance(given, Edge):
        return given
    source, arrow, target = given.partition("->") if isinstance(given, str) else ("", "", "")
    name, dot, part = target.rpartition(".")
    if arrow and dot and part in PARTS:
        return Edge(node(source), node(name), part)
    if arrow:
        return Edge(node(source), node(target))
    raise ValueError(f"{given!r} is no edge: '0.2->2.1.k', 'embed->mlp 0', 'mlp 1->logits'.")


@dataclass(frozen=True)
class Graph:
    """The parts of one stack of a model, by its weights."""

    model: str
    weights: str
    stack: str
    heads: tuple[int, ...]  # of each layer; 0 where it has no attention
    mlps: tuple[bool, ...]
    parallel: bool | None = None  # attention and MLP read the same input; None: not found out

    @classmethod
    def of(cls, model: "Model", stack: str | None = None, prompt: Prompt | None = None) -> "Graph":
        """The model's main stack, or the named one.

        One forward tells whether an MLP reads what the heads of its layer write; `prompt` is for
        models that do not run on a single token.
        """
        tower = choose_stack(model.stacks, stack, model.name)
        layers = [tower.layers.get(number) for number in range(tower.size)]
        heads = tuple(tower.heads if one and one.attention is not None else 0 for one in layers)
        mlps = tuple(bool(one and one.mlp is not None) for one in layers)
        parallel = _reads_apart(model, tower, heads, mlps, prompt)
        return cls(model.name, weights_digest(model.plain), tower.name, heads, mlps, parallel)

    @functools.cached_property
    def nodes(self) -> frozenset[Node]:
        """Heads and MLPs: what a circuit of nodes is made of."""
        heads = {
            Node("head", at, one) for at, count in enumerate(self.heads) for one in range(count)
        }
        return frozenset(heads | {Node("mlp", at) for at, there in enumerate(self.mlps) if there})

    @functools.cached_property
    def edges(self) -> frozenset[Edge]:
        """Every edge from a source to a later destination."""
        return frozenset(self._edges())

    def before(self, target: Node) -> list[Node]:
        """The sources that a destination reads, as they run."""
        return [source for source in [EMBED, *sorted(self.nodes)] if self._reads(target, source)]

    def _edges(self) -> Iterator[Edge]:
        for target in [*self.nodes, LOGITS]:
            for source in self.before(target):
                for part in PARTS if target.kind == "head" else ("",):
                    yield Edge(source, target, part)

    def _reads(self, target: Node, source: Node) -> bool:
        if source.kind == "embed" or target.kind == "logits":
            return True
        if source.layer != target.layer:
            return source.layer < target.layer
        if target.kind != "mlp" or source.kind != "head":
            return False
        if self.parallel is None:
            raise ValueError(
                f"whether an MLP of {self.model} reads the heads of its own layer was not found out, since "
                "it does not run on a single token: Graph.of(model, prompt=...)."
            )
        return not self.parallel


@torch.no_grad()
def _reads_apart(
    model: "Model",
    tower: "Stack",
    heads: tuple[int, ...],
    mlps: tuple[bool, ...],
    prompt: Prompt | None,
) -> bool | None:
    """Whether what attention writes leaves the MLP of its own layer as it is."""
    both = [at for at, there in enumerate(mlps) if there and heads[at]]
    if prompt is None and model.kind in ("text", "vlm", "encoder"):
        prompt = Prompt.from_inputs(
            model, {"input_ids": torch.full((1, 2), vocabulary(model) // 2, device=model.device)}
        )
    if prompt is None or not both or any(tower.layers[at].out is None for at in both):
        return None

    def move(value: torch.Tensor, at: At) -> torch.Tensor:
        return value + value.abs().mean() + torch.arange(value.shape[-1]).to(value)

    plain = model.trace(prompt, "mlp_out", layers=both[:1], stack=tower.name)
    hook = Hook("attn_out", move, both[:1], tower.name)
    moved = model.trace(prompt, "mlp_out", layers=both[:1], stack=tower.name, hooks=hook)
    return bool(torch.equal(plain["mlp_out", both[0]], moved["mlp_out", both[0]]))
