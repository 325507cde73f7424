"""Where is the red circle? One of four quadrants, in two words."""

import random
from dataclasses import replace

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.drawing import paint
from interp.tasks.phrases import off_centre, one_split, quadrant, record, where_is
from interp.tasks.scene import (
    CELLS,
    FREE,
    WEAK,
    Thing,
    having,
    in_order,
    layout_of,
    roomy,
    scene,
    spot,
)

QUADRANTS = ("top left", "top right", "bottom left", "bottom right")


def draw(chance: random.Random, weak: float = WEAK, free: float = FREE) -> Record:
    """The asked object is the only one of its shape and colour, and not near a middle line.

    In the counterfactual scene it stands in another quadrant.
    """
    while True:
        things = scene(chance, weak=weak, free=free)
        certain = [each for each in things if _certain(each, things)]
        if not certain:
            continue
        asked = chance.choice(certain)
        moved = _moved(chance, asked, things)
        if moved:
            break
    others = in_order(moved if each is asked else each for each in things)
    answers, named = (quadrant(asked), quadrant(moved)), {"shape": asked.shape}
    wrong = tuple(each for each in QUADRANTS if each != answers[0])
    named["colour"] = asked.colour
    return record(chance, where_is(asked), answers, things, asked, others, wrong, **named)


def _certain(each: Thing, things: list[Thing]) -> bool:
    return len(having(things, each.shape, each.colour)) == 1 and off_centre(each)


def _moved(chance: random.Random, asked: Thing, things: list[Thing]) -> Thing | None:
    """The object in a free cell of another quadrant, such that the scene stays in its split."""
    rest = [each for each in things if each is not asked]
    for cell in chance.sample(range(CELLS), CELLS):
        x, y = spot(chance, cell)
        moved = replace(asked, x=x, y=y)
        elsewhere = quadrant(moved) != quadrant(asked)
        if elsewhere and roomy([*rest, moved]) and one_split(things, [*rest, moved]):
            return moved
    return None


WHERE = TASKS.add("where", Generator("where", draw, layout_of, paint))
