"""What an intervention must beat: a mere preference for a word, and heads that nobody chose."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pandas
import torch
from torch import Tensor

from interp.evaluation.writing import check_writes
from interp.prompt import Prompt
from interp.scoring import answer_ids, last_logits
from interp.sites import At, LogitsHook
from interp.steering.found import taken
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import heads_of, writing_stack
from interp.steering.spans import asked
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

_SPACES = "\u0120\u2581 \u010a"  # how tokenizers write a space or a newline before a word


@dataclass(frozen=True)
class Bias(Intervention):
    """A constant on the logits of some words, where the answer begins: a preference, and nothing seen.

    Every token that spells one of `words`, whatever its case and the space before it, gets `amount` at the
    first token of the answer. Later tokens are as they were.
    """

    words: Sequence[str] = ("yes",)
    amount: float = 1.0

    inert: ClassVar[Settings] = Settings(amount=0.0)
    strong: ClassVar[Settings] = Settings(amount=30.0)

    def __post_init__(self) -> None:
        if isinstance(self.words, str) or not self.words:
            raise TypeError(f"Bias(words={self.words!r}): one word or several, as ('yes',).")
        if isinstance(self.amount, bool) or not isinstance(self.amount, (int, float)):
            raise ValueError(f"Bias(amount={self.amount!r}): a number of logits.")
        if self.amount != self.amount or abs(self.amount) == float("inf"):
            raise ValueError(f"Bias(amount={self.amount!r}): a number that ends.")

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[LogitsHook]]:
        writing_stack(model, "Bias")
        ids = spelling(model, self.words)
        if self.amount == 0:
            return prompt, []
        real = asked(prompt)
        last = (real * torch.arange(prompt.length, device=real.device)).amax(1)  # [row]
        end = int(last.max())

        def louder(tokens: Tensor, logits: Tensor, at: At) -> Tensor:
            if not at.prefill and at.first > end:
                return logits
            order = torch.arange(at.first, at.first + logits.shape[1], device=logits.device)
            here = order == last.to(order.device)[:, None]  # [row, position]
            here = here.repeat_interleave(logits.shape[0] // len(here), 0)
            more = torch.zeros_like(logits[0, 0])
            more[ids] = self.amount
            return logits + here[..., None] * more

        return prompt, [LogitsHook(louder)]


def spelling(model: "Model", words: Sequence[str]) -> list[int]:
    """The tokens that spell one of the words, with or without a space before it, in any case."""
    if model.tokenizer is None:
        raise ValueError(f"{model.name} has no tokenizer to look words up in.")
    wanted = {word.strip().lower() for word in words}
    vocabulary = model.tokenizer.get_vocab()
    found = {id for token, id in vocabulary.items() if token.strip(_SPACES).lower() in wanted}
    if not found:
        raise LookupError(
            f"none of {sorted(wanted)} is a token of {model.name}'s: its answers begin otherwise."
        )
    return sorted(found)


def tuned_bias(
    model: "Model", task: Task, words: Sequence[str] = ("yes",), batch: int = 16
) -> tuple[Bias, Any]:
    """The bias on `words` with the best next-token accuracy on a task, and a table of all that were tried.

    Accuracy changes only where the bias lifts a word over what was said instead, once a record: one amount
    between each two of these, and 0, are all that there is to try. Of equals the smallest is taken.
    """
    check_writes(model, task, batch)
    ids = spelling(model, words)
    gaps, with_it, without = [], [], []
    for start in range(0, len(task), batch):
        part = task[start : start + batch]
        prompt = part.encode(model)
        with torch.no_grad():
            logits = last_logits(model, model.logits(prompt), prompt).double().cpu()
        lifted = torch.zeros(logits.shape[1], dtype=torch.bool)
        lifted[ids] = True
        own, others = (
            logits.masked_fill(hidden, -torch.inf).max(-1) for hidden in (~lifted, lifted)
        )
        gaps += (others.values - own.values).tolist()
        for row, record in enumerate(part):
            right = answer_ids(model, prompt, row, record.answers)
            with_it.append(int(own.indices[row]) in right)
            without.append(int(others.indices[row]) in right)
    if not any(with_it) or not any(without):
        raise ValueError(
            f"a preference for {' or '.join(words)} is tuned on questions that it answers and others: of the "
            f"{len(task)} records of {task.name!r} it is right in {sum(with_it)}."
        )
    amounts = _between(gaps)
    tried = pandas.DataFrame({"amount": amounts, "accuracy": [
        _accuracy(amount, gaps, with_it, without) for amount in amounts
    ]})  # fmt: skip
    order = sorted(range(len(tried)), key=lambda at: (-tried["accuracy"][at], abs(amounts[at])))
    return Bias(tuple(words), amounts[order[0]]), tried


def _between(gaps: list[float]) -> list[float]:
    """0, and an amount on each side of every gap, in their order."""
    ordered = sorted(set(gaps))
    middle = [(one + other) / 2 for one, other in zip(ordered, ordered[1:], strict=False)]
    return sorted({0.0, ordered[0] - 1, *middle, ordered[-1] + 1})


def _accuracy(amount: float, gaps: list[float], with_it: list[bool], without: list[bool]) -> float:
    rows = zip(gaps, with_it, without, strict=True)
    return sum(one if amount > gap else other for gap, one, other in rows) / len(gaps)


def has_heads(item: Any) -> bool:
    """Whether an intervention has chosen heads, so that others can stand in for them."""
    named = is_dataclass(item) and any(one.name == "heads" for one in fields(item))
    return named and getattr(item, "heads", None) is not None


def random_heads(model: "Model", item: Any, draws: int = 5, seed: int = 0) -> list[Any]:
    """The intervention with as many heads of the same layers, drawn at random, `draws` times."""
    who = type(item).__name__
    if not has_heads(item):
        raise ValueError(f"{who} has no heads= of its own, so none can be drawn in their place.")
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws={draws!r}: how many times heads are drawn, at least 1.")
    stack = writing_stack(model, who)
    chosen = heads_of(stack, taken(model, item.heads, "heads", who), "pattern") or {}
    if all(len(own) == stack.heads for own in chosen.values()):
        raise ValueError(f"{who} has all heads of its layers, so no others can be drawn.")
    chance = random.Random(seed)
    return [
        replace(item, heads=tuple((layer, head) for layer, own in chosen.items()
                                  for head in sorted(chance.sample(range(stack.heads), len(own)))))
        for _ in range(draws)
    ]  # fmt: skip
