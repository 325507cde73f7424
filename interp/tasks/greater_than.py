"""Greater-than (arXiv 2305.00586): the second year of a span is after the first."""

import random

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import EVENTS, fill

TEMPLATE = "The {event} lasted from the year {century}{start} to the year {again}"


def draw(chance: random.Random) -> Record:
    """Every later year of the century is right, every other wrong: report probabilities, not hits.

    The counterfactual starts in year 01, after which nearly every year is right.
    """
    century, year = str(chance.randint(11, 19)), chance.randint(2, 97)
    values = {"event": chance.choice(EVENTS), "century": century, "again": century}
    prompt, spans = fill(TEMPLATE, {**values, "start": f"{year:02d}"})
    return Record(
        prompt,
        answers=tuple(f"{later:02d}" for later in range(year + 1, 100)),
        wrong=tuple(f"{earlier:02d}" for earlier in range(year + 1)),
        counterfactual=fill(TEMPLATE, {**values, "start": "01"})[0],
        counterfactual_answers=tuple(f"{later:02d}" for later in range(2, 100)),
        spans={name: spans[name] for name in ("event", "century", "start")},
        notes={"year": year},
    )


TASKS.add("greater_than", Generator("greater_than", draw))
