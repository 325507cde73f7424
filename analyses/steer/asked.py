"""What was asked of `steer`, checked before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from analyses.compare.items import in_words, listed
from interp.batches import as_task
from interp.evaluation.writing import check_writes
from interp.interventions import INTERVENTIONS
from interp.model import Model
from interp.prompt import Prompt
from interp.steering.highlights import check_texts
from interp.task import Task

PLAIN, TOGETHER = "plain", "together"


@dataclass(frozen=True, eq=False)
class Asked:
    """As `steer` explains it; `entries` are names with what goes into `using`, plain first."""

    model: Model
    task: Any
    interventions: Any
    records: int
    max_new_tokens: int
    top: int
    span: str | Sequence[str] | None
    entries: tuple[tuple[str, Any], ...] = ()

    @property
    def said(self) -> dict[str, str]:
        """Each entry by its settings."""
        return {name: "nothing" if item is None else in_words(item) for name, item in self.entries}

    @property
    def shown(self) -> str | list[str] | None:
        """The span whose share of attention is told: what was asked for, or what is highlighted."""
        given = self.span
        if given is None:
            lit = [
                getattr(one, "highlight", None) for _, item in self.entries for one in _each(item)
            ]
            given = next((one for one in lit if one is not None), None)
        return given if given is None or isinstance(given, str) else list(given)


def checked(asked: Asked) -> Asked:
    if isinstance(asked.task, Prompt):
        raise TypeError(
            "steer takes what can be encoded again: a Task, a Record or a text. For a Prompt there is "
            "model.generate(prompt, using=...)."
        )
    for name in ("records", "top"):
        given = getattr(asked, name)
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise ValueError(f"{name}={given!r}: a whole number of at least 1.")
    task: Task = as_task(asked.task, "steer")[: asked.records]
    check_writes(asked.model, task, 1, asked.max_new_tokens)
    if asked.span is not None:
        check_texts("steer", "span", asked.span)
    return replace(asked, task=task, entries=_entries(asked))


def offered(kind: str) -> list[str]:
    """Interventions by name that act in models of a kind; of a vision-language model, the image's first."""
    acts = {"text": ("text",), "vlm": ("image", "text")}.get(kind, ())
    return [name for of in acts for name, one in INTERVENTIONS.items() if one.of == of]


def _entries(asked: Asked) -> tuple[tuple[str, Any], ...]:
    items = listed(asked.interventions)
    if not items:
        model = asked.model
        raise ValueError(
            f"steer was given no interventions; for {model.name} there are {', '.join(offered(model.kind))}: "
            f"interventions=['{offered(model.kind)[0]}', ...]."
        )
    names = [name for name, _ in items]
    for name in names:
        if name in (PLAIN, TOGETHER) or names.count(name) > 1:
            raise ValueError(
                f"two things would be called {name!r}; give them names, {{'mine': PAI(...)}}."
            )
    several = [(TOGETHER, tuple(one for _, item in items for one in _each(item)))]
    return ((PLAIN, None), *items, *(several if len(items) > 1 else ()))


def _each(item: Any) -> tuple[Any, ...]:
    if item is None:
        return ()
    return item if isinstance(item, tuple) else (item,)
