"""Is there a red circle in the image? After POPE (Li et al. 2023): balanced, in three strengths."""

import random
from dataclasses import replace
from itertools import product

from interp.registry import unknown
from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.drawing import paint
from interp.tasks.phrases import exists, record
from interp.tasks.scene import (
    COLOURS,
    COMPANION,
    FREE,
    SHAPES,
    USUAL_COLOUR,
    WEAK,
    Thing,
    colour_for,
    having,
    layout_of,
    scene,
    thing,
)

NEGATIVES = ("random", "popular", "adversarial")
KEY_WEAK = 0.95  # how often the object that an adversarial question turns on is hard to see
_WITH_COLOUR = 2 / 3
Drawn = tuple[list[Thing], Thing | None, str, str | None, bool]


def draw(
    chance: random.Random,
    negatives: str = "random",
    weak: float = WEAK,
    key_weak: float = KEY_WEAK,
    free: float = FREE,
) -> Record:
    """A scene, and whether it holds an object of a shape.

    `negatives`: what is asked for and absent is "random", "popular" (usual colours and shapes)
    or "adversarial" (usual where the scene breaks the rule, the object it turns on often weak).
    """
    if negatives not in NEGATIVES:
        raise ValueError(unknown("kind of negatives", negatives, list(NEGATIVES)))
    if negatives == "adversarial":
        things, key, shape, colour, yes = _adversarial(chance, weak, key_weak, free)
    else:
        things, key, shape, colour, yes = _plain(chance, negatives, weak, free)
    others = _changed(chance, things, key, shape, colour, yes)
    answers, named = ("yes", "no") if yes else ("no", "yes"), {"shape": shape, "colour": colour}
    return record(chance, exists(shape, colour), answers, things, key, others, **named)


def _plain(chance: random.Random, negatives: str, weak: float, free: float) -> Drawn:
    yes, coloured = chance.random() < 0.5, chance.random() < _WITH_COLOUR
    while True:
        things = scene(chance, weak=weak, free=free)
        if yes:
            key = chance.choice(things)
            return things, key, key.shape, key.colour if coloured else None, True
        pairs = product(SHAPES, COLOURS) if coloured else ((shape, None) for shape in SHAPES)
        absent = [pair for pair in pairs if not having(things, *pair)]
        if negatives == "popular":
            usual = {shape: colour for shape, (colour, _) in USUAL_COLOUR.items()}
            absent = [(s, c) for s, c in absent if s in usual and c in (None, usual[s])]
        if absent:
            shape, colour = chance.choice(absent)
            return things, None, shape, colour, False


def _adversarial(chance: random.Random, weak: float, key_weak: float, free: float) -> Drawn:
    """One of four ways, equally often: a colour or a companion that breaks the rule, yes or no."""
    by_colour, yes = chance.random() < 0.5, chance.random() < 0.5
    while True:
        things = scene(chance, (2, 4), weak, free=free)
        if by_colour:
            found = _odd_colour(chance, things, yes, key_weak)
        else:
            found = _odd_company(chance, things, yes, key_weak)
        if found:
            return found


def _odd_colour(
    chance: random.Random, things: list[Thing], yes: bool, key_weak: float
) -> Drawn | None:
    shapes = [shape for shape in USUAL_COLOUR if len(having(things, shape)) == 1]
    if not shapes:
        return None
    shape = chance.choice(shapes)
    usual = USUAL_COLOUR[shape][0]
    colour = chance.choice([each for each in COLOURS if each != usual])
    old = having(things, shape)[0]
    key = thing(chance, shape, colour, (old.x, old.y), key_weak)
    things = [key if each is old else each for each in things]
    return things, key, shape, colour if yes else usual, yes


def _odd_company(
    chance: random.Random, things: list[Thing], yes: bool, key_weak: float
) -> Drawn | None:
    """Yes: the companion without its leader, in an unusual colour. No: the leader without it."""
    leader = chance.choice(list(COMPANION))
    companion = COMPANION[leader][0]
    if not yes:
        if not having(things, leader):
            return None
        rest = [shape for shape in SHAPES if shape not in (leader, companion)]
        things = [_reshaped(chance, each, rest, companion) for each in things]
        return things, None, companion, None, False
    present = having(things, companion)
    if len(present) != 1 or having(things, leader):
        return None
    old = present[0]
    usual = USUAL_COLOUR.get(companion, ("", 0))[0]
    colour = chance.choice([each for each in COLOURS if each != usual])
    key = thing(chance, companion, colour, (old.x, old.y), key_weak)
    return [key if each is old else each for each in things], key, companion, None, True


def _reshaped(chance: random.Random, old: Thing, shapes: list[str], unwanted: str) -> Thing:
    if old.shape != unwanted:
        return old
    shape = chance.choice(shapes)
    return replace(old, shape=shape, colour=colour_for(chance, shape))


def _changed(
    chance: random.Random,
    things: list[Thing],
    key: Thing | None,
    shape: str,
    colour: str | None,
    yes: bool,
) -> list[Thing]:
    """The scene with as little changed as turns the answer."""
    if yes and colour:
        other = chance.choice([each for each in COLOURS if each != colour])
        found = having(things, shape, colour)
        return [replace(each, colour=other) if each in found else each for each in things]
    if yes:
        other = chance.choice([each for each in SHAPES if each != shape])
        found = having(things, shape)
        return [replace(each, shape=other) if each in found else each for each in things]
    near = key or chance.choice(having(things, shape) or things)
    new = replace(near, shape=shape, colour=colour or near.colour)
    return [new if each is near else each for each in things]


EXISTENCE = TASKS.add("existence", Generator("existence", draw, layout_of, paint))
