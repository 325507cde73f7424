"""Several interventions at once: where they would rewrite the same attention, that is said."""

import warnings
from collections.abc import Sequence
from itertools import combinations

from interp.live import Placed
from interp.sites import MAP_SITES


class Conflict(UserWarning):
    """Two interventions rewrite the same entries of attention, or the same outputs."""


def conflicts(placed: Sequence[Placed]) -> list[str]:
    """A sentence for each two interventions that change the same heads and rows of the same layers."""
    found: dict[tuple[int, int], tuple[Placed, Placed, set[int]]] = {}
    for one, other in combinations(placed, 2):
        if one.group != other.group and _meet(one, other):
            key = (one.group, other.group)
            layers = found.setdefault(key, (one, other, set()))[2]
            layers |= one.layers & other.layers
    return [_sentence(*each) for each in found.values()]


def report_conflicts(placed: Sequence[Placed]) -> None:
    """Warn of each; interventions are meant, hooks of a user's own may only read."""
    for sentence in conflicts([one for one in placed if one.planned]):
        warnings.warn(sentence, Conflict, stacklevel=5)


def _meet(one: Placed, other: Placed) -> bool:
    maps = one.hook.site in MAP_SITES and other.hook.site in MAP_SITES
    if not maps and one.hook.site != other.hook.site:
        return False
    if one.hook.site == "logits":
        return True
    if one.stack != other.stack or not one.layers & other.layers:
        return False
    if one.heads is not None and other.heads is not None and not set(one.heads) & set(other.heads):
        return False
    return not maps or _rows_meet(one.hook.within, other.hook.within)


def _rows_meet(one: tuple[int, int | None] | None, other: tuple[int, int | None] | None) -> bool:
    if one is None or other is None:
        return True
    low, high = max(one[0], other[0]), [end for end in (one[1], other[1]) if end is not None]
    return not high or low < min(high)


def _sentence(one: Placed, other: Placed, layers: set[int]) -> str:
    sites = (one.hook.site, other.hook.site)
    what = "attention" if sites[0] in MAP_SITES else sites[0]
    order = (
        "scores come before the pattern, whatever their order in the list"
        if sites == ("pattern", "scores")
        else "the later one works on what the earlier one left"
    )
    return (
        f"{one.owner} and {other.owner} both rewrite {what} of the same heads and rows in layers "
        f"{sorted(layers)} of the {one.stack} stack; {order}."
    )
