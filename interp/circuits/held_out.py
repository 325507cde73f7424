"""Judging a circuit on records that it was not found on, beside random circuits of its size."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch

from interp.circuits.graph import Node
from interp.circuits.judging import Faithfulness, faithfulness
from interp.circuits.nodes import NodeRuns
from interp.circuits.replaced import Instead, reference_of
from interp.registry import unknown
from interp.task import Task

GROUPS = "template"  # a note that means are by where records have it
LEAST = 4  # records in each part


def parts(task: Task, held_out: float = 0.5) -> tuple[Task, Task]:
    """The records to find a circuit on, and those to judge it on: the last `held_out` of the task."""
    if not 0 < held_out < 1:
        raise ValueError(f"held_out={held_out}: a share of the records, above 0 and below 1.")
    count = round(len(task) * (1 - held_out))
    if min(count, len(task) - count) < LEAST:
        raise ValueError(
            f"{task.name} has {len(task)} records, which leaves {count} to find a circuit on and "
            f"{len(task) - count} to judge it on: give at least {LEAST} for each, better 30 and more."
        )
    first, last = task.records[:count], task.records[count:]
    return replace(task, records=first), replace(task, records=last)


def stands_in(
    task: Task,
    take: str = "mean",
    reference: Any = "counterfactual",
    groups: str | None = GROUPS,
) -> Instead:
    """What replaces heads outside. Means are by the note `groups` where every record has it.

    Means are over the reference of all of this task's records, those to find a circuit on and those to
    judge it on: of few rows they would be noise, and they know of no answer.
    """
    known = [task] + ([reference] if isinstance(reference, Task) else [])
    noted = groups is not None and all(groups in record.notes for one in known for record in one)
    if groups is not None and groups != GROUPS and not noted:
        names = sorted({name for one in known for record in one for name in record.notes})
        raise LookupError(unknown("note of every record (groups=)", groups, names))
    if take == "mean" and isinstance(reference, str) and reference in ("counterfactual", "prompt"):
        reference = reference_of(task, reference)
    return Instead(take, reference, groups if noted else None)


@dataclass(frozen=True)
class Judged:
    """A circuit's faithfulness on its records, and that of random heads in equal number."""

    found: Faithfulness
    random: tuple[float, ...]

    @property
    def as_good(self) -> int:
        """How many random draws did as well or better."""
        return sum(share >= self.found.share for share in self.random)


def judged(runs: NodeRuns, heads: Iterable[Node], draws: int = 20, seed: int = 0) -> Judged:
    """A circuit's faithfulness beside that of `draws` random circuits of as many heads."""
    chosen = frozenset(heads)
    chance = torch.Generator().manual_seed(seed)
    drawn = [random_heads(runs, len(chosen), chance) for _ in range(draws)]
    shares = tuple(faithfulness(runs, each).share for each in drawn)
    return Judged(faithfulness(runs, chosen), shares)


def random_heads(runs: NodeRuns, count: int, chance: torch.Generator) -> frozenset[Node]:
    every = sorted(one for one in runs.parts if isinstance(one, Node))
    return frozenset(every[at] for at in torch.randperm(len(every), generator=chance)[:count])
