"""Colored Objects (arXiv 2310.08744): which colour is the object that is asked for?"""

import random
from dataclasses import dataclass

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import COLOURS, ITEMS, Spans, article, fill, shifted

SURFACES = ("table", "desk", "floor", "shelf")
STARTS = ("there is", "you see", "I see")
_OBJECTS = "{a0} {colour 0} {noun 0}, {a1} {colour 1} {noun 1}, and {a2} {colour 2} {noun 2}"
BLOCK = "Q: On the {surface}, {start} " + _OBJECTS + ". What color is the {asked}? A:"
_HIDDEN = ("a0", "a1", "a2", "surface", "start")


@dataclass(frozen=True)
class Block:
    """Three objects on a surface, and which of them is asked for; `changed` asks for another."""

    text: str
    changed: str
    spans: Spans
    asked: int
    colours: tuple[str, str, str]  # of the object asked for, of the other, of the third


def draw(chance: random.Random, shots: int = 1) -> Record:
    """`shots` solved blocks come before the question; no two blocks share an object.

    The counterfactual asks for another of the same three objects.
    """
    if not 0 <= shots <= 4:
        raise ValueError(f"shots={shots}: there are objects for 0 to 4 solved blocks.")
    nouns = chance.sample(ITEMS, 3 * (shots + 1))
    blocks = [_block(chance, nouns[3 * shot : 3 * shot + 3]) for shot in range(shots + 1)]
    text, spans = "", Spans()
    for shot, block in enumerate(blocks[:-1], start=1):
        spans |= shifted(block.spans, len(text), f"shot {shot} ")
        answer = len(text) + len(block.text) + 1
        spans[f"shot {shot} answer"] = (answer, answer + len(block.colours[0]))
        text += f"{block.text} {block.colours[0]} "
    last = blocks[-1]
    right, against, third = last.colours
    return Record(
        text + last.text,
        answers=(f" {right}",),
        wrong=(f" {against}", f" {third}"),
        counterfactual=text + last.changed,
        counterfactual_answers=(f" {against}",),
        spans=spans | shifted(last.spans, len(text)),
        notes={"shots": shots, "asked": last.asked},
    )


def _block(chance: random.Random, nouns: list[str]) -> Block:
    asked, other = chance.sample(range(3), 2)
    colours = chance.sample(COLOURS, 3)
    values = _values(chance, list(zip(colours, nouns, strict=True)))
    text, places = fill(BLOCK, {**values, "asked": nouns[asked]})
    changed, _ = fill(BLOCK, {**values, "asked": nouns[other]})
    places |= {"noun": places[f"noun {asked}"], "colour": places[f"colour {asked}"]}
    spans = {name: place for name, place in places.items() if name not in _HIDDEN}
    three = (colours[asked], colours[other], colours[3 - asked - other])
    return Block(text, changed, spans, asked, three)


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
