"""Which of the answers on offer a model finds likeliest: multiple choice and classification."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from interp.evaluation import MEASURES
from interp.evaluation.measure import Measure
from interp.evaluation.scored import Rate, Scored
from interp.evaluation.writing import check_writes, protocol
from interp.responses import SPAN, respond
from interp.scoring import Witness, answer_ids, last_logits
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model

BY = ("first", "likelihood")


def choice(
    model: "Model",
    task: Task,
    *,
    using: Any = None,
    hooks: Any = (),
    batch: int = 16,
    by: str = "first",
    length_normalised: bool = False,
) -> Scored:
    """The share of records whose likeliest option is right; options are a record's right and wrong answers.

    `by="first"` compares the logits of each option's first token after the prompt (letters, labels of one
    token; ACT's protocol). `by="likelihood"` sums the log-probabilities of all its tokens;
    `length_normalised` divides by their number. `table` holds a column `value` for the best right and
    `against` for the best wrong option.
    """
    check_writes(model, task, batch)
    if by not in BY:
        raise ValueError(f"by={by!r}: one of {', '.join(BY)}.")
    if length_normalised and by == "first":
        raise ValueError("length_normalised goes with by='likelihood': one token has one length.")
    for place, record in enumerate(task):
        _check_options(record, place)
    started = time.perf_counter()
    values = _of_first(model, task, using, hooks, batch) if by == "first" else _of_all(
        model, task, using, hooks, batch, length_normalised
    )  # fmt: skip
    table = pandas.DataFrame(
        _row(place, *one) for place, one in enumerate(zip(task, values, strict=True))
    )
    made = protocol(model, task, using, hooks, time.perf_counter() - started)
    made |= {"by": by, "length_normalised": length_normalised}
    return Scored("choice", "accuracy", table, {"accuracy": Rate.mean(table["right"])}, made)


def options(record: Record) -> tuple[str, ...]:
    """Right answers, then wrong ones."""
    return (*record.answers, *record.wrong)


def _check_options(record: Record, place: int) -> None:
    if not record.answers or not record.wrong:
        raise ValueError(
            f"record {place} has {len(record.answers)} right and {len(record.wrong)} wrong answers to choose "
            "from; give it both (of a file of classes, Task.load(path, labels=[...]) names them all)."
        )
    if len(set(options(record))) < len(options(record)):
        raise ValueError(f"record {place} offers an answer twice: {list(options(record))}.")


def _row(place: int, record: Record, values: list[float]) -> dict[str, Any]:
    best = max(range(len(values)), key=values.__getitem__)
    count = len(record.answers)
    return {
        "record": place, "right": best < count, "said": options(record)[best],
        "label": record.answers[0], "value": max(values[:count]), "against": max(values[count:]),
    }  # fmt: skip


def _of_first(model: "Model", task: Task, using: Any, hooks: Any, batch: int) -> list[list[float]]:
    found = []
    for start in range(0, len(task), batch):
        part, seen = task[start : start + batch], Witness()
        prompt = part.encode(model)
        with torch.no_grad():
            logits = model.logits(prompt, using=[using, seen], hooks=hooks)
        logits = last_logits(model, logits, seen.prompt).float()
        for row, record in enumerate(part):
            ids = answer_ids(model, prompt, row, options(record))
            if len(ids) < len(options(record)):
                raise ValueError(
                    f"options of record {start + row} begin with the same token: {options(record)[:4]}. "
                    "Ask by='likelihood', which reads all of their tokens."
                )
            found.append(logits[row, ids].tolist())
    return found


@dataclass(frozen=True)
class Offer:
    """One option of one record, in tokens."""

    record: int
    option: int
    ids: tuple[int, ...]


def _of_all(
    model: "Model", task: Task, using: Any, hooks: Any, batch: int, normalised: bool
) -> list[list[float]]:
    found = [[0.0] * len(options(record)) for record in task]
    for offers in _grouped(model, task, batch):
        whole = replace(task, records=tuple(task[one.record] for one in offers)).encode(model)
        ids = torch.tensor([one.ids for one in offers], device=whole.mask.device)
        sums = _log_likelihood(model, respond(model, whole, ids), ids, using, hooks)
        for one, value in zip(offers, sums.tolist(), strict=True):
            found[one.record][one.option] = value / (len(one.ids) if normalised else 1)
    return found


def _log_likelihood(model: "Model", prompt: Any, ids: Tensor, using: Any, hooks: Any) -> Tensor:
    """Of the response at the prompt's end, summed: [row]."""
    seen = Witness()
    with torch.no_grad():
        logits = model.logits(prompt, using=[using, seen], hooks=hooks)
    length = ids.shape[1]
    if not bool(seen.prompt.spans.get(SPAN, torch.zeros(1, 1))[:, -length:].all()):
        raise ValueError(
            "an intervention changes the prompt and leaves the option out of it: ask by='first'."
        )
    log = logits[:, -length - 1 : -1].float().log_softmax(-1)
    return log.gather(-1, ids[..., None])[..., 0].double().sum(-1)


def _grouped(model: "Model", task: Task, batch: int) -> Iterator[list[Offer]]:
    """Options of one length together, at most `batch` at a time."""
    groups: dict[int, list[Offer]] = {}
    for place, record in enumerate(task):
        text = task[place : place + 1].encode(model).text[0]
        for number, option in enumerate(options(record)):
            offer = Offer(place, number, _following(model, text, option))
            groups.setdefault(len(offer.ids), []).append(offer)
    for offers in groups.values():
        yield from (offers[at : at + batch] for at in range(0, len(offers), batch))


def _following(model: "Model", text: str, option: str) -> tuple[int, ...]:
    """The tokens of an option as it follows a text."""
    end = text[-24:]
    option = option.lstrip() if end[-1:].isspace() else option
    before, after, alone = (
        model.tokenizer(part, add_special_tokens=False)["input_ids"]
        for part in (end, end + option, option)
    )
    own = after[len(before) :] if after[: len(before)] == before else alone
    if not own:
        raise ValueError(f"the option {option!r} is no token of {model.name}'s.")
    if model.tokenizer.unk_token_id in own:
        raise ValueError(f"the option {option!r} holds a word that the tokenizer does not know.")
    return tuple(own)


MEASURES.add("choice", Measure("choice", ask=choice))
