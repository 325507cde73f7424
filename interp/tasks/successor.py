"""What comes next in a list that everyone knows."""

import random

from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.words import DAYS, MONTHS, NUMBERS, ORDINALS

CIRCLES = (DAYS, MONTHS)
LINES = (NUMBERS, ORDINALS)
OPENINGS = (
    "",
    "In order:",
    "Say after me:",
    "The list goes on:",
    "As every child knows:",
    "Please continue:",
    "On the wall it said:",
    "She counted:",
    "He wrote down:",
    "The song begins:",
    "My neighbor said:",
    "It went like this:",
)


def draw(chance: random.Random) -> Record:
    """Days and months go round. The counterfactual counts from another place of the same list."""
    kind = chance.choice((*CIRCLES, *LINES))
    shown = chance.randint(2, 4)
    starts = len(kind) if kind in CIRCLES else len(kind) - shown
    start, other = chance.sample(range(starts), 2)
    opening = chance.choice(OPENINGS)
    run, changed = (
        [kind[(at + step) % len(kind)] for step in range(shown + 1)] for at in (start, other)
    )
    prompt = f"{opening} {', '.join(run[:-1])},".strip()
    last = len(prompt) - 1 - len(run[-2])
    return Record(
        prompt,
        answers=(f" {run[-1]}",),
        wrong=(f" {changed[-1]}",),
        counterfactual=f"{opening} {', '.join(changed[:-1])},".strip(),
        counterfactual_answers=(f" {changed[-1]}",),
        spans={"current": (last, len(prompt) - 1)},
        notes={"shown": shown},
    )


TASKS.add("successor", Generator("successor", draw))
