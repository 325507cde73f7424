"""Describe the image: all objects in reading order. For hallucinations, after CHAIR."""

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.drawing import paint
from interp.tasks.phrases import DESCRIBE, caption, record
from interp.tasks.scene import (
    COMPANION,
    FREE,
    SHAPES,
    WEAK,
    Thing,
    colour_for,
    having,
    layout_of,
    scene,
)

RARE_WEAK = 0.5  # share of objects that are hard to see in rare scenes


def draw(
    chance: random.Random,
    rare: bool = False,
    counts: tuple[int, int] = (2, 5),
    weak: float | None = None,
    free: float = FREE,
) -> Record:
    """A scene, and the caption that names all its objects.

    `rare`: there is a circle without its usual square, or a cross without its diamond, and half
    of the objects are hard to see, unless `weak` says otherwise.

    The counterfactual scene has one object in another colour, which its caption names.
    """
    if weak is None:
        weak = RARE_WEAK if rare else WEAK
    while True:
        things = scene(chance, counts, weak, free=free)
        if rare:
            leader = chance.choice(list(COMPANION))
            if not having(things, leader):
                continue
            things = _without(chance, things, COMPANION[leader][0])
        old = chance.choice(things)
        colour = colour_for(chance, "", biased=False)
        if colour == old.colour:
            continue
        others = [replace(each, colour=colour) if each is old else each for each in things]
        return record(chance, DESCRIBE, (caption(things), caption(others)), things, None, others)


def _without(chance: random.Random, things: list[Thing], shape: str) -> list[Thing]:
    """No object of a shape, and none that brings it along except what is there already."""
    rest = [each for each in SHAPES if each != shape and each not in COMPANION]
    return [
        replace(each, shape=(new := chance.choice(rest)), colour=colour_for(chance, new))
        if each.shape == shape
        else each
        for each in things
    ]


CAPTIONS = TASKS.add("captions", Generator("captions", draw, layout_of, paint))


def mentioned(text: str) -> list[tuple[str, str]]:
    """The objects a caption names, as (colour, shape)."""
    words = text.replace(",", " ").split()
    pairs = pairwise(["", *words])
    return [(before, word) for before, word in pairs if word in SHAPES]


def chair(said: Sequence[str], records: Sequence[Record]) -> dict[str, float]:
    """CHAIR (Rohrbach et al. 2018): the shares of named shapes (`chair_i`) and of captions
    (`chair_s`) that are not in the image, and of shapes in the image that are named (`recall`)."""
    named = wrong = captions = found = present = 0
    for text, shown in zip(said, records, strict=True):
        shapes = {note["shape"] for note in shown.notes["objects"]}
        told = [shape for _, shape in mentioned(text)]
        made_up = [shape for shape in told if shape not in shapes]
        named, wrong = named + len(told), wrong + len(made_up)
        captions += bool(made_up)
        found, present = found + len(shapes & set(told)), present + len(shapes)
    return {
        "chair_i": wrong / max(named, 1),
        "chair_s": captions / max(len(said), 1),
        "recall": found / max(present, 1),
    }
