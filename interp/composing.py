"""Several interventions at once: where they would rewrite the same attention, that is said."""

import sys
import warnings
from collections.abc import Iterable, Sequence
from itertools import combinations, product
from typing import Any

from interp.live import Placed
from interp.sites import MAP_SITES

_NOT_THE_USERS = ("interp", "torch", "transformers", "accelerate", "contextlib")


class Conflict(UserWarning):
    """Two interventions rewrite the same entries of attention, or the same outputs."""


class Several:
    """Interventions that are asked for as one, and plan each for itself."""

    each: Sequence[Any]


def kind_of(site: str) -> str:
    """What a change at the site rewrites: scores and pattern are one attention."""
    return "attention" if site in MAP_SITES else site


def conflicts(placed: Iterable[Placed]) -> list[str]:
    """A sentence for each two interventions that change the same heads and rows of the same layers.

    Hooks of a user's own are left out, since they may be meant for each other, and so are those that say
    that they only read: functions annotated to return None.
    """
    return _told(combinations(list(placed), 2))


def report_conflicts(placed: Iterable[Placed]) -> None:
    """Warn of each, at the line of whoever asked for the run."""
    _warn(conflicts(placed))


def report_between(blocks: Sequence[Iterable[Placed]]) -> None:
    """The same for interventions of different blocks; those of one have been compared."""
    _warn(_told(pair for one, other in combinations(blocks, 2) for pair in product(one, other)))


def _told(pairs: Iterable[tuple[Placed, Placed]]) -> list[str]:
    found: dict[tuple[int, int, str], tuple[Placed, Placed, set[int]]] = {}
    for one, other in pairs:
        meant = one.planned and other.planned and one.group != other.group
        if meant and _meet(one, other) and not (_reads(one) or _reads(other)):
            key = (one.group, other.group, kind_of(one.hook.site))
            found.setdefault(key, (one, other, set()))[2].update(one.layers & other.layers)
    return [_sentence(*each) for each in found.values()]


def _warn(sentences: list[str]) -> None:
    for sentence in sentences:
        warnings.warn(sentence, Conflict, stacklevel=_users_level())


def _users_level() -> int:
    """How many calls above the one that warns the first stands that is none of ours."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and _package(frame.f_globals) in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    return level


def _package(names: dict[str, Any]) -> str:
    return str(names.get("__name__", "")).partition(".")[0]


def _reads(one: Placed) -> bool:
    given = getattr(one.hook.fn, "__annotations__", {}).get("return", "")
    return given in (None, "None")


def _meet(one: Placed, other: Placed) -> bool:
    if kind_of(one.hook.site) != kind_of(other.hook.site):
        return False
    if one.hook.site == "logits":
        return True
    if one.stack != other.stack or not one.layers & other.layers:
        return False
    if one.heads is not None and other.heads is not None and not set(one.heads) & set(other.heads):
        return False
    return _rows_meet(one.hook.within, other.hook.within)


def _rows_meet(one: tuple[int, int | None] | None, other: tuple[int, int | None] | None) -> bool:
    if one is None or other is None:
        return True
    low, high = max(one[0], other[0]), [end for end in (one[1], other[1]) if end is not None]
    return not high or low < min(high)


def _sentence(one: Placed, other: Placed, layers: set[int]) -> str:
    site, later = one.hook.site, other.hook.site
    if site == "logits":
        return (
            f"{one.owner} and {other.owner} both change the logits: {one.owner} first, and {other.owner} "
            "what it leaves."
        )
    if (site, later) == ("pattern", "scores"):
        order = (
            f"scores come before the pattern, whatever the order in the list, so {other.owner} is first, "
            f"and {one.owner} works on what it leaves"
        )
    else:
        order = f"{one.owner} is first, and {other.owner} works on what it leaves"
    what = {"attention": "attention of the same heads and rows"}.get(kind_of(site), site)
    return (
        f"{one.owner} and {other.owner} both rewrite {what} in layers {sorted(layers)} of the "
        f"{one.stack} stack: {order}. If that is meant, warnings.simplefilter('ignore', Conflict); what "
        "each of them changed is told by interp.interventions.Report."
    )
