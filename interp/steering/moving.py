"""Weight of attention taken from some keys and given to others, in few passes over the pattern.

The same as `interp.edits.redistribute`, for many heads: one product gives each row's sums over keys, a
second says by what factor each weight grows or shrinks. A pattern lies [group, row, key] here, where a
group is what shares its keys' parts: a text with all its heads, or one head.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny
ROOM = 256  # keys of tokens to come, whose parts are laid at a time


@dataclass(eq=False)
class Moving:
    """Givers keep the share `keep`; what they lose goes to the receivers, by their weights.

    `parts` [group, 2, key] say which receive and what givers lose. `sums` [group, key, 2 + n], less
    `bounds` [group, 1, 2 + n], weigh a row: what is freed in it, what receivers have, and what is to be
    at least 0 for anything to be moved: first that somebody could receive.
    """

    parts: Tensor
    sums: Tensor
    bounds: Tensor
    one: Tensor
    new: bool  # whether tokens to come receive

    @classmethod
    def of(
        cls,
        receivers: Tensor,
        givers: Tensor,
        keep: float,
        dtype: torch.dtype,
        tests: Sequence[tuple[Tensor, Tensor]] = (),
        new: bool = False,
    ) -> "Moving":
        """Masks [group, key], and tests: the weights of keys in a sum [group, key], its bound [group]."""
        receiving, lost = receivers.to(dtype), (1 - keep) * givers.to(dtype)
        none = receiving.new_zeros(len(receiving))
        # What receivers have is never quite 0, so that what is freed can be divided by it.
        bounds = [none, none - TINY, none + TINY, *[bound for _, bound in tests]]
        sums = torch.stack([lost, receiving, receiving, *[each for each, _ in tests]], 1).mT
        parts = torch.stack([receiving, -lost], 1)
        return cls(parts, sums, -torch.stack(bounds, -1)[:, None], parts.new_ones(()), new)

    def shift(
        self, pattern: Tensor, first: int, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The pattern with weight moved, and the rows in which it was, [group, row, 1].

        Its keys begin at position `first`. Rows that fail a test, or where `rows` is False, stay to the bit.
        In a step of writing each operation costs as much as any other: there are few.
        """
        keys = pattern.shape[2]
        self._reach(first + keys, pattern)
        found = torch.baddbmm(self.bounds, pattern, self.sums.narrow(1, first, keys))
        both, tested = found.split_with_sizes((2, self.sums.shape[2] - 2), -1)
        able = (tested >= 0).all(-1, keepdim=True)
        able = able if rows is None else able & rows
        share = both / both.narrow(2, 1, 1) * able  # for one that receives, for one that gives
        factor = torch.baddbmm(self.one, share, self.parts.narrow(2, first, keys))
        return factor * pattern if factor.requires_grad else factor.mul_(pattern), able

    def _reach(self, last: int, pattern: Tensor) -> None:
        """Parts and sums for all keys before `last`, in the pattern's precision."""
        if self.parts.dtype == pattern.dtype and self.parts.shape[2] >= last:
            return
        missing = last - self.parts.shape[2]
        if missing > 0:
            parts = self.parts.new_zeros(len(self.parts), 2, missing + ROOM)
            sums = self.sums.new_zeros(len(self.sums), self.sums.shape[2], missing + ROOM)
            if self.new:
                parts[:, 0] = sums[:, 1] = sums[:, 2] = 1.0
            self.parts = torch.cat([self.parts, parts], 2)
            self.sums = torch.cat([self.sums.mT, sums], 2).mT  # a product is quicker so
        self.parts, self.sums = self.parts.to(pattern), self.sums.to(pattern)
        self.bounds, self.one = self.bounds.to(pattern), self.one.to(pattern)


def exact(pattern: Tensor) -> Tensor:
    """In at least float32: sums of half precision numbers would not keep a row's sum."""
    return pattern if pattern.dtype in (torch.float32, torch.float64) else pattern.float()
