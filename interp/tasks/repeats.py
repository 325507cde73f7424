"""Sequences of random words that come again: at once, or after a gap."""

import random

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import WORDS, another


def induction(chance: random.Random, period: int | None = None) -> Record:
    """A run of random words, again up to somewhere; the answer is the word that came next before.

    The counterfactual has another word in the place that the answer was taken from.
    """
    period = chance.randint(5, 20) if period is None else period
    if period < 2:
        raise ValueError(f"period={period}: a run that comes again has at least 2 words.")
    return _repeated(chance, period, gap=0)


def gapped(chance: random.Random, period: int | None = None, gap: int | None = None) -> Record:
    """The same, with `gap` other words between the run and its return."""
    period = chance.randint(6, 12) if period is None else period
    gap = chance.randint(4, 16) if gap is None else gap
    if period < 2 or gap < 1:
        raise ValueError(f"period={period}, gap={gap}: give at least 2 and 1.")
    return _repeated(chance, period, gap)


def _repeated(chance: random.Random, period: int, gap: int) -> Record:
    if period + gap >= len(WORDS):
        raise ValueError(f"period={period}, gap={gap}: there are {len(WORDS)} different words.")
    drawn = chance.sample(WORDS, period + gap)
    run, between = drawn[:period], drawn[period:]
    again = chance.randrange(1, period)  # words of the return that are shown
    words = [*run, *between, *run[:again]]
    answer, other = run[again], another(chance, WORDS, *drawn)
    changed = [*words[:again], other, *words[again + 1 :]]
    prompt = " ".join(words)
    source = len(" ".join(words[:again])) + 1
    before = len(" ".join(words[: again - 1])) + (again > 1)
    last = len(prompt) - len(words[-1])
    return Record(
        prompt,
        answers=(f" {answer}",),
        wrong=(f" {other}",),
        counterfactual=" ".join(changed),
        counterfactual_answers=(f" {other}",),
        spans={
            "source": (source, source + len(answer)),
            "earlier": (before, before + len(words[-1])),
            "current": (last, len(prompt)),
        },
        notes={"period": period, "gap": gap},
    )


TASKS.add("induction", Generator("induction", induction))
TASKS.add("gapped_repeats", Generator("gapped_repeats", gapped))
