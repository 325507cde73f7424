"""World capitals, both ways: a task of memory alone, for telling circuits apart."""

import random
from collections.abc import Sequence

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.facts import OPENINGS
from interp.tasks.wording import Wording, chosen
from interp.tasks.words import CAPITALS, another, fill

OF_COUNTRY = (
    "the capital of {given} is",
    "the first city of {given} is",
    "the government of {given} meets in",
    "a flight to the capital of {given} lands in",
    "the largest museum of {given} is in",
    "children in {given} learn about",
)
OF_CITY = (
    "{given} is the capital of",
    "{given} is the first city of",
    "a train from {given} runs through",
    "the station of {given} is the largest in",
    "the people of {given} are proud of",
    "a letter from {given} comes from",
)


WORDINGS = {
    "demo": Wording(
        (*OF_COUNTRY, *OF_CITY),
        {"country": list(CAPITALS), "city": list(CAPITALS.values())},
        {"country": 2, "city": 2},
    )
}


def draw(chance: random.Random, opened: bool = False, without: Sequence[str] = ()) -> Record:
    """Half a dozen sentences each way. `opened`: other words come first, always."""
    kept = chosen(WORDINGS, without=without).words
    known = {a: b for a, b in CAPITALS.items() if a in kept["country"] and b in kept["city"]}
    if len(known) < 2:
        raise ValueError(f"without={list(without)} leaves {len(known)} capitals, of 2 at least.")
    forward = chance.random() < 0.6
    pairs = known if forward else {city: country for country, city in known.items()}
    given = chance.choice(list(pairs))
    other = another(chance, list(pairs), given)
    opening = chance.choice(OPENINGS[1:] if opened else OPENINGS)
    shape = f"{opening} {chance.choice(OF_COUNTRY if forward else OF_CITY)}".strip()
    prompt, spans = fill(shape, {"given": given})
    return Record(
        prompt,
        answers=(f" {pairs[given]}",),
        wrong=(f" {pairs[other]}",),
        counterfactual=fill(shape, {"given": other})[0],
        counterfactual_answers=(f" {pairs[other]}",),
        spans={"subject": spans["given"]},
        notes={"asked": "city" if forward else "country"},
    )


TASKS.add("capitals", Generator("capitals", draw, wordings=WORDINGS, inside={"opened": True}))
