"""How many objects, or how many squares, are in the image?"""

import random
from dataclasses import replace
from itertools import combinations

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.drawing import paint
from interp.tasks.phrases import NUMBERS, how_many, one_split, record
from interp.tasks.scene import (
    CELLS,
    FREE,
    MOST,
    SHAPES,
    WEAK,
    Thing,
    colour_for,
    having,
    layout_of,
    roomy,
    scene,
    spot,
    thing,
)


def draw(chance: random.Random, weak: float = WEAK, free: float = FREE) -> Record:
    """Half the questions count all objects, half those of one shape, which may be absent.

    The counterfactual scene has fewer objects or one more, or one of another shape.
    """
    count_all = chance.random() < 0.5
    while True:
        things = scene(chance, weak=weak, free=free)
        shape = None if count_all else _shape(chance, things)
        others = _reshaped(chance, things, shape) if shape else _resized(chance, things)
        if others:
            break
    count, other = (len(having(each, shape)) if shape else len(each) for each in (things, others))
    numbers = tuple(word for word in NUMBERS if word != NUMBERS[count])
    answers = (NUMBERS[count], NUMBERS[other])
    return record(chance, how_many(shape), answers, things, None, others, numbers, shape=shape)


def _shape(chance: random.Random, things: list[Thing]) -> str:
    return chance.choice(SHAPES) if chance.random() < 0.3 else chance.choice(things).shape


def _resized(chance: random.Random, things: list[Thing]) -> list[Thing] | None:
    """One object more, or as few objects less as keep the scene in its split."""
    sizes = range(len(things) - 1, 0, -1)
    fewer = [[*kept] for size in sizes for kept in combinations(things, size)]
    taken, more = {each.cell for each in things}, []
    for cell in range(CELLS if len(things) < MOST else 0):
        if cell not in taken:
            shape = chance.choice(SHAPES)
            new = thing(chance, shape, colour_for(chance, shape), spot(chance, cell), weak=0.0)
            more.append([*things, new])
    chance.shuffle(more)
    ways = [*fewer, *more] if chance.random() < 0.5 else [*more, *fewer]
    return next((way for way in ways if roomy(way) and one_split(things, way)), None)


def _reshaped(chance: random.Random, things: list[Thing], shape: str) -> list[Thing]:
    """One object that has the shape loses it, or one that lacks it gets it."""
    old = chance.choice(things)
    new = chance.choice([each for each in SHAPES if each != shape]) if old.shape == shape else shape
    return [replace(each, shape=new) if each is old else each for each in things]


COUNT = TASKS.add("count", Generator("count", draw, layout_of, paint))
