"""Prompts beside their counterfactuals, position by position: what is patched from one into the other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.batches import as_task
from interp.progress import counted
from interp.prompt import Prompt
from interp.readouts import Readout, log_probability, logit, logit_diff, probability
from interp.registry import unknown
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model

METRICS = ("logit_diff", "logit", "probability", "log_probability")


@dataclass(frozen=True)
class Pair:
    """Rows of one length, without padding: clean and corrupted prompts that match token by token."""

    clean: Prompt
    corrupted: Prompt
    records: tuple[Record, ...]
    numbers: tuple[int, ...]  # of the records in their task

    def metric(self, model: "Model", name: str = "logit_diff", first: bool = False) -> Readout:
        """A readout of the clean prompts' answers, bound to their rows; it judges both runs."""
        return answers_metric(model, self.clean, self.records, name, first)


def answers_metric(
    model: "Model",
    prompt: Prompt,
    records: Sequence[Record],
    name: str = "logit_diff",
    first: bool = False,
) -> Readout:
    """Right answers of the records, against their wrong ones (or the counterfactual's answers)."""
    right = [list(record.answers) for record in records]
    missing = [record.prompt for record in records if not record.answers]
    if missing:
        raise ValueError(f"a record has no answers, so nothing can be read: {missing[0]!r}.")
    if name == "logit_diff":
        wrong = [list(record.wrong or record.counterfactual_answers) for record in records]
        if not all(wrong):
            bare = records[wrong.index([])].prompt
            raise ValueError(
                f"a record has no wrong answers to compare with: {bare!r}; ask with metric='logit' or "
                "'log_probability'."
            )
        return logit_diff(right, wrong).bind(model, prompt, first)
    makers: dict[str, Any] = {
        "logit": logit, "probability": probability, "log_probability": log_probability
    }  # fmt: skip
    if name not in makers:
        raise LookupError(unknown("metric", name, list(METRICS)))
    return makers[name](right).bind(model, prompt, first)


def pairs(model: "Model", task: Any, who: str, size: int = 16) -> Iterator[Pair]:
    """Batches of pairs of one length. Every record must have a counterfactual of its own length."""
    if size < 1:
        raise ValueError(f"batch={size}: give at least 1.")
    if isinstance(task, Prompt):
        raise TypeError(f"{who} compares prompts with their counterfactuals: give a Task.")
    if isinstance(task, str):
        raise TypeError(
            f"{who} compares prompts with their counterfactuals, and a text has none: give a Task, such as "
            f"interp.Task.load({task if len(task) < 20 else 'ioi'!r})."
        )
    task = as_task(task, who)
    groups: dict[int, list[int]] = {}
    for start in range(0, len(task), size):
        part = task[start : start + size]
        clean, other = part.encode(model), part.encode(model, counterfactual=True)
        lengths = zip(clean.mask.sum(-1).tolist(), other.mask.sum(-1).tolist(), strict=True)
        for order, (own, theirs) in enumerate(lengths):
            if own != theirs:
                record = part[order]
                raise ValueError(
                    f"record {start + order} has {own} tokens and its counterfactual {theirs}: "
                    f"{record.prompt!r} and {record.counterfactual!r}. Positions can only be compared in "
                    "prompts of equal length."
                )
            groups.setdefault(own, []).append(start + order)
    parts = [
        tuple(numbers[start : start + size])
        for numbers in groups.values()
        for start in range(0, len(numbers), size)
    ]
    for chosen in counted(parts, who):
        records = tuple(task[number] for number in chosen)
        part: Task = replace(task, records=records)
        clean, other = part.encode(model), part.encode(model, counterfactual=True)
        yield Pair(clean, other, records, chosen)
