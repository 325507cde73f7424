"""What an analysis runs on, in batches of one length: no padding, so that nothing has to be masked."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.prompt import Prompt
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class Batch:
    """Rows of one length: their prompt, their records, and their numbers in the task."""

    prompt: Prompt
    records: tuple[Record, ...]
    numbers: tuple[int, ...]


def as_task(given: Any, who: str) -> Task:
    """A task as it is; a text or several as a task without answers."""
    if isinstance(given, Task):
        if not len(given):
            raise ValueError(
                f"{who} needs at least one record, and the task {given.name!r} has none."
            )
        return given
    if isinstance(given, Record):
        return Task("one record", (given,))
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts):
        return Task("texts", tuple(Record(text) for text in texts))
    raise TypeError(
        f"{who} takes a Task (interp.Task.load(name or file)), a text, a list of texts or a Prompt, not "
        f"{type(given).__name__}."
    )


def answered(record: Record) -> Record:
    """The record with its first right answer written behind its prompt."""
    return replace(record, prompt=record.prompt + record.answers[0]) if record.answers else record


def batches(model: "Model", given: Any, who: str, size: int = 16) -> Iterator[Batch]:
    """Batches of at most `size` rows of one length. A `Prompt` without padding is one batch as it is."""
    if size < 1:
        raise ValueError(f"batch={size}: give at least 1.")
    if isinstance(given, Prompt):
        if not bool(given.mask.all()):
            raise ValueError(
                f"{who} takes a Prompt whose rows have one length; this one is padded. Give the texts or a "
                "Task, and rows are grouped by length."
            )
        yield Batch(given, tuple(Record(text) for text in given.text), tuple(range(len(given))))
        return
    task = as_task(given, who)
    groups: dict[int, list[int]] = {}
    for start in range(0, len(task), size):
        lengths = task[start : start + size].encode(model).mask.sum(-1).tolist()
        for order, length in enumerate(lengths):
            groups.setdefault(length, []).append(start + order)
    for numbers in groups.values():
        for start in range(0, len(numbers), size):
            chosen = tuple(numbers[start : start + size])
            records = tuple(task[number] for number in chosen)
            yield Batch(replace(task, records=records).encode(model), records, chosen)
