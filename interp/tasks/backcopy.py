"""Bigram-backcopy (arXiv 2410.13835): a Markov chain of words, but triggers repeat what was before.

The word after a trigger is the word before it. Heads that copy have nothing to do elsewhere.
"""

import random

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import TRIGGERS, WORDS, another

_seeded = random.Random(7)
CHAIN = WORDS[::3]
NEXT = {word: _seeded.sample(CHAIN, 4) for word in CHAIN}
RARE = 0.08  # of the words are triggers


def draw(chance: random.Random, length: int | None = None) -> Record:
    """A walk that ends at a trigger. The counterfactual has another word before that trigger."""
    length = chance.randint(12, 36) if length is None else length
    if length < 3:
        raise ValueError(f"length={length}: a walk has at least 3 words.")
    words = [chance.choice(CHAIN)]
    while len(words) < length - 1:
        words.append(_after(chance, words))
    if words[-1] in TRIGGERS:
        words[-1] = chance.choice(CHAIN)
    copied, trigger = words[-1], chance.choice(TRIGGERS)
    other = another(chance, CHAIN, *words)
    prompt = " ".join([*words, trigger])
    at = len(prompt) - len(trigger)
    return Record(
        prompt,
        answers=(f" {copied}",),
        wrong=(f" {other}",),
        counterfactual=" ".join([*words[:-1], other, trigger]),
        counterfactual_answers=(f" {other}",),
        spans={"trigger": (at, len(prompt)), "copied": (at - 1 - len(copied), at - 1)},
        notes={"length": length},
    )


def _after(chance: random.Random, words: list[str]) -> str:
    if words[-1] in TRIGGERS:
        return words[-2]
    if len(words) > 1 and words[-2] not in TRIGGERS and chance.random() < RARE:
        return chance.choice(TRIGGERS)
    return chance.choice(NEXT[words[-1]])


TASKS.add("bigram_backcopy", Generator("bigram_backcopy", draw))
