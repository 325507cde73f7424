"""Overlaps of circuits, their heads beside each other, and circuits on each other's tasks."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas

from analyses.circuit.tables import head_table as own_heads
from analyses.circuit.tables import heads_of
from analyses.circuit_reuse.asked import pairs_of
from interp.circuits.curves import overlap
from interp.circuits.graph import Node
from interp.circuits.judging import faithfulness
from interp.statistics import NORMAL

if TYPE_CHECKING:
    from analyses.circuit.asked import Asked

OWN = "own"


def overlap_table(asked: "dict[str, Asked]", sizes: Sequence[float]) -> pandas.DataFrame:
    """A row for each pair of tasks and each size."""
    rows = []
    for first, second in pairs_of(asked):
        one, other = asked[first], asked[second]
        rows.append(_overlap(first, second, OWN, one.kept, other.kept, len(one.heads)))
        for size in sizes:
            sets = (one.found.at(size), other.found.at(size))
            rows.append(_overlap(first, second, f"{size:g}", *sets, len(one.heads)))
    return pandas.DataFrame(rows)


def _overlap(
    first: str, second: str, size: str, one: frozenset[Node], other: frozenset[Node], among: int
) -> dict[str, Any]:
    found = overlap(one, other, among)
    smaller = min(len(one), len(other))
    return {
        "first": first, "second": second, "size": size, "first_heads": len(one),
        "second_heads": len(other), "shared": found.shared,
        "ratio": found.shared / smaller if smaller else float("nan"), "jaccard": found.jaccard,
        "expected": found.expected, "most": found.most, "p": found.p,
        "above_chance": found.shared > found.most, "heads": heads_of(one & other),
    }  # fmt: skip


def head_table(asked: "dict[str, Asked]") -> pandas.DataFrame:
    """A row for each task and head."""
    found = []
    for name, own in asked.items():
        table = own_heads(own)
        table.insert(0, "task", name)
        found.append(table)
    return pandas.concat(found, ignore_index=True)


def member_table(asked: "dict[str, Asked]") -> pandas.DataFrame:
    """Of each pair, the heads that are in either circuit, with the roles that they have in each task."""
    columns = ["first", "second", "layer", "head", "member", "role_first", "role_second"]
    known = {name: roles_of(own) for name, own in asked.items()}
    rows = []
    for first, second in pairs_of(asked):
        one, other = asked[first].kept, asked[second].kept
        for head in sorted(one | other):
            member = "both" if head in one & other else "first" if head in one else "second"
            values = (first, second, head.layer, head.head, member,
                      known[first].get(head, ""), known[second].get(head, ""))  # fmt: skip
            rows.append(dict(zip(columns, values, strict=True)))
    return pandas.DataFrame(rows, columns=columns)


def roles_of(asked: "Asked") -> dict[Node, str]:
    """Of the circuit's heads."""
    return {one: role for role, heads in asked.classes().items() for one in heads}


def crossed_table(asked: "dict[str, Asked]") -> pandas.DataFrame:
    """What each circuit does on each task, and what the heads that two tasks share do on both."""
    sets = {f"circuit of {name}": own.kept for name, own in asked.items()}
    for first, second in pairs_of(asked):
        sets[f"shared by {first} and {second}"] = asked[first].kept & asked[second].kept
    rows = []
    for kept, heads in sets.items():
        for name, own in asked.items():
            if kept.startswith("shared") and name not in kept.removeprefix("shared by ").split(
                " and "
            ):
                continue
            found = faithfulness(own.runs, heads)
            rows.append(
                {"kept": kept, "heads": len(heads), "task": name, "metric": found.circuit,
                 "share": found.share, "low": found.share - NORMAL * found.error,
                 "high": found.share + NORMAL * found.error}
            )  # fmt: skip
    return pandas.DataFrame(rows)


def faithfulness_table(asked: "dict[str, Asked]") -> pandas.DataFrame:
    """Each circuit on the held-out records of its own task."""
    rows = []
    for name, own in asked.items():
        found, random = own.judged.found, own.judged.random
        rows.append(
            {"task": name, "heads": len(own.kept), "of": len(own.heads), "circuit": found.circuit,
             "model": found.whole, "nothing": found.empty, "share": found.share,
             "low": found.share - NORMAL * found.error, "high": found.share + NORMAL * found.error,
             "random": sum(random) / len(random), "random_most": max(random),
             "records": len(own.judging)}
        )  # fmt: skip
    return pandas.DataFrame(rows)


def ioi_table(asked: "dict[str, Asked]") -> pandas.DataFrame | None:
    """The published classes of indirect objects, of the tasks that have their spans."""
    found = []
    for name, own in asked.items():
        if own.classed is not None:
            table = own.classed.copy()
            table.insert(0, "task", name)
            found.append(table)
    return pandas.concat(found, ignore_index=True) if found else None
