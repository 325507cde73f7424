"""Which tasks, and at which sizes."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING, Any

from interp.batches import as_task
from interp.task import Task
from interp.tasks import suited

if TYPE_CHECKING:
    from analyses.circuit.asked import Asked
    from interp.model import Model

# The two tasks of the paper, and controls: greater-than is one of its own.
DEFAULT: dict[str, dict[str, Any]] = {
    "ioi": {"counterfactual": "names"},
    "colored_objects": {"shots": 1, "apart": True},
    "greater_than": {},
    "induction": {},
}
RECORDS = 200


def tasks_of(model: "Model", given: Any, records: int | None) -> dict[str, Task]:
    """Two tasks or more by name."""
    if records is not None and records < 1:
        raise ValueError(f"records={records}: give at least 8 of each task, better 60 and more.")
    if given is None:
        count = RECORDS if records is None else records
        return {name: suited(model, name, count, **own) for name, own in DEFAULT.items()}
    if isinstance(given, (Task, str)) or not isinstance(given, (Sequence, Mapping)):
        raise ValueError(
            "circuit_reuse compares tasks: give two or more, [Task.load('ioi'), "
            "Task.load('colored_objects')], or leave the task out for these two and two controls."
        )
    listed = list(given.items()) if isinstance(given, Mapping) else [(None, one) for one in given]
    found: dict[str, Task] = {}
    for name, one in listed:
        own = suited(model, one, records or RECORDS) if isinstance(one, str) else one
        own = as_task(own, "circuit_reuse")
        name = name or own.name
        if name in found:
            raise ValueError(f"two tasks are called {name!r}: give a dict, {{name: task, ...}}.")
        found[name] = own if records is None else own[:records]
    if len(found) < 2:
        raise ValueError(f"circuit_reuse compares tasks, and was given {len(found)}: two or more.")
    return found


def checked_sizes(given: Sequence[float]) -> list[float]:
    found = [given] if isinstance(given, (int, float)) else list(given)
    if not all(0 < one <= 1 for one in found):
        raise ValueError(f"sizes={found}: shares of all heads, above 0 and at most 1.")
    return [float(one) for one in sorted(set(found))]


def pairs_of(asked: "dict[str, Asked]") -> list[tuple[str, str]]:
    """Every pair of tasks, in the order that they were given."""
    return list(combinations(asked, 2))
