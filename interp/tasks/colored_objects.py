"""Colored Objects (arXiv 2310.08744): which colour is the object that is asked for?"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.published import (
    OBJECTS_BLOCK,
    OBJECTS_COLOURS,
    OBJECTS_ITEMS,
    OBJECTS_SURFACES,
)
from interp.tasks.wording import Wording, chosen
from interp.tasks.words import COLOURS, ITEMS, Spans, article, fill, shifted

SURFACES = ("table", "desk", "floor", "shelf")
STARTS = ("there is", "you see", "I see")
_OBJECTS = "{a0} {colour 0} {noun 0}, {a1} {colour 1} {noun 1}, and {a2} {colour 2} {noun 2}"
BLOCK = "Q: On the {surface}, {start} " + _OBJECTS + ". What color is the {asked}? A:"
_HIDDEN = ("a0", "a1", "a2", "surface", "start")
_TAKEN = {"colour": 3, "object": 3}
WORDINGS = {
    "demo": Wording((BLOCK,), {"surface": SURFACES, "colour": COLOURS, "object": ITEMS}, _TAKEN),
    "published": Wording(
        (OBJECTS_BLOCK,),
        {"surface": OBJECTS_SURFACES, "colour": OBJECTS_COLOURS, "object": OBJECTS_ITEMS},
        _TAKEN,
        titled=("colour",),
    ),
}


@dataclass(frozen=True)
class Block:
    """Three objects on a surface, and which of them is asked for; `changed` asks for another."""

    text: str
    changed: str
    spans: Spans
    asked: int
    colours: tuple[str, str, str]  # of the object asked for, of the other, of the third


def draw(
    chance: random.Random,
    shots: int = 1,
    wording: str = "demo",
    apart: bool = False,
    without: Sequence[str] = (),
) -> Record:
    """`shots` solved blocks come before the question; no two blocks share an object.

    The counterfactual asks for another of the same three objects. With `apart` no two blocks share
    a colour either, which the published wording keeps to always; its answers have a capital letter.
    """
    own = chosen(WORDINGS, wording, without)
    most = len(own.words["object"]) // 3 - 1
    if shots not in range(most + 1):
        raise ValueError(f"shots={shots}: there are objects for 0 to {most} solved blocks.")
    apart = apart or wording == "published"
    colours, wanted = own.words["colour"], 3 * (shots + 1)
    if apart and len(colours) < wanted:
        raise ValueError(
            f"shots={shots}: {shots + 1} blocks that share no colour take {wanted} of them, and there are "
            f"{len(colours)}. Ask for fewer shots{'' if wording == 'published' else ' or apart=False'}."
        )
    nouns, blocks, used = chance.sample(own.words["object"], wanted), [], set()
    for shot in range(shots + 1):
        free = [each for each in colours if each not in used]
        blocks.append(_block(chance, own, nouns[3 * shot : 3 * shot + 3], free))
        used |= set(blocks[-1].colours) if apart else set()
    return _written(blocks, "\n" if wording == "published" else " ", bool(own.titled))


def _written(blocks: list[Block], between: str, titled: bool) -> Record:
    """The solved blocks and the one that is asked, one after the other."""
    text, spans = "", Spans()
    for shot, block in enumerate(blocks[:-1], start=1):
        spans |= shifted(block.spans, len(text), f"shot {shot} ")
        answer = len(text) + len(block.text) + 1
        spans[f"shot {shot} answer"] = (answer, answer + len(block.colours[0]))
        text += f"{block.text} {_label(block.colours[0], titled)}{between}"
    last = blocks[-1]
    right, against, third = (f" {_label(colour, titled)}" for colour in last.colours)
    prompt = text + last.text
    end = {"END": (len(prompt) - 1, len(prompt))}  # the colon, which is the last token
    return Record(
        prompt,
        answers=(right,),
        wrong=(against, third),
        counterfactual=text + last.changed,
        counterfactual_answers=(against,),
        spans=spans | shifted(last.spans, len(text)) | end,
        notes={"shots": len(blocks) - 1, "asked": last.asked},
    )


def _label(colour: str, titled: bool) -> str:
    return colour.title() if titled else colour


def _block(chance: random.Random, own: Wording, nouns: list[str], free: list[str]) -> Block:
    asked, other = chance.sample(range(3), 2)
    colours = chance.sample(free, 3)
    surface = chance.choice(own.words["surface"])
    values = _values(chance, surface, list(zip(colours, nouns, strict=True)))
    text, places = fill(own.texts[0], {**values, "asked": nouns[asked]})
    changed, _ = fill(own.texts[0], {**values, "asked": nouns[other]})
    places |= {"noun": places[f"noun {asked}"], "colour": places[f"colour {asked}"]}
    spans = {name: place for name, place in places.items() if name not in _HIDDEN}
    three = (colours[asked], colours[other], colours[3 - asked - other])
    return Block(text, changed, spans, asked, three)


def _values(chance: random.Random, surface: str, objects: list[tuple[str, str]]) -> dict[str, str]:
    values = {"surface": surface, "start": chance.choice(STARTS)}
    for order, (colour, noun) in enumerate(objects):
        values |= {f"colour {order}": colour, f"noun {order}": noun}
        values[f"a{order}"] = article(colour).split()[0]
    return values


def block_without_question(record: Record) -> str:
    """What splits must not share: the objects, whichever is asked for."""
    start, end = record.spans["asked"]
    return record.prompt[:start] + record.prompt[end:]


TASKS.add(
    "colored_objects",
    Generator("colored_objects", draw, block_without_question, wordings=WORDINGS),
)
