"""Indirect object identification (arXiv 2211.00593): two names, one comes again, who receives?"""

import random
from typing import Any

from interp.registry import unknown
from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import GIFTS, NAMES, SHOPS, fill

TEMPLATES = (
    "Then, {A} and {B} went to the {place}. {S2} gave a {gift} to",
    "When {A} and {B} came to the {place}, {S2} gave a {gift} to",
    "After {A} and {B} arrived at the {place}, {S2} wanted to give a {gift} to",
    "While {A} and {B} were waiting at the {place}, {S2} handed the {gift} to",
    "Then, {A} and {B} had a long talk about a {gift}, and afterwards {S2} said to",
    "The {place} was quiet when {A} and {B} met there. {S2} passed a {gift} to",
    "Yesterday {A} and {B} found a {gift} at the {place}, and {S2} brought it to",
    "In the morning {A} and {B} cleaned the {place}. Later {S2} showed a {gift} to",
)
VARIANTS = ("clean", "names")
COUNTERFACTUALS = ("names", "flip")


def draw(
    chance: random.Random,
    variant: str = "clean",
    counterfactual: str = "names",
    template: int | None = None,
) -> Record:
    """`counterfactual="names"` puts three unrelated names, "flip" repeats the other name.

    `variant="names"` asks the prompt with three names itself, whose answer is either of the two.
    """
    _check(variant, counterfactual)
    if template is not None and template not in range(len(TEMPLATES)):
        raise ValueError(f"template={template}: there are 0 to {len(TEMPLATES) - 1}.")
    template = chance.randrange(len(TEMPLATES)) if template is None else template
    a, b, c, *others = chance.sample(NAMES, 6)
    first = chance.random() < 0.5  # the indirect object comes first
    io, subject = (a, b) if first else (b, a)
    scene = {"place": chance.choice(SHOPS), "gift": chance.choice(GIFTS)}
    shape = TEMPLATES[template]
    said = subject if variant == "clean" else c
    prompt, spans = fill(shape, {"A": a, "B": b, "S2": said, **scene})
    spans["IO"], spans["S1"] = (spans["A"], spans["B"]) if first else (spans["B"], spans["A"])
    swap = dict(zip("AB", others[:2], strict=True)) | {"S2": others[2]}
    flip = {"A": a, "B": b, "S2": io}
    other, _ = fill(shape, {**(swap if counterfactual == "names" else flip), **scene})
    return Record(
        prompt,
        answers=(f" {io}",) if variant == "clean" else (f" {a}", f" {b}"),
        wrong=(f" {said}",),
        counterfactual=other,
        counterfactual_answers=(f" {subject}",) if counterfactual == "flip" else (),
        spans={name: spans[name] for name in ("IO", "S1", "S2", "place", "gift") if name in spans},
        notes={"template": template, "order": "ABBA" if first else "BABA", "variant": variant},
    )


def _check(variant: str, counterfactual: str) -> None:
    for given, known, noun in (
        (variant, VARIANTS, "variant"),
        (counterfactual, COUNTERFACTUALS, "counterfactual"),
    ):
        if given not in known:
            raise ValueError(unknown(noun, given, list(known)))


def same_people(record: Record) -> str:
    """What splits must not share: the prompt without saying which name comes again."""
    swapped: Any = record.spans
    (start, end) = swapped["S2"]
    return record.prompt[:start] + record.prompt[end:]


TASKS.add("ioi", Generator("ioi", draw, same_people))
