"""How someone felt, after what they thought of it."""

import random

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import BAD, GLAD, GOOD, MEDIA, SAD, fill

OPENINGS = (
    "I think the {media} was {how}{opinion}. I felt",
    "Everyone said the {media} was {how}{opinion}. They felt",
    "We found the {media} {how}{opinion}. We were",
    "The {media} seemed {how}{opinion} to me. I was",
    "Last week I saw a {media}. It was {how}{opinion}. I felt",
)
DEGREES = ("", "really ", "quite ", "so ", "simply ")


def draw(chance: random.Random) -> Record:
    """Each of four words is right. The counterfactual has the opposite opinion."""
    good = chance.random() < 0.5
    shape = chance.choice(OPENINGS)
    values = {"media": chance.choice(MEDIA), "how": chance.choice(DEGREES)}
    word, other = chance.choice(GOOD), chance.choice(BAD)
    if not good:
        word, other = other, word
    prompt, spans = fill(shape, {**values, "opinion": word})
    right, against = (GLAD, SAD) if good else (SAD, GLAD)
    return Record(
        prompt,
        answers=tuple(f" {feeling}" for feeling in right),
        wrong=tuple(f" {feeling}" for feeling in against),
        counterfactual=fill(shape, {**values, "opinion": other})[0],
        counterfactual_answers=tuple(f" {feeling}" for feeling in against),
        spans={name: spans[name] for name in ("media", "opinion")},
        notes={"good": good},
    )


TASKS.add("sentiment", Generator("sentiment", draw))
