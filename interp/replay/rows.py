"""Changed copies of a row of the prompt, each from the layer and the position where it begins to differ."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from interp.replay.changes import EARLY, Change, by_layer
from interp.replay.packing import Tokens
from interp.sites import SITES


@dataclass(eq=False)
class Row:
    """One row of the prompt under the changes of one cell."""

    cell: int
    base: int  # the prompt's row
    entry: int  # the first layer that it is run through
    start: int  # positions before it never differ
    changes: dict[int, list[Change]]  # by layer

    @property
    def early(self) -> bool:
        """Whether the entry layer differs at other positions than the changed ones."""
        return any(change.site in EARLY for change in self.changes[self.entry])

    def local(self) -> Tensor:
        """The positions changed within the entry layer, in order."""
        return torch.cat([change.places for change in self.changes[self.entry]]).unique()


def rows_of(
    cell: int, changes: Sequence[Change], layers: int, reach: Tensor, stack: str
) -> list[Row]:
    """A cell's rows of the prompt: those that it changes."""
    found: list[Row] = []
    if not changes:
        return found
    for base in torch.cat([change.rows for change in changes]).unique().tolist():
        own = [part for part in (change.of_row(base) for change in changes) if part is not None]
        layered = by_layer(own, layers)
        start = min(
            0 if is_across(change, stack) else int(reach[base][change.places].min())
            for change in own
        )
        found.append(Row(cell, base, min(layered), start, layered))
    return found


def is_across(change: Change, stack: str) -> bool:
    """Keys and values of cross attention are of another sequence, and seen by all positions."""
    return change.stack != stack and change.site in ("k", "v")


@dataclass(eq=False)
class Pack:
    """Rows with their positions from `start` on laid end to end."""

    rows: list[Row] = field(default_factory=list)
    positions: int = 0

    def __post_init__(self) -> None:
        starts = torch.tensor([row.start for row in self.rows], dtype=torch.long)
        lengths = self.positions - starts
        self.starts = starts
        self.bases = torch.tensor([row.base for row in self.rows], dtype=torch.long)
        self.offsets = torch.cumsum(lengths, 0) - lengths
        self.owner = torch.arange(len(self.rows)).repeat_interleave(lengths)
        places = torch.arange(len(self.owner)) - self.offsets[self.owner] + starts[self.owner]
        self.tokens = Tokens(self.bases[self.owner], places)
        self.width = int(lengths.max()) if len(self.rows) else 0
        self.even = bool((lengths == self.width).all())  # every row is as long as the longest
        self.masks: dict[int, Tensor] = {}

    def token(self, number: int, places: Tensor) -> Tensor:
        """Where a row's positions lie in the pack."""
        return self.offsets[number] + places - self.starts[number]


@dataclass(eq=False)
class Local:
    """Rows that enter a layer inside it: only their changed positions are run through it."""

    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.places = [row.local() for row in self.rows]
        sizes = torch.tensor([len(places) for places in self.places], dtype=torch.long)
        self.offsets = torch.cumsum(sizes, 0) - sizes
        bases = torch.tensor([row.base for row in self.rows], dtype=torch.long)
        places = torch.cat(self.places) if self.places else torch.empty(0, dtype=torch.long)
        self.tokens = Tokens(bases.repeat_interleave(sizes), places)

    def token(self, number: int, places: Tensor) -> Tensor:
        return self.offsets[number] + torch.searchsorted(self.places[number], places)

    def only(self, reads: Tensor) -> "Local":
        """Rows whose read position is among the changed ones: the others read as the run does."""
        kept = [row for row, places in zip(self.rows, self.places, strict=True)
                if bool((places == reads[row.base]).any())]  # fmt: skip
        return Local(kept)


class Edits:
    """The changes of one layer, as places in packed tokens."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str], list[tuple[Tensor, Tensor | None, Tensor]]] = {}
        self.patterns: list[tuple[str, str, int, Tensor, Change]] = []  # stack, where, row, tokens
        self.across: dict[int, list[Change]] = {}  # keys and values of cross attention, by row

    def add(self, change: Change, tokens: Tensor, where: str, number: int) -> None:
        assert change.values is not None
        if change.site == "pattern":
            self.patterns.append((change.stack, where, number, tokens, change))
        else:
            entry = (tokens, change.heads, change.values)
            self._found.setdefault((change.stack, change.site), []).append(entry)

    def has(self, stack: str, site: str) -> bool:
        return (stack, site) in self._found

    def tokens(self, stack: str, site: str) -> Tensor:
        """Which tokens are changed at a site."""
        found = [tokens for tokens, _, _ in self._found.get((stack, site), [])]
        return torch.cat(found).unique() if found else torch.empty(0, dtype=torch.long)

    def put(self, stack: str, site: str, value: Tensor) -> Tensor:
        """The changes put into packed values [n, ...], in place."""
        by_head = SITES[site][-1] == "d_head"
        for tokens, heads, new in self._found.get((stack, site), []):
            if by_head and heads is not None:
                value[tokens[:, None], heads] = new.to(value)
            else:
                value[tokens] = new.to(value)
        return value
