"""Multi-query associative recall (Arora et al. 2023, arXiv 2312.04927): pairs, then keys that ask again.

`rows` gives the token ids and labels that models are trained on; the task "mqar" asks one of the queries
in words, for models that exist.
"""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.wording import Wording, chosen
from interp.tasks.words import WORDS

POWER = 0.01  # how strongly early slots are preferred: slot i with i ** (POWER - 1)
IGNORED = -100  # the label of positions that nothing is asked at
FILLER = "and"  # stands where no pair and no query does
WORDINGS = {"demo": Wording((), {"word": WORDS}, {"word": 8})}


def slot_chances(length: int, pairs: int, power: float = POWER) -> Tensor:
    """How likely the first draw takes each query slot; slot i stands at position 2 * pairs + 2 * i."""
    if pairs < 1 or length < 4 * pairs:
        raise ValueError(
            f"length={length}, pairs={pairs}: pairs take 2 positions each and so do their queries, "
            "so a row has 4 * pairs positions at least."
        )
    slots = torch.arange(1, (length - 2 * pairs) // 2 + 1, dtype=torch.double)
    weights = power * slots ** (power - 1)
    return weights / weights.sum()


def rows(
    count: int,
    length: int = 64,
    pairs: int = 4,
    vocabulary: int = 8192,
    power: float = POWER,
    random_others: bool = False,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Inputs and labels [row, position]: key value key value ..., then each key once more somewhere.

    The label at a query is its key's value, read at the query's own position; all others are ignored.
    Other positions hold 0, or random ids that are no key of the row.
    """
    if vocabulary < 4 * pairs + 2:
        raise ValueError(f"vocabulary={vocabulary} has too few ids for {pairs} keys and values.")
    chances = slot_chances(length, pairs, power)
    chance = torch.Generator().manual_seed(seed)
    half = vocabulary // 2
    inputs = torch.zeros(count, length, dtype=torch.long)
    labels = torch.full((count, length), IGNORED)
    for row in range(count):
        keys = 1 + torch.randperm(half - 1, generator=chance)[:pairs]
        values = half + torch.randperm(vocabulary - half, generator=chance)[:pairs]
        slots = torch.multinomial(chances, pairs, generator=chance)
        if random_others:
            inputs[row] = _others(keys, vocabulary, length, chance)
        inputs[row, : 2 * pairs] = torch.stack([keys, values], 1).flatten()
        inputs[row, 2 * pairs + 2 * slots] = keys
        labels[row, 2 * pairs + 2 * slots] = values
    return inputs, labels


def _others(keys: Tensor, vocabulary: int, length: int, chance: torch.Generator) -> Tensor:
    """Random ids without the row's keys: those would be queries that nothing is asked at."""
    free = torch.ones(vocabulary)
    free[keys] = 0
    return torch.multinomial(free, length, replacement=True, generator=chance)


def draw(
    chance: random.Random,
    pairs: int = 4,
    length: int = 32,
    words: Sequence[str] | None = None,
    without: Sequence[str] = (),
    spaced: bool = False,
) -> Record:
    """Words in pairs, then keys that come again among fillers, up to one whose value is asked for.

    `spaced` begins with a space, so that the first key is the same token when it comes again.

    The counterfactual pairs the asked key with another key's value, and that key with its own.
    """
    if pairs < 2:
        raise ValueError(f"pairs={pairs}: give at least 2, so that there is another value.")
    own = list(words) if words is not None else chosen(WORDINGS, "demo", without).words["word"]
    chances = slot_chances(length, pairs).tolist()
    own = [word for word in own if word != FILLER]
    if len(own) < 2 * pairs:
        raise ValueError(f"pairs={pairs}: that takes {2 * pairs} words, and there are {len(own)}.")
    drawn = chance.sample(own, 2 * pairs)
    keys, values = drawn[:pairs], drawn[pairs:]
    slots: list[int] = []
    for _ in range(pairs):
        left = [at for at in range(len(chances)) if at not in slots]
        slots += chance.choices(left, [chances[at] for at in left])
    last = max(range(pairs), key=lambda one: slots[one])
    other = chance.choice([one for one in range(pairs) if one != last])
    body = [FILLER] * (2 * slots[last] + 1)
    for key, slot in zip(keys, slots, strict=True):
        body[2 * slot] = key
    swapped = values.copy()
    swapped[last], swapped[other] = values[other], values[last]
    lead = " " if spaced else ""
    clean, changed = (
        lead + " ".join([*_in_pairs(keys, known), *body]) for known in (values, swapped)
    )
    start = len(lead) + len(" ".join([*_in_pairs(keys, values)[: 2 * last + 1], ""]))
    return Record(
        clean,
        answers=(f" {values[last]}",),
        wrong=tuple(f" {value}" for value in values if value != values[last]),
        counterfactual=changed,
        counterfactual_answers=(f" {values[other]}",),
        spans={
            "source": (start, start + len(values[last])),
            "current": (len(clean) - len(keys[last]), len(clean)),
        },
        notes={"pairs": pairs, "length": length, "slots": slots},
    )


def _in_pairs(keys: Sequence[str], values: Sequence[str]) -> list[str]:
    return [word for pair in zip(keys, values, strict=True) for word in pair]


TASKS.add("mqar", Generator("mqar", draw, wordings=WORDINGS, inside={"spaced": True}))
