"""A circuit as a record: which parts of which model, for which task, and how they were found."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from interp.circuits.graph import Edge, Graph, Node, Part, edge, node
from interp.making import weights_digest
from interp.result import json_value

if TYPE_CHECKING:
    from interp.model import Model

FORMAT = 1
Where = tuple[str | int, ...]


@dataclass(frozen=True, eq=True)
class Circuit:
    """Nodes, or edges, of one stack of one model.

        circuit = Circuit.of(graph, ["0.2", "2.1", "mlp 3"], positions={"2.1": ("last",)})

    `positions` of a head or MLP are spans of the prompt or indices (negative ones from its end), where
    it is kept; without any it is kept everywhere. The embedding and the logits are part of every
    circuit of nodes, and are not listed.
    """

    model: str
    weights: str  # digest of the model's weights
    stack: str
    parts: frozenset[Part]
    kind: str = "nodes"  # or "edges"
    positions: Mapping[Node, Where] = field(default_factory=dict, hash=False)
    task: str | None = None
    found: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "positions", MappingProxyType(dict(self.positions)))
        object.__setattr__(self, "found", MappingProxyType(dict(self.found)))

    @classmethod
    def of(
        cls,
        graph: Graph,
        parts: Iterable[Any],
        positions: Mapping[Any, Any] | None = None,
        task: str | None = None,
        found: Mapping[str, Any] | None = None,
        kind: str | None = None,
    ) -> "Circuit":
        """Parts by name or as they are, checked against the model's graph: all nodes, or all edges.

        `kind` ("nodes" or "edges") has to be said only of a circuit without parts.
        """
        parts = [parts] if isinstance(parts, (str, Node, Edge)) else list(parts)
        chosen = frozenset(part_of(one) for one in parts)
        kinds = {type(one) for one in chosen}
        if len(kinds) > 1:
            raise ValueError("a circuit holds nodes or edges, not both.")
        own = "edges" if kinds == {Edge} else "nodes"
        if kind not in (None, own) and (chosen or kind not in ("nodes", "edges")):
            raise ValueError(f"kind={kind!r}: this is a circuit of {own}.")
        kind = kind or own
        known: frozenset[Part] = graph.edges if kind == "edges" else graph.nodes
        if lost := sorted(str(one) for one in chosen - known):
            raise LookupError(
                f"{graph.model} has no {', '.join(lost)}: {len(graph.heads)} layers of up to "
                f"{max(graph.heads)} heads, in its {graph.stack} stack."
            )
        where = {node(one): _where(at) for one, at in (positions or {}).items()}
        if outside := sorted(str(one) for one in where.keys() - chosen):
            raise ValueError(
                f"positions are given for {', '.join(outside)}, no node of the circuit."
            )
        return cls(graph.model, graph.weights, graph.stack, chosen, kind, where, task, found or {})

    @property
    def nodes(self) -> frozenset[Node]:
        """The heads and MLPs; of a circuit of edges, those at their ends."""
        ends: set[Node] = set()
        for one in self.parts:
            ends |= {one.source, one.target} if isinstance(one, Edge) else {one}
        return frozenset(one for one in ends if one.kind in ("head", "mlp"))

    @property
    def heads(self) -> frozenset[tuple[int, int]]:
        """Its heads as (layer, head); none where it is of edges."""
        return frozenset((one.layer, one.head) for one in self.nodes if one.kind == "head")

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Any]:
        return iter(sorted(self.parts, key=lambda one: one.order))

    def __contains__(self, given: object) -> bool:
        return part_of(given) in self.parts

    def __repr__(self) -> str:
        shown = ", ".join(str(one) for one in list(self)[:8])
        more = ", ..." if len(self) > 8 else ""
        return f"Circuit({self.model}: {len(self)} {self.kind}: {shown}{more})"

    def minus(self, parts: Iterable[Any]) -> "Circuit":
        """Without these; parts that it does not hold are passed over."""
        return self._of(self.parts - {part_of(one) for one in parts})

    def plus(self, parts: Iterable[Any]) -> "Circuit":
        """The circuit with more parts."""
        return self._of(self.parts | {part_of(one) for one in parts})

    def complement(self, graph: Graph) -> "Circuit":
        """All parts of the model that it does not hold."""
        self.check(graph)
        return self._of((graph.edges if self.kind == "edges" else graph.nodes) - self.parts)

    def share(self, graph: Graph) -> float:
        """Of all nodes, or edges, of the model."""
        self.check(graph)
        return len(self) / len(graph.edges if self.kind == "edges" else graph.nodes)

    def _of(self, parts: Iterable[Part]) -> "Circuit":
        kept = frozenset(parts)
        if any(isinstance(one, Edge) != (self.kind == "edges") for one in kept):
            raise ValueError(f"this is a circuit of {self.kind}, and holds nothing else.")
        positions = {one: at for one, at in self.positions.items() if one in kept}
        return replace(self, parts=kept, positions=positions)

    def check(self, owner: "Model | Graph") -> None:
        """Refuse a model that is not the circuit's."""
        weights = owner.weights if isinstance(owner, Graph) else weights_digest(owner.plain)
        name = owner.model if isinstance(owner, Graph) else owner.name
        if weights != self.weights:
            raise ValueError(
                f"this circuit is of {self.model} with weights {self.weights}, and {name} has weights "
                f"{weights}; load the model that it was found in, or find one here."
            )

    def save(self, path: str | Path) -> Path:
        """Write it as JSON."""
        path = Path(path).expanduser()
        row = {
            "format": FORMAT,
            "model": self.model,
            "weights": self.weights,
            "stack": self.stack,
            "task": self.task,
            self.kind: [str(one) for one in self],
            "positions": {str(one): list(self.positions[one]) for one in sorted(self.positions)},
            "found": json_value(self.found),
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(row, indent=1, allow_nan=False))
        return path

    @classmethod
    def load(cls, path: str | Path, model: "Model | None" = None) -> "Circuit":
        """A saved circuit; with `model`, refused if it is of another one."""
        path = Path(path).expanduser()
        try:
            row = json.loads(path.read_text())
        except json.JSONDecodeError as problem:
            raise ValueError(f"{str(path)!r} holds no circuit: {problem}") from None
        if (
            not isinstance(row, dict)
            or row.get("format") != FORMAT
            or not {"nodes", "edges"} & row.keys()
        ):
            raise ValueError(
                f"{str(path)!r} holds no circuit that this version (format {FORMAT}) reads."
            )
        kind = "edges" if "edges" in row else "nodes"
        parts = frozenset(part_of(one) for one in row[kind])
        positions = {node(one): tuple(at) for one, at in row["positions"].items()}
        found = cls(row["model"], row["weights"], row["stack"], parts, kind, positions, row["task"],
                    row["found"])  # fmt: skip
        if model is not None:
            found.check(model)
        return found


def part_of(given: Any) -> Part:
    """A node or an edge, from itself or its name."""
    return edge(given) if isinstance(given, Edge) or "->" in str(given) else node(given)


def _where(given: Any) -> Where:
    where = (given,) if isinstance(given, (str, int)) else tuple(given)
    if not where or not all(isinstance(one, (str, int)) for one in where):
        raise ValueError(f"positions are spans or indices, one or several, not {given!r}.")
    return where
