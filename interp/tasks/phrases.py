"""How scenes are asked about and described, and the records made of that."""

import random
from collections.abc import Sequence

from interp.task import Record
from interp.tasks import split_of
from interp.tasks.scene import SIDE, Thing, layout

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
DESCRIBE = "Describe the image."
COUNT_ALL = "How many objects are in the image?"


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def exists(shape: str, colour: str | None = None) -> str:
    named = f"{colour} {shape}" if colour else shape
    return f"Is there {article(named)} {named} in the image?"


def which_colour(shape: str) -> str:
    return f"What colour is the {shape}?"


def how_many(shape: str | None = None) -> str:
    if shape is None:
        return COUNT_ALL
    return f"How many {shape}{'es' if shape.endswith('s') else 's'} are in the image?"


def where_is(thing: Thing) -> str:
    return f"Where is the {thing.colour} {thing.shape}?"


def quadrant(thing: Thing) -> str:
    middle = SIDE / 2
    down, along = "top" if thing.y < middle else "bottom", "left" if thing.x < middle else "right"
    return f"{down} {along}"


def off_centre(thing: Thing, margin: float = 3.0) -> bool:
    """Whether its quadrant is beyond doubt."""
    return min(abs(thing.x - SIDE / 2), abs(thing.y - SIDE / 2)) > margin


def caption(things: Sequence[Thing]) -> str:
    """Every object, in reading order."""
    named = [f"{article(each.colour)} {each.colour} {each.shape}" for each in things]
    return " and ".join([", ".join(named[:-1]), named[-1]]) if len(named) > 1 else named[0]


def one_split(things: Sequence[Thing], others: Sequence[Thing]) -> bool:
    """Whether two scenes belong to the same split, as a scene and its counterfactual must."""
    return split_of(layout(things)) == split_of(layout(others))


def record(
    chance: random.Random,
    question: str,
    answers: tuple[str, str],
    things: Sequence[Thing],
    asked: Thing | None,
    others: Sequence[Thing] | None = None,
    wrong: tuple[str, ...] = (),
    **named: str | None,
) -> Record:
    """A question about a scene, and about `others`, the scene in which the second answer is right.

    `named` are words of the question that become spans of these names.
    """
    right, other = answers
    starts = {name: (question.index(word), word) for name, word in named.items() if word}
    spans = {name: (start, start + len(word)) for name, (start, word) in starts.items()}
    notes = {
        "objects": [thing.note() for thing in things],
        "asked": next((place for place, each in enumerate(things) if each is asked), None),
        "seed": chance.getrandbits(32),
    }
    if others is not None:
        notes["counterfactual_objects"] = [thing.note() for thing in others]
    return Record(
        question,
        (f" {right}",),
        wrong=tuple(f" {word}" for word in wrong or (other,)),
        counterfactual_answers=(f" {other}",) if others is not None else (),
        spans=spans,
        notes=notes,
    )
