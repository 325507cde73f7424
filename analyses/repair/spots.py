"""Where attention is put: the tokens of the prompt in which the answers stand."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.batches import Batch, batches
from interp.circuits.places import places as positions
from interp.registry import unknown
from interp.scoring import answer_ids
from interp.spelling import places as found_at

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt
    from interp.task import Record, Task

SOLVED = "shot "  # how spans of solved examples begin


@dataclass(frozen=True, eq=False)
class Case:
    """Records of one length: what is right and wrong, where it stands, and what heads shall look at."""

    prompt: "Prompt"
    records: tuple["Record", ...]
    numbers: tuple[int, ...]  # of the records in their task
    right: tuple[tuple[int, ...], ...]  # first tokens
    wrong: tuple[tuple[int, ...], ...]
    at: Tensor  # [row, position]: whose attention is written over
    right_at: Tensor  # [row, position]: where right answers stand
    wrong_at: Tensor
    target: Tensor  # [row, key]: attention that is written there
    elsewhere: Tensor  # [row, key]: the same amounts on other tokens; rows without such are 0


def cases(
    model: "Model",
    task: "Task",
    places: Any,
    avoid: Sequence[str],
    mass: float | None,
    position: Any,
    batch: int,
    seed: int,
) -> tuple[Case, ...]:
    """The records of a task by length, at most `batch` together."""
    for number, record in enumerate(task):
        if not record.answers or not rivals(record):
            what = "wrong answers" if record.answers else "answers"
            raise ValueError(
                f"record {number} of {task.name!r} has no {what}: {record.prompt!r}. Repair needs right and "
                "wrong ones."
            )
    if not isinstance(places, str):
        _check_spans(task, (*places, *avoid))
    parts = batches(model, task, "repair", batch)
    return tuple(_case(model, part, places, avoid, mass, position, seed) for part in parts)


def rivals(record: "Record") -> tuple[str, ...]:
    """Wrong answers, as the metric knows them."""
    return record.wrong or record.counterfactual_answers


def _check_spans(task: "Task", names: Sequence[str]) -> None:
    known = list(dict.fromkeys(name for record in task for name in record.spans))
    for name in names:
        if name not in known:
            raise LookupError(unknown("span", name, known))


def _case(
    model: "Model",
    part: Batch,
    places: Any,
    avoid: Sequence[str],
    mass: float | None,
    position: Any,
    seed: int,
) -> Case:
    prompt = part.prompt
    at = positions(prompt, position).cpu()
    rows = list(enumerate(part.records))
    right = tuple(tuple(answer_ids(model, prompt, row, one.answers)) for row, one in rows)
    wrong = tuple(tuple(answer_ids(model, prompt, row, rivals(one))) for row, one in rows)
    for (_, record), good, bad in zip(rows, right, wrong, strict=True):
        if set(good) & set(bad):
            raise ValueError(
                f"the answers {record.answers[:2]} and {rivals(record)[:2]} start with the same token, and "
                "repair judges by the first."
            )
    right_at = _marked(at, [_answers(model, prompt, row, one, one.answers) for row, one in rows])
    wrong_at = _marked(at, [_answers(model, prompt, row, one, rivals(one)) for row, one in rows])
    if isinstance(places, str):
        asked_at = right_at if places == "right" else wrong_at
    else:
        inside = _marked(at, [_spans(prompt, row, one, places) for row, one in rows])
        asked_at = inside & ~_marked(at, [_spans(prompt, row, one, avoid) for row, one in rows])
    _check(part, asked_at, at, places)
    target = _shares(asked_at, mass)
    others = torch.stack([
        _others(target[row], at[row], right_at[row] | wrong_at[row], f"{seed} {number}")
        for row, number in enumerate(part.numbers)
    ])  # fmt: skip
    return Case(
        prompt, part.records, part.numbers, right, wrong, at, right_at, wrong_at, target, others
    )


def _marked(like: Tensor, rows: Sequence[Sequence[int]]) -> Tensor:
    """A mask [row, position] of the positions of each row."""
    mask = torch.zeros_like(like)
    for row, found in enumerate(rows):
        mask[row, list(found)] = True
    return mask


def _answers(
    model: "Model", prompt: "Prompt", row: int, record: "Record", answers: Sequence[str]
) -> list[int]:
    """Positions of answers' first tokens: in spans that spell them, else wherever the tokens stand."""
    assert prompt.ids is not None
    found: list[int] = []
    for answer in answers:
        spelled = [
            name
            for name in record.spans
            if not name.startswith(SOLVED) and record.text(name).strip() == answer.strip()
        ]
        starts = [_spans(prompt, row, record, [name])[:1] for name in spelled]
        own = [place for start in starts for place in start]
        if not own:
            (token,) = answer_ids(model, prompt, row, [answer])
            own = (prompt.ids[row] == token).nonzero()[:, 0].tolist()
        found += own
    return sorted(set(found))


def _spans(prompt: "Prompt", row: int, record: "Record", names: Sequence[str]) -> list[int]:
    """Positions of all tokens of these spans, of those that the record has."""
    found: list[int] = []
    for name in names:
        if name in record.spans:
            text, start = record.text(name), record.spans[name][0]
            nth = found_at(record.prompt, text).index(start)
            found += prompt.readings[row].find(text, nth)
    return found


def _check(part: Batch, asked_at: Tensor, at: Tensor, places: Any) -> None:
    """Every record has a place, and its rows see it."""
    for row, record in enumerate(part.records):
        if not bool(asked_at[row].any()):
            what = f"no {places} answer of it stands there"
            if not isinstance(places, str):
                what = f"it has none of the spans {', '.join(places)}, or avoid= takes them all"
            raise ValueError(
                f"record {part.numbers[row]} has no place to look at ({what}): {record.prompt!r}. "
                "Ask a task whose prompts hold the answers, or name places=[spans]."
            )
        if not bool(at[row].any()):
            raise ValueError(f"record {part.numbers[row]} has no such position: {record.prompt!r}.")
        last, first = int(asked_at[row].nonzero()[-1]), int(at[row].nonzero()[0])
        if last > first:
            raise ValueError(
                f"record {part.numbers[row]} has a place at token {last}, which token {first} does not see: "
                f"{record.prompt!r}; name a later position=, or earlier places=."
            )


def _shares(where: Tensor, mass: float | None) -> Tensor:
    """What each place receives."""
    many = where.sum(-1, keepdim=True)
    if mass is None:
        return where / many
    if mass * int(many.max()) > 1 + 1e-6:
        raise ValueError(
            f"mass={mass} on each of {int(many.max())} places is more than a row's 1; leave mass= out for "
            "equal shares of 1."
        )
    return where * mass


def _others(target: Tensor, at: Tensor, answers: Tensor, seed: str) -> Tensor:
    """The same amounts on as many other tokens, from the first place on; nothing where there are too few."""
    own = target.nonzero()[:, 0].tolist()
    end = int(at.nonzero()[0])
    free = [place for place in range(own[0], end) if target[place] == 0 and not answers[place]]
    moved = torch.zeros_like(target)
    if len(free) >= len(own):
        taken = random.Random(seed).sample(free, len(own))
        moved[taken] = target[own]
    return moved
