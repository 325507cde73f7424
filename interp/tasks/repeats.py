"""Sequences of random words that come again: at once, or after a gap."""

import random
from collections.abc import Sequence
from typing import Any

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.wording import Wording, chosen
from interp.tasks.words import WORDS, another

WORDINGS = {"demo": Wording((), {"word": WORDS}, {"word": 3})}


def induction(
    chance: random.Random,
    period: int | None = None,
    words: Sequence[str] | None = None,
    without: Sequence[str] = (),
    spaced: bool = False,
) -> Record:
    """A run of random words, again up to somewhere; the answer is the word that came next before.

    The counterfactual has another word in the place that the answer was taken from. `words` are
    drawn from instead of the demo model's. `spaced`: the text starts with a space, so that its first
    word is read as it is where it returns.
    """
    period = chance.randint(5, 20) if period is None else period
    if period < 2:
        raise ValueError(f"period={period}: a run that comes again has at least 2 words.")
    return _repeated(chance, period, 0, _listed(words, without), spaced)


def gapped(
    chance: random.Random,
    period: int | None = None,
    gap: int | None = None,
    words: Sequence[str] | None = None,
    without: Sequence[str] = (),
    spaced: bool = False,
) -> Record:
    """The same, with `gap` other words between the run and its return."""
    period = chance.randint(6, 12) if period is None else period
    gap = chance.randint(4, 16) if gap is None else gap
    if period < 2 or gap < 1:
        raise ValueError(f"period={period}, gap={gap}: give at least 2 and 1.")
    return _repeated(chance, period, gap, _listed(words, without), spaced)


def _listed(words: Sequence[str] | None, without: Sequence[str]) -> Sequence[str]:
    if words is None:
        return chosen(WORDINGS, without=without).words["word"]
    if isinstance(words, str) or len(set(words)) < len(words):
        raise ValueError(f"words={words!r}: give a list of words, each once.")
    spaces = [word for word in words if not word or len(word.split()) > 1 or word != word.strip()]
    if spaces:
        raise ValueError(f"words={spaces[:1]}: a word is written without spaces.")
    return [word for word in words if word not in without]


def _repeated(
    chance: random.Random, period: int, gap: int, known: Sequence[str], spaced: bool
) -> Record:
    if period + gap >= len(known):
        raise ValueError(f"period={period}, gap={gap}: there are {len(known)} different words.")
    drawn = chance.sample(known, period + gap)
    run, between = drawn[:period], drawn[period:]
    again = chance.randrange(1, period)  # words of the return that are shown
    words = [*run, *between, *run[:again]]
    answer, other = run[again], another(chance, known, *drawn)
    changed = [*words[:again], other, *words[again + 1 :]]
    lead = " " if spaced else ""
    prompt = lead + " ".join(words)
    source = len(lead) + len(" ".join(words[:again])) + 1
    before = len(lead) + len(" ".join(words[: again - 1])) + (again > 1)
    last = len(prompt) - len(words[-1])
    return Record(
        prompt,
        answers=(f" {answer}",),
        wrong=(f" {other}",),
        counterfactual=lead + " ".join(changed),
        counterfactual_answers=(f" {other}",),
        spans={
            "source": (source, source + len(answer)),
            "earlier": (before, before + len(words[-1])),
            "current": (last, len(prompt)),
        },
        notes={"period": period, "gap": gap},
    )


_SETTINGS: dict[str, Any] = {"wordings": WORDINGS, "inside": {"spaced": True}}
TASKS.add("induction", Generator("induction", induction, **_SETTINGS))
TASKS.add("gapped_repeats", Generator("gapped_repeats", gapped, **_SETTINGS))
