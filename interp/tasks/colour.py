"""What colour is the square? Also small and cluttered, where looking closer helps."""

import random
from dataclasses import replace

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.drawing import paint
from interp.tasks.phrases import record, which_colour
from interp.tasks.scene import COLOURS, FREE, TINY, WEAK, Thing, having, layout_of, scene


def draw(
    chance: random.Random,
    small: bool = False,
    radius: tuple[float, float] = TINY,
    weak: float = WEAK,
    free: float = FREE,
) -> Record:
    """A scene, and the colour of the one object of a shape.

    `small`: the asked object has a radius of that range in a scene of 4 or 5 others, all clear,
    and any colour.
    """
    while True:
        things = (
            scene(chance, (5, 6), 0.0, free=free) if small else scene(chance, weak=weak, free=free)
        )
        single = [each for each in things if len(having(things, each.shape)) == 1]
        if not single:
            continue
        asked = chance.choice(single)
        if small:
            asked, things = _shrunk(chance, asked, things, radius)
        others = [each for each in COLOURS if each != asked.colour]
        other = chance.choice(others)
        repainted = [replace(each, colour=other) if each is asked else each for each in things]
        question, answers, wrong = which_colour(asked.shape), (asked.colour, other), tuple(others)
        return record(chance, question, answers, things, asked, repainted, wrong, shape=asked.shape)


def _shrunk(
    chance: random.Random, old: Thing, things: list[Thing], radius: tuple[float, float]
) -> tuple[Thing, list[Thing]]:
    size, colour = round(chance.uniform(*radius), 3), chance.choice(list(COLOURS))
    new = replace(old, kind="small", radius=size, colour=colour)
    return new, [new if each is old else each for each in things]


COLOUR = TASKS.add("colour", Generator("colour", draw, layout_of, paint))
