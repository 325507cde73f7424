"""Colored Objects (arXiv 2310.08744): which colour is the object that is asked for?"""

import random

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import COLOURS, ITEMS, Spans, article, fill, shifted

SURFACES = ("table", "desk", "floor", "shelf")
STARTS = ("there is", "you see", "I see")
_OBJECTS = "{a0} {colour 0} {noun 0}, {a1} {colour 1} {noun 1}, and {a2} {colour 2} {noun 2}"
BLOCK = "Q: On the {surface}, {start} " + _OBJECTS + ". What color is the {asked}? A:"
_HIDDEN = ("a0", "a1", "a2", "surface", "start")


def draw(chance: random.Random, shots: int = 1) -> Record:
    """`shots` solved blocks come before the question; no block shares an object or a colour order.

    The counterfactual asks for another of the same three objects.
    """
    if not 0 <= shots <= 4:
        raise ValueError(f"shots={shots}: there are objects for 0 to 4 solved blocks.")
    nouns = chance.sample(ITEMS, 3 * (shots + 1))
    text, spans = "", Spans()
    for shot in range(shots + 1):
        asked, other = chance.sample(range(3), 2)
        objects = list(zip(chance.sample(COLOURS, 3), nouns[3 * shot : 3 * shot + 3], strict=True))
        values = _values(chance, objects)
        block, places = fill(BLOCK, {**values, "asked": objects[asked][1]})
        changed, _ = fill(BLOCK, {**values, "asked": objects[other][1]})
        places |= {"noun": places[f"noun {asked}"], "colour": places[f"colour {asked}"]}
        places = {name: place for name, place in places.items() if name not in _HIDDEN}
        before = text + " " if text else ""
        solved = shot < shots
        spans |= shifted(places, len(before), f"shot {shot + 1} " if solved else "")
        counterfactual, text = before + changed, before + block
        if solved:
            spans[f"shot {shot + 1} answer"] = (
                len(text) + 1,
                len(text) + 1 + len(objects[asked][0]),
            )
            text += " " + objects[asked][0]
    right, against = objects[asked][0], objects[other][0]
    third = objects[3 - asked - other][0]
    return Record(
        text,
        answers=(f" {right}",),
        wrong=(f" {against}", f" {third}"),
        counterfactual=counterfactual,
        counterfactual_answers=(f" {against}",),
        spans=spans,
        notes={"shots": shots, "asked": asked},
    )


def _values(chance: random.Random, objects: list[tuple[str, str]]) -> dict[str, str]:
    values = {"surface": chance.choice(SURFACES), "start": chance.choice(STARTS)}
    for order, (colour, noun) in enumerate(objects):
        values |= {f"colour {order}": colour, f"noun {order}": noun}
        values[f"a{order}"] = article(colour).split()[0]
    return values


def block_without_question(record: Record) -> str:
    """What splits must not share: the objects, whichever is asked for."""
    start, end = record.spans["asked"]
    return record.prompt[:start] + record.prompt[end:]


TASKS.add("colored_objects", Generator("colored_objects", draw, block_without_question))
