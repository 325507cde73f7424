"""From what a user names, gives as an object or writes as a function to what goes into `using`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from interp.evaluation.writing import named as said_of
from interp.interventions import INTERVENTIONS
from interp.model import Model
from interp.prompt import Prompt
from interp.registry import unknown
from interp.sites import Hook
from interp.steering.written import written

YES_BIAS, RANDOM_HEADS = "yes bias", "random heads"
BUILT_IN = (YES_BIAS, RANDOM_HEADS)


@dataclass(frozen=True, eq=False)
class Planned:
    """A function (model, prompt) -> (prompt, hooks) as an intervention."""

    plan: Callable[[Model, Prompt], tuple[Prompt, Sequence[Any]]]

    def __repr__(self) -> str:
        return getattr(self.plan, "__name__", "a function")


@dataclass(frozen=True, eq=False)
class Entry:
    """One thing to compare. Several `items` are settings to choose from, or draws of one control."""

    name: str
    kind: str  # plain, whole, intervention, control
    items: tuple[Any, ...] = (None,)

    @property
    def said(self) -> str:
        return "; ".join("nothing" if item is None else in_words(item) for item in self.items)


def listed(given: Any) -> list[tuple[str, Any]]:
    """Names and items; those of one kind are called by their settings."""
    if given is None:
        return []
    if isinstance(given, Mapping) and not hasattr(given, "plan"):
        return [(str(name), item_of(one)) for name, one in given.items()]
    if isinstance(given, (str, type, Hook)) or not isinstance(given, Sequence):
        given = [given]
    items = [item_of(one) for one in given]
    kinds = [_kind(item) for item in items]
    names = [
        kind if kinds.count(kind) == 1 else in_words(item)
        for kind, item in zip(kinds, items, strict=True)
    ]
    return list(zip(names, items, strict=True))


def item_of(given: Any) -> Any:
    if isinstance(given, str):
        return written(given)
    if isinstance(given, type):
        return given()
    if isinstance(given, (list, tuple)) and given:
        return tuple(item_of(one) for one in given)
    if isinstance(given, Hook) or callable(getattr(given, "plan", None)):
        return given
    if callable(given):
        function: Any = given
        return Planned(function)
    raise TypeError(
        f"{given!r} is nothing to compare: give an intervention, its name, hooks, or a function "
        "(model, prompt) -> (prompt, hooks)."
    )


def controls_of(given: Any) -> tuple[list[str], list[tuple[str, Any]]]:
    """The built-in ones by name, and the user's."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Mapping) or not isinstance(given, (list, tuple)):
        return [], listed(given)
    built_in = [
        one for one in given if isinstance(one, str) and one.split("(")[0] not in INTERVENTIONS
    ]
    for name in built_in:
        if name not in BUILT_IN:
            raise LookupError(unknown("control", name, [*BUILT_IN, *INTERVENTIONS]))
    own = [one for one in given if not (isinstance(one, str) and one in built_in)]
    return list(dict.fromkeys(built_in)), listed(own)


def _kind(item: Any) -> str:
    if isinstance(item, tuple):
        return " + ".join(map(_kind, item))
    if isinstance(item, Hook):
        return item.name
    return repr(item) if isinstance(item, Planned) else type(item).__name__


def in_words(item: Any) -> str:
    """An intervention by those of its settings that are not the usual ones."""
    if isinstance(item, tuple):
        return " + ".join(map(in_words, item))
    if not is_dataclass(item) or isinstance(item, (Hook, Planned)):
        return said_of(item)
    usual = {one.name: one.default for one in fields(item)}
    own = {name: getattr(item, name) for name in usual}
    changed = [f"{name}={value!r}" for name, value in own.items() if not _same(value, usual[name])]
    return f"{type(item).__name__}({', '.join(changed)})"


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and repr(one) == repr(other))
