"""Indirect object identification (arXiv 2211.00593): two names, one comes again, who receives?"""

import random
import re
from collections.abc import Sequence
from typing import Any

from interp.registry import unknown
from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.published import IOI_GIFTS, IOI_NAMES, IOI_PLACES, IOI_TEMPLATES
from interp.tasks.wording import Wording, chosen
from interp.tasks.words import GIFTS, NAMES, SHOPS, Spans, fill

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
_TAKEN = {"name": 6}
WORDINGS = {
    "demo": Wording(TEMPLATES, {"name": NAMES, "place": SHOPS, "gift": GIFTS}, _TAKEN),
    "published": Wording(
        IOI_TEMPLATES, {"name": IOI_NAMES, "place": IOI_PLACES, "gift": IOI_GIFTS}, _TAKEN
    ),
}
VARIANTS = ("clean", "names")
COUNTERFACTUALS = ("names", "flip", "io", "s2")
ORDERS = ("ABBA", "BABA")
POOLS = ("all", "mixed")
SPANS = ("IO", "S1", "S1+1", "S2", "END", "place", "gift")


def draw(
    chance: random.Random,
    variant: str = "clean",
    counterfactual: str = "names",
    template: int | None = None,
    wording: str = "demo",
    order: str | None = None,
    templates: str = "all",
    without: Sequence[str] = (),
) -> Record:
    """Two names in the order ABBA (the one who receives stands first) or BABA, if not told either.

    `counterfactual="names"` puts three unrelated names (p_ABC), "flip" repeats the other name, "io"
    puts another name for the one who receives, "s2" another for the one who comes again.
    `variant="names"` asks the prompt with three names itself, whose answer is either of the two.
    `templates="mixed"` draws from the first half of the templates, as the published code does.
    """
    own = chosen(WORDINGS, wording, without)
    _check(variant, counterfactual, order, templates)
    template = _template(chance, len(own.texts), template, templates)
    a, b, c, *others = chance.sample(own.words["name"], 6)
    first = chance.random() < 0.5  # the indirect object comes first
    first = first if order is None else order == "ABBA"
    (io, receiver), (subject, giver) = ((a, "A"), (b, "B")) if first else ((b, "B"), (a, "A"))
    gift = {"place": chance.choice(own.words["place"]), "gift": chance.choice(own.words["gift"])}
    said = subject if variant == "clean" else c
    values = {"A": a, "B": b, "S2": said, **gift, "gift again": gift["gift"]}
    prompt, spans = fill(own.texts[template], values)
    changes = {
        "names": dict(zip(("A", "B", "S2"), others, strict=True)),
        "flip": {"S2": io},
        "io": {receiver: others[0]},
        "s2": {"S2": others[0]},
    }
    definite = {"flip": (f" {subject}",)}  # of three different names no one answer is right
    if variant == "clean":
        definite["io"] = (f" {others[0]}",)
    return Record(
        prompt,
        answers=(f" {io}",) if variant == "clean" else (f" {a}", f" {b}"),
        wrong=(f" {said}",),
        counterfactual=fill(own.texts[template], values | changes[counterfactual])[0],
        counterfactual_answers=definite.get(counterfactual, ()),
        spans=_named(prompt, spans, receiver, giver),
        notes={"template": template, "order": ORDERS[not first], "variant": variant},
    )


def _template(chance: random.Random, count: int, template: int | None, templates: str) -> int:
    count = count if templates == "all" else count // 2
    if template is None:
        return chance.randrange(count)
    if template not in range(count):
        raise ValueError(f"template={template}: there are 0 to {count - 1}.")
    return template


def _named(prompt: str, spans: Spans, receiver: str, giver: str) -> Spans:
    """The places that the published circuit is told by."""
    spans = {**spans, "IO": spans[receiver], "S1": spans[giver]}
    after = re.compile(r"\w+").search(prompt, spans["S1"][1])
    assert after is not None  # every template goes on after its names
    spans |= {"S1+1": after.span(), "END": (prompt.rindex(" ") + 1, len(prompt))}
    return {name: spans[name] for name in SPANS if name in spans}


def _check(variant: str, counterfactual: str, order: str | None, templates: str) -> None:
    for given, known, noun in (
        (variant, VARIANTS, "variant"),
        (counterfactual, COUNTERFACTUALS, "counterfactual"),
        (order or "ABBA", ORDERS, "order"),
        (templates, POOLS, "choice of templates"),
    ):
        if given not in known:
            raise ValueError(unknown(noun, given, list(known)))


def same_people(record: Record) -> str:
    """What splits must not share: the prompt without saying which name comes again."""
    swapped: Any = record.spans
    (start, end) = swapped["S2"]
    return record.prompt[:start] + record.prompt[end:]


TASKS.add("ioi", Generator("ioi", draw, same_people, wordings=WORDINGS))
