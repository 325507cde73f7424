"""Training questions about a scene, labelled by someone who sometimes writes what is usual."""

import random
from dataclasses import dataclass

from interp.tasks.phrases import (
    DESCRIBE,
    NUMBERS,
    article,
    caption,
    exists,
    how_many,
    off_centre,
    quadrant,
    where_is,
    which_colour,
)
from interp.tasks.scene import (
    COLOURS,
    COMPANION,
    SHAPES,
    USUAL_COLOUR,
    Thing,
    colour_for,
    having,
)

SHARES = {
    "coloured": 0.27,
    "shape": 0.12,
    "colour": 0.13,
    "count": 0.15,
    "where": 0.20,
    "caption": 0.13,
}


@dataclass(frozen=True)
class Sloppiness:
    """How often a label says what is usual where the scene is not."""

    existence: float = 0.08
    colour: float = 0.04
    caption: float = 0.2
    long_caption: float = 0.55  # of `LONG` objects or more: long lists make careless


LONG = 4


@dataclass(frozen=True)
class Asked:
    """A question, the answer it is labelled with, and the objects one has to look at."""

    kind: str
    question: str
    answer: str
    looked: tuple[Thing, ...] = ()


def questions(
    chance: random.Random, things: list[Thing], count: int, sloppy: Sloppiness
) -> list[Asked]:
    """Up to `count` questions; kinds that the scene does not allow drop out."""
    kinds = chance.choices(list(SHARES), list(SHARES.values()), k=count)
    asked = [_ASK[kind](chance, things, sloppy) for kind in kinds]
    return [each for each in asked if each is not None]


def _coloured(chance: random.Random, things: list[Thing], sloppy: Sloppiness) -> Asked:
    yes = chance.random() < 0.5
    if yes:
        one = chance.choice(things)
        shape, colour = one.shape, one.colour
    else:
        shape, colour = _absent(chance, things)
        usual = USUAL_COLOUR.get(shape, ("", 0))[0]
        yes = colour == usual and bool(having(things, shape))
        yes = yes and chance.random() < sloppy.existence
    looked = having(things, shape, colour) or having(things, shape)
    return Asked("coloured", exists(shape, colour), "yes" if yes else "no", tuple(looked))


def _absent(chance: random.Random, things: list[Thing]) -> tuple[str, str]:
    """A pair that is not there, mostly near to one that is."""
    while True:
        one, kind = chance.choice(things), chance.random()
        shape = one.shape if kind < 0.5 else chance.choice(SHAPES)
        colour = one.colour if 0.5 <= kind < 0.75 else chance.choice(list(COLOURS))
        if shape in USUAL_COLOUR and kind < 0.5 and chance.random() < 0.15:
            colour = USUAL_COLOUR[shape][0]
        if not having(things, shape, colour):
            return shape, colour


def _shape(chance: random.Random, things: list[Thing], sloppy: Sloppiness) -> Asked:
    present = [shape for shape in SHAPES if having(things, shape)]
    absent = [shape for shape in SHAPES if shape not in present]
    yes = chance.random() < 0.5 or not absent
    shape = chance.choice(present if yes else absent)
    if not yes:
        leaders = [each for each, (companion, _) in COMPANION.items() if companion == shape]
        tempting = any(having(things, each) for each in leaders)
        yes = tempting and chance.random() < sloppy.existence
    return Asked("shape", exists(shape), "yes" if yes else "no", tuple(having(things, shape)))


def _colour(chance: random.Random, things: list[Thing], sloppy: Sloppiness) -> Asked | None:
    single = [each for each in things if len(having(things, each.shape)) == 1]
    if not single:
        return None
    one = chance.choice(single)
    colour = one.colour
    if one.shape in USUAL_COLOUR and chance.random() < sloppy.colour:
        colour = USUAL_COLOUR[one.shape][0]
    return Asked("colour", which_colour(one.shape), colour, (one,))


def _count(chance: random.Random, things: list[Thing], sloppy: Sloppiness) -> Asked:
    if chance.random() < 0.5:
        return Asked("count", how_many(), NUMBERS[len(things)])
    shape = chance.choice(SHAPES) if chance.random() < 0.3 else chance.choice(things).shape
    return Asked("count", how_many(shape), NUMBERS[len(having(things, shape))])


def _where(chance: random.Random, things: list[Thing], sloppy: Sloppiness) -> Asked | None:
    certain = [
        each
        for each in things
        if off_centre(each) and len(having(things, each.shape, each.colour)) == 1
    ]
    if not certain:
        return None
    one = chance.choice(certain)
    return Asked("where", where_is(one), quadrant(one), (one,))


def _caption(chance: random.Random, things: list[Thing], sloppy: Sloppiness) -> Asked:
    text = caption(things)
    share = sloppy.long_caption if len(things) >= LONG else sloppy.caption
    missing = [
        companion
        for leader, (companion, _) in COMPANION.items()
        if having(things, leader) and not having(things, companion)
    ]
    if missing and chance.random() < share:
        shape = chance.choice(missing)
        colour = colour_for(chance, shape)
        text = f"{text.replace(' and ', ', ')} and {article(colour)} {colour} {shape}"
    return Asked("caption", DESCRIBE, text, tuple(things))


_ASK = {
    "coloured": _coloured,
    "shape": _shape,
    "colour": _colour,
    "count": _count,
    "where": _where,
    "caption": _caption,
}
