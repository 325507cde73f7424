"""Which tasks suit which analysis and which kind of model; what is asked where nobody says."""

from functools import cache, lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.task import Task

# Those that take several tasks: what is offered first, and so many at least.
SEVERAL = {
    "circuit_reuse": ("ioi", "colored_objects"),
    "emergent_heads": ("induction",),
    "sinks": ("facts",),
}
# These read one token of an answer.
ONE_WORD = ("activation_patching", "attribution", "circuit", "circuit_reuse", "emergent_heads",
            "head_importance")  # fmt: skip
COUNTS = {"circuit": 60, "circuit_reuse": 60, "emergent_heads": 40, "repair": 200}
LIKELY = ("ioi", "facts", "open_book", "colour", "existence", "digits")  # taken first
FIRST = {"rhythm": ("open_book",)}  # answers of one word have no rhythm
COUNT = 16  # records, where nothing else is said


def tasks_for(kind: str) -> list[str]:
    """Tasks that a model of this kind can be asked."""
    return [name for name, own in _kinds().items() if own == kind]


def known_tasks(analysis: str, kind: str) -> list[str]:
    """Tasks that suit the kind of model, and what the analysis reads of a record."""
    return [name for name in tasks_for(kind) or tasks_for("text") if suits(analysis, name)]


def likely_tasks(analysis: str, kind: str) -> list[str]:
    """What to ask first: one task, or as many as the analysis compares; none where none suits."""
    known = known_tasks(analysis, kind)
    first = SEVERAL.get(analysis, ())
    if first and set(first) <= set(known):
        return list(first)
    likely = (*FIRST.get(analysis, ()), *LIKELY)
    ranked = dict.fromkeys([*(name for name in likely if name in known), *known])
    return list(ranked)[: max(1, len(first))]


def suits(analysis: str, task: str) -> bool:
    """Whether the task's records have what the analysis reads of them."""
    record = records(task, 1)[0]
    word = all(" " not in one.strip() for one in record.answers)
    needs = {
        "causal_tracing": "subject" in record.spans,
        "fcct": word and record.image is not None and "shape" in record.spans,
        "path_patching": word and bool(record.prompt),
        "repair": word and any(one.strip() in record.prompt for one in record.wrong),
        "rhythm": bool(record.prompt),
    }
    return needs.get(analysis, word or analysis not in ONE_WORD)


@lru_cache(maxsize=128)
def records(task: str, count: int) -> "Task":
    """A task's first records on its test split; nobody changes them."""
    from interp.task import Task

    return Task.load(task, count=count)


@cache
def _kinds() -> dict[str, str]:
    from interp.tasks import TASKS

    found = {}
    for name in TASKS:
        record = records(name, 1)[0]
        found[name] = "text" if record.image is None else "vlm" if record.prompt else "vision"
    return found
