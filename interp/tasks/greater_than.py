"""Greater-than (arXiv 2305.00586): the second year of a span is after the first."""

import functools
import random
from collections.abc import Sequence

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.published import YEARS, YEARS_NOUNS
from interp.tasks.wording import Wording, chosen
from interp.tasks.words import EVENTS, fill

TEMPLATE = "The {event} lasted from the year {century}{start} to the year {again}"
_OWN_YEARS = tuple(f"{century}{year:02d}" for century in range(11, 20) for year in range(2, 98))
WORDINGS = {
    "demo": Wording((TEMPLATE,), {"event": EVENTS, "year": _OWN_YEARS}),
    "published": Wording((TEMPLATE,), {"event": YEARS_NOUNS, "year": YEARS}),
}


def draw(chance: random.Random, wording: str = "demo", without: Sequence[str] = ()) -> Record:
    """Every later year of the century is right, every other wrong: report probabilities, not hits.

    The counterfactual starts in year 01, after which nearly every year is right. In the published
    wording all start years from 02 to 98 are as frequent, in centuries 11 to 17; of these are left
    out the years that GPT-2 does not read as two tokens of two digits.
    """
    own = chosen(WORDINGS, wording, without)
    century, year = _start(chance, wording, _kept(own))
    values = {"event": chance.choice(own.words["event"]), "century": century, "again": century}
    prompt, spans = fill(TEMPLATE, {**values, "start": f"{year:02d}"})
    spans["END"] = spans["again"]
    return Record(
        prompt,
        answers=tuple(f"{later:02d}" for later in range(year + 1, 100)),
        wrong=tuple(f"{earlier:02d}" for earlier in range(year + 1)),
        counterfactual=fill(TEMPLATE, {**values, "start": "01"})[0],
        counterfactual_answers=tuple(f"{later:02d}" for later in range(2, 100)),
        spans={name: spans[name] for name in ("event", "century", "start", "END")},
        notes={"year": year},
    )


@functools.cache
def _kept(own: Wording) -> frozenset[str]:
    return frozenset(own.words["year"])


def _start(chance: random.Random, wording: str, kept: frozenset[str]) -> tuple[str, int]:
    """A century and a year of it, both at random; in the published wording the year goes first."""
    while True:
        if wording == "demo":
            century, year = str(chance.randint(11, 19)), chance.randint(2, 97)
            if f"{century}{year:02d}" in kept:
                return century, year
            continue
        year = chance.randint(2, 98)
        centuries = [str(each) for each in range(11, 18) if f"{each}{year:02d}" in kept]
        if centuries:
            return chance.choice(centuries), year


TASKS.add("greater_than", Generator("greater_than", draw, wordings=WORDINGS))
