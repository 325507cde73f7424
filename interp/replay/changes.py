"""A change of a run: values that take the place of what passes at some places of one site."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from interp.sites import MAP_SITES, SITES, At, Hook, head_axis

# What a change there can move within its own layer: later keys and values see it, or only its own place.
EARLY = ("resid_pre", "k", "v")


@dataclass(frozen=True, eq=False)
class Change:
    """`values[i]` is put at row `rows[i]`, position `places[i]` of the site, into `heads` (None: all).

    Positions of `scores` and `pattern` are queries, those of `k` and `v` keys. With `fn` instead of
    values, what passes there in the changed run is given to it, as to a Hook's function.
    """

    site: str
    layer: int
    rows: Tensor  # [n]
    places: Tensor  # [n]
    values: Tensor | None  # [n, head?, width]
    heads: Tensor | None = None
    stack: str = ""  # "": the stack that is replayed
    fn: Callable[[Tensor, At], Tensor | None] | None = None

    def of_row(self, row: int) -> "Change | None":
        """The part of it that is about one row of the prompt."""
        own = self.rows == row
        if not bool(own.any()):
            return None
        values = None if self.values is None else self.values[own]
        return Change(self.site, self.layer, self.rows[own], self.places[own], values, self.heads,
                      self.stack, self.fn)  # fmt: skip

    def hook(self, stack: str) -> Hook:
        """The same change in a forward of its own."""

        def put(value: Tensor, at: At) -> Tensor:
            return self.put(value, at)

        return Hook(self.site, put, layers=[self.layer], stack=self.stack or stack)

    def put(self, value: Tensor, at: Any) -> Tensor:
        """The value with this change in it."""
        new = self.values
        if self.fn is not None:
            made = self.fn(value, at)
            new = taken(
                value if made is None else made, self.site, self.rows, self.places, self.heads
            )
        assert new is not None
        changed = value.clone()
        into = _positions_first(changed, self.site)
        if self.heads is None:
            into[self.rows, self.places] = new.to(value)
        else:
            into[self.rows[:, None], self.places[:, None], self.heads] = new.to(value)
        return changed


def _positions_first(value: Tensor, site: str) -> Tensor:
    """A view [batch, position, head?, width] of a site's value."""
    return value.transpose(1, 2) if site in MAP_SITES else value


def taken(value: Tensor, site: str, rows: Tensor, places: Tensor, heads: Tensor | None) -> Tensor:
    """What a site's value holds at these places, [n, head?, width]."""
    own = _positions_first(value, site)
    if heads is None:
        return own[rows, places]
    return own[rows[:, None], places[:, None], heads]


def by_layer(changes: Sequence[Change], layers: int) -> dict[int, list[Change]]:
    """Changes by the layer before or in which they act; what leaves a layer enters the next.

    The number after the last layer stands for what the last one hands on.
    """
    found: dict[int, list[Change]] = {}
    # What leaves a layer comes before what is changed at the next one's input.
    for change in sorted(changes, key=lambda one: one.site != "resid_post"):
        at = change.layer
        if change.site == "resid_post":
            at += 1
            change = Change(
                "resid_pre", at, change.rows, change.places, change.values, None, change.stack
            )
        if not 0 <= at <= layers:
            raise IndexError(
                f"layer {change.layer} is out of range: there are layers 0 to {layers - 1}."
            )
        found.setdefault(at, []).append(change)
    return found


def check_site(change: Change) -> None:
    if change.site not in SITES:
        raise LookupError(f"no site {change.site!r}. Sites are: {', '.join(SITES)}.")
    if change.heads is not None and head_axis(change.site) is None:
        raise ValueError(f"{change.site} has no heads.")
