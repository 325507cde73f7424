"""What an analysis runs on, in batches of one length: no padding, so that nothing has to be masked."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from interp.progress import counted
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
    several = list(given.values()) if isinstance(given, Mapping) else given
    if isinstance(several, (list, tuple)) and any(isinstance(one, Task) for one in several):
        raise TypeError(f"{who} takes one task, and was given {len(several)} in a list or dict.")
    texts = [given] if isinstance(given, str) else given
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(text, str) for text in texts):
        return Task("texts", tuple(Record(text) for text in texts))
    if isinstance(texts, (list, tuple)) and texts and all(isinstance(one, Record) for one in texts):
        raise TypeError(f"{who} takes records as a task: interp.Task('mine', tuple(records)).")
    kind = type(given).__name__
    if isinstance(texts, (list, tuple)):
        kinds = sorted({type(text).__name__ for text in texts})
        kind = f"a {kind} of {' and '.join(kinds)}" if kinds else f"an empty {kind}"
    raise TypeError(
        f"{who} takes a Task (interp.Task.load(name or file)), a text, a list of texts or a Prompt "
        f"(model.encode(ids), for token ids), not {kind}."
    )


def check_no_name(given: Any, who: str) -> None:
    """Refuse a text where records with answers or counterfactuals are needed."""
    if isinstance(given, str) or given is None:
        asked = "no task" if given is None else f"the text {given!r}"
        name = given if isinstance(given, str) and given.isidentifier() else "ioi"
        raise TypeError(
            f"{who} was given {asked}, and needs records with answers: interp.Task.load({name!r}); on the "
            f"command line, --task {name}."
        )


def answered(record: Record) -> Record:
    """The record with its first right answer written behind its prompt."""
    return replace(record, prompt=record.prompt + record.answers[0]) if record.answers else record


def batches(model: "Model", given: Any, who: str, size: int = 16) -> Iterator[Batch]:
    """Batches of at most `size` rows of one length. A `Prompt` is one batch, or row by row if padded."""
    if size < 1:
        raise ValueError(f"batch={size}: give at least 1.")
    if isinstance(given, Prompt):
        if bool(given.mask.all()):
            _check_length(given.length, who)
            yield Batch(given, tuple(Record(text) for text in given.text), tuple(range(len(given))))
            return
        for number, row in enumerate(rows_of(model, given, who)):
            _check_length(row.length, who)
            yield Batch(row, (Record(row.text[0]),), (number,))
        return
    task = as_task(given, who)
    groups: dict[int, list[int]] = {}
    for start in range(0, len(task), size):
        lengths = task[start : start + size].encode(model).mask.sum(-1).tolist()
        for order, length in enumerate(lengths):
            groups.setdefault(length, []).append(start + order)
    for length in groups:
        _check_length(length, who)
    parts = [
        tuple(numbers[start : start + size])
        for numbers in groups.values()
        for start in range(0, len(numbers), size)
    ]
    for chosen in counted(parts, who):
        records = tuple(task[number] for number in chosen)
        yield Batch(replace(task, records=records).encode(model), records, chosen)


def rows_of(model: "Model", prompt: Prompt, who: str) -> list[Prompt]:
    """A prompt's rows as prompts of their own, without padding; their spans kept."""
    if len(prompt) == 1 and bool(prompt.mask.all()):
        return [prompt]
    beside = [name for name, each in prompt.inputs.items() if each.shape != prompt.mask.shape]
    if beside or prompt.ids is None:
        raise ValueError(
            f"{who} takes a padded Prompt apart, which {', '.join(beside)} cannot be; give a Task, whose "
            "records are grouped by length."
        )
    names = [name for name in prompt.names if name not in ("prompt", "first", "last")]
    rows = []
    for row, real in enumerate(prompt.mask):
        inputs = {name: each[row, real][None] for name, each in prompt.inputs.items()}
        rows.append(Prompt.from_inputs(model, inputs))
        rows[-1].spans |= {name: prompt.where(name)[row, real][None] for name in names}
    return rows


def _check_length(length: int, who: str) -> None:
    if length == 1:
        raise ValueError(
            f"{who} asks where positions look, and a text of one token has nowhere to look; leave it out."
        )
