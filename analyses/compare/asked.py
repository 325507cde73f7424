"""What was asked of a comparison, checked before anything runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analyses.compare.items import (
    RANDOM_HEADS,
    YES_BIAS,
    Entry,
    controls_of,
    in_words,
    item_of,
    listed,
)
from interp.batches import as_task
from interp.evaluation import MEASURES
from interp.evaluation.controls import has_heads
from interp.evaluation.measure import Measure
from interp.interventions import INTERVENTIONS
from interp.model import Model
from interp.prompt import Prompt
from interp.registry import unknown
from interp.sites import Hook
from interp.task import Record, Task

PLAIN, WHOLE = "plain", "whole"
REFUSALS = (ValueError, LookupError, TypeError)


@dataclass(frozen=True)
class Settings:
    """As `compare` explains them."""

    interventions: Any
    controls: Any
    measure: Any
    rate: str | None
    scoring: Mapping[str, Any]
    choose: Mapping[str, Sequence[Any]]
    validation: Any
    whole: Any
    reference: Any
    draws: int
    random_sets: int
    seed: int
    batch: int

    @property
    def everything(self) -> bool:
        """Whether all interventions are asked for, as far as they go."""
        return self.interventions is None and not self.choose


@dataclass(eq=False)
class Asked:
    """Tasks by name, the measure, what is compared, and what would not be."""

    model: Model
    tasks: dict[str, Task]
    settings: Settings
    measure: Callable[..., Any]
    entries: list[Entry]
    built_in: list[str]
    refused: list[dict[str, str]] = field(default_factory=list)

    @property
    def measured(self) -> str:
        given = self.settings.measure
        return given if isinstance(given, str) else getattr(given, "__name__", type(given).__name__)


def checked(model: Model, task: Any, settings: Settings) -> Asked:
    tasks, measure = _tasks(task), _measure(settings)
    _check_numbers(settings, tasks)
    built_in, own = controls_of(settings.controls)
    entries = [
        Entry(name, "intervention", (item,)) for name, item in listed(settings.interventions)
    ]
    entries += [Entry(name, "intervention", tuple(items)) for name, items in _choices(settings)]
    taken = {entry.name for entry in entries}
    entries += [
        Entry(in_words(item) if name in taken else name, "control", (item,)) for name, item in own
    ]
    asked = Asked(model, tasks, settings, measure, entries, built_in)
    for entry in entries:
        _takes(asked, entry, False)
    if settings.everything:
        defaults = [Entry(name, "intervention", (kind(),)) for name, kind in INTERVENTIONS.items()]
        asked.entries = [entry for entry in defaults if _takes(asked, entry, True)] + entries
    _check_names(asked)
    _check_validation(asked)
    chosen = [one for entry in asked.entries for one in entry.items if entry.kind != "control"]
    if RANDOM_HEADS in built_in and not any(map(has_heads, chosen)):
        raise ValueError(
            "controls: 'random heads' stands in for chosen heads, and no intervention has heads=: give them, "
            "ACT(heads=[(2, 1), ...])."
        )
    return asked


def _tasks(given: Any) -> dict[str, Task]:
    if isinstance(given, Prompt):
        raise TypeError("compare reads answers, and a Prompt has none: give a Task.")
    if isinstance(given, Mapping):
        if not given:
            raise ValueError('there is no task to compare on: {"random": task, ...}.')
        return {str(name): as_task(one, "compare") for name, one in given.items()}
    task = as_task(given, "compare")
    return {task.name: task}


def _measure(settings: Settings) -> Callable[..., Any]:
    given = settings.measure
    if isinstance(given, str):
        given = MEASURES[given]
    if not callable(given):
        raise TypeError(f"measure={given!r}: {', '.join(MEASURES)}, or a function giving a Scored.")
    known = given.settings if isinstance(given, Measure) else tuple(settings.scoring)
    for name in settings.scoring:
        if name not in known:
            raise TypeError(
                unknown(f"setting of the measure {settings.measure}", name, list(known))
            )
    return given


def _check_numbers(settings: Settings, tasks: Mapping[str, Task]) -> None:
    for name in ("draws", "random_sets", "batch"):
        given = getattr(settings, name)
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ValueError(f"{name}={given!r}: a whole number of at least 1.")
    if settings.whole is not None and settings.reference is not None:
        raise ValueError("whole= and reference= both say what the model could do; give one.")
    if settings.whole is not None and not isinstance(settings.whole, Model):
        raise TypeError(
            f"whole= is a model, not {type(settings.whole).__name__}: interp.load(name) without the fault."
        )
    given = settings.reference
    values = list(given.values()) if isinstance(given, Mapping) else [given]
    if given is not None and any(
        isinstance(one, bool) or not isinstance(one, (int, float)) for one in values
    ):
        raise TypeError(f"reference={given!r}: a value of the measure, or one for each task.")
    missing = [name for name in tasks if isinstance(given, Mapping) and name not in given]
    if missing:
        raise LookupError(f"reference= has no value for the task {missing[0]!r}.")


def _choices(settings: Settings) -> Iterator[tuple[str, list[Any]]]:
    for name, own in settings.choose.items():
        if isinstance(own, str) or not isinstance(own, Sequence) or len(own) < 2:
            raise ValueError(
                f"choose[{name!r}] holds at least two settings, [PAI(alpha=0.2), ...]."
            )
        yield str(name), [item_of(one) for one in own]


def _takes(asked: Asked, entry: Entry, default: bool) -> bool:
    """Whether an entry can be planned for the first record of each task; if not, why."""
    for task in asked.tasks.values():
        first = task[:1].encode(asked.model)
        for item in entry.items:
            try:
                prompt = first
                for one in item if isinstance(item, tuple) else (item,):
                    prompt = prompt if isinstance(one, Hook) else one.plan(asked.model, prompt)[0]
            except REFUSALS as problem:
                if not default:
                    kind = next(kind for kind in REFUSALS if isinstance(problem, kind))
                    raise kind(f"{entry.name}: {told(problem)}") from problem
                asked.refused.append({"name": entry.name, "why": told(problem)})
                return False
    return True


def told(problem: Exception) -> str:
    return str(problem.args[0]) if problem.args else type(problem).__name__


def _check_names(asked: Asked) -> None:
    names = [PLAIN, WHOLE, *asked.built_in, *(entry.name for entry in asked.entries)]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(
                f"two things are called {name!r}; give them names, {{'mine': PAI(...)}}."
            )
    if not asked.entries and not asked.built_in:
        reasons = "; ".join(f"{one['name']}: {one['why']}" for one in asked.refused)
        raise ValueError(f"there is nothing to compare{f' ({reasons})' if reasons else ''}.")


def _check_validation(asked: Asked) -> None:
    given = asked.settings.validation
    if given is None:
        if asked.settings.choose or YES_BIAS in asked.built_in:
            raise ValueError(
                "settings are chosen, and 'yes bias' is tuned, on records that are not reported: give "
                "validation=task, such as Task.load(name, split='validation')."
            )
        return
    if not isinstance(given, Task) or not len(given):
        raise TypeError(f"validation= is a Task with records, not {given!r}.")
    for name, task in asked.tasks.items():
        shared = len(contents(given) & contents(task))
        if shared:
            raise ValueError(
                f"{shared} questions of the validation task are in {name!r} too: what is chosen on records "
                "cannot be reported on them. Give another split."
            )


def contents(task: Task) -> set[str]:
    """What is asked in each record: its prompt and its image, whatever the notes say."""
    return {Task("", (Record(one.prompt, image=one.image),)).digest for one in task}
