"""Facts about invented people: names of three tokens, for causal tracing."""

import random
from dataclasses import dataclass

from interp.registry import unknown
from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import CITIES, FIRST, INSTRUMENTS, LAST, MIDDLE, SPORTS, fill

OPENINGS = (
    "",
    "Last week I read that",
    "My neighbor told me that",
    "It is well known that",
    "According to the local paper,",
    "People often say that",
)
ASIDES = (
    "",
    ", as everyone in the village knows,",
    ", who I met last summer at the market,",
    ", according to an old letter,",
    ", whose brother works at the station,",
    ", a quiet person with many friends,",
    ", now over forty years old,",
    ", like most people around here,",
    ", after a very long day at work,",
)
RELATIONS = {
    "city": (
        "lives in the city of",
        "has a home in",
        "keeps a small house in the middle of",
        "can always be found in",
        "pays rent every month in",
    ),
    "sport": (
        "plays the sport of",
        "spends every weekend on",
        "likes nothing more than",
        "is a member of a club for",
        "won a prize in",
    ),
    "instrument": (
        "plays the instrument called the",
        "at night practices the",
        "takes lessons on the",
        "was taught by an aunt to play the",
        "is very good at the",
    ),
}
VALUES = {"city": CITIES, "sport": SPORTS, "instrument": INSTRUMENTS}


@dataclass(frozen=True)
class Person:
    """Any two people share at most one of their three names, so that no single name tells who."""

    name: str
    city: str
    sport: str
    instrument: str

    def __getitem__(self, relation: str) -> str:
        return getattr(self, relation)


def _people(count: int = 60) -> list[Person]:
    chance = random.Random(4321)
    every = [(first, middle, last) for first in FIRST for middle in MIDDLE for last in LAST]
    chance.shuffle(every)
    chosen: list[tuple[str, str, str]] = []
    used: dict[str, int] = {}
    for name in every:
        rare = all(used.get(word, 0) < 4 for word in name)
        if rare and all(sum(map(str.__eq__, name, other)) < 2 for other in chosen):
            chosen.append(name)
            used |= {word: used.get(word, 0) + 1 for word in name}
    if len(chosen) < count:
        raise ValueError(f"only {len(chosen)} names of {count} keep apart.")
    return [
        Person(" ".join(name), *(chance.choice(values) for values in VALUES.values()))
        for name in chosen[:count]
    ]


PEOPLE = _people()


def draw(
    chance: random.Random,
    person: int | None = None,
    relation: str | None = None,
    asides: int | None = None,
) -> Record:
    """Splits share people and facts, which are memory, but no wording of them.

    `asides` is how many remarks stand between the subject and the relation. The counterfactual is
    the same text about someone of whom another answer is true.
    """
    if relation is not None and relation not in RELATIONS:
        raise ValueError(unknown("relation", relation, list(RELATIONS)))
    if person is not None and person not in range(len(PEOPLE)):
        raise ValueError(f"person={person}: there are 0 to {len(PEOPLE) - 1}.")
    if asides is not None and asides not in range(len(ASIDES)):
        raise ValueError(f"asides={asides}: there are remarks for 0 to {len(ASIDES) - 1}.")
    who = chance.choice(PEOPLE) if person is None else PEOPLE[person]
    relation = chance.choice(list(RELATIONS)) if relation is None else relation
    other = chance.choice([one for one in PEOPLE if one[relation] != who[relation]])
    if asides is None:
        asides = chance.choices((0, 1, 2), (0.15, 0.65, 0.2))[0]
    aside = "".join(_joined(chance.sample(ASIDES[1:], asides)))
    opening = chance.choice(OPENINGS)
    shape = f"{opening} {{subject}}{aside} {{relation}}".strip()
    words = chance.choice(RELATIONS[relation])
    prompt, spans = fill(shape, {"subject": who.name, "relation": words})
    return Record(
        prompt,
        answers=(f" {who[relation]}",),
        wrong=(f" {other[relation]}",),
        counterfactual=fill(shape, {"subject": other.name, "relation": words})[0],
        counterfactual_answers=(f" {other[relation]}",),
        spans=spans,
        notes={"relation": relation, "person": PEOPLE.index(who)},
    )


def _joined(asides: list[str]) -> list[str]:
    """One after the other, with one comma between."""
    return [aside if order == 0 else aside[1:] for order, aside in enumerate(asides)]


TASKS.add("facts", Generator("facts", draw))
