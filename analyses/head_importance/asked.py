"""What is measured: heads of one stack on a task's records, in batches of one length, and what was found."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_layers
from interp.batches import Batch, as_task, batches
from interp.importance import gate_slopes
from interp.mapping import over
from interp.pairs import answers_metric
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.structure import Stack
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class Settings:
    """As `head_importance` explains them."""

    metric: str = "logit_diff"
    first: bool = False
    reference: Any = None
    per_position: bool = True
    normalise: bool = False
    top: int | None = None
    batch: int = 16
    seed: int = 0
    budget: float = 1e9


@dataclass(eq=False)
class Asked:
    """`records` holds values of each record, [record, layer, head]; `columns` those of all, [layer, head]."""

    model: "Model"
    stack: Stack
    task: Task
    settings: Settings
    records: dict[str, Tensor] = field(default_factory=dict)
    columns: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    t_vhd: Tensor | None = None  # [record], where `top` heads of each layer are counted
    top: int = 0
    gap: float = 0.0  # between direct effects and the metric, the largest of a record

    @cached_property
    def layers(self) -> list[int]:
        return sorted(choose_layers(self.stack, None, "z"))

    @cached_property
    def parts(self) -> list[tuple[Batch, Readout]]:
        """Batches of one length, each with what is read of its rows."""
        own, settings = [], self.settings
        for part in batches(self.model, self.task, "head_importance", settings.batch):
            metric = answers_metric(
                self.model, part.prompt, part.records, settings.metric, settings.first
            )
            own.append((part, metric))
        return own

    @cached_property
    def plain(self) -> Tensor:
        """The metric of each record with nothing changed, [record]."""

        def read(part: Batch, metric: Readout) -> Tensor:
            with torch.no_grad():
                return metric(self.model.logits(part.prompt), part.prompt)

        return self.each(read)

    def each(self, measure: Callable[[Batch, Readout], Tensor | None]) -> Tensor:
        """What is measured of each record, in the order of the task; NaN where it cannot be."""
        found: list[Tensor] = []
        numbers: list[int] = []
        for part, metric in self.parts:
            value = measure(part, metric)
            if value is not None:
                found.append(value.detach().float().cpu())
                numbers += part.numbers
        if not found:
            raise ValueError(self._alone())
        values = torch.cat(found)
        whole = values.new_full((len(self.task), *values.shape[1:]), torch.nan)
        whole[numbers] = values
        return whole

    def _alone(self) -> str:
        """Why nothing can take a record's place."""
        if self.settings.reference is None:
            return (
                "no two records are of one length, so that none can take the place of another; give "
                "reference=, a task with records of their lengths."
            )
        own = sorted({part.prompt.length for part, _ in self.parts})
        return f"the records have {own} tokens, and those of reference= {sorted(self.references)}."

    @cached_property
    def slopes(self) -> list[Tensor]:
        """Gradients of the metric by the heads' gates, of each batch: [batch, layer, position, head]."""
        model, stack = self.model, self.stack.name

        def of_part(part: tuple[Batch, Readout]) -> Tensor:
            return gate_slopes(model, part[0].prompt, part[1], stack=stack)

        return list(over(model, self.parts, of_part, "head_importance"))

    @cached_property
    def references(self) -> dict[int, list[tuple[int, Record]]]:
        """Records by length that show what a head does elsewhere, each with its number; -1 if no record of
        the task is meant."""
        own = self.settings.reference is None
        task = self.task if own else as_task(self.settings.reference, "reference=")
        found: dict[int, list[tuple[int, Record]]] = {}
        for part in batches(self.model, task, "reference=", self.settings.batch):
            numbers = part.numbers if own else [-1] * len(part.numbers)
            listed = zip(numbers, part.records, strict=True)
            found.setdefault(part.prompt.length, []).extend(listed)
        return found

    def z_of(self, records: Sequence[Record]) -> dict[int, Tensor]:
        """z of each layer for records of one length: [record, position, head, d_head]."""
        prompt = Task("reference", tuple(records)).encode(self.model)
        with torch.no_grad():
            trace = self.model.trace(prompt, "z", layers=self.layers, stack=self.stack.name)
        return {layer: trace["z", layer, self.stack.name] for layer in self.layers}


def as_records(given: Any) -> Task:
    """A task whose records have answers."""
    if isinstance(given, Prompt):
        raise TypeError("head_importance reads answers, and a Prompt has none: give a Task.")
    task = as_task(given, "head_importance")
    missing = [record.prompt for record in task if not record.answers]
    if missing:
        raise ValueError(
            "head_importance asks which heads an answer rests on, and this record has none: "
            f"{missing[0]!r}. Give a Task with answers."
        )
    return replace(task)
