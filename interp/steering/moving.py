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

    `parts` [group, 2, key] say which receive and what givers lose. `tests` [group, 3 + n, key] weigh a row:
    what receivers have, what is freed, and what is to be at least `bounds` [group, 1, 1 + n] for anything
    to be moved in it: first that somebody could receive.
    """

    parts: Tensor
    tests: Tensor
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
        least = torch.full_like(receiving[:, 0], TINY)
        sums = torch.stack([receiving, lost, receiving, *[each for each, _ in tests]], 1)
        bounds = torch.stack([least, *[bound for _, bound in tests]], -1)[:, None]
        parts = torch.stack([receiving, -lost], 1)
        return cls(parts, sums, bounds, parts.new_ones(()), new)

    def shift(
        self, pattern: Tensor, first: int, rows: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The pattern with weight moved, and the rows in which it was, [group, row, 1].

        Its keys begin at position `first`. Rows that fail a test, or where `rows` is False, stay to the bit.
        """
        keys = pattern.shape[-1]
        self._reach(first + keys, pattern)
        found = torch.bmm(pattern, self.tests.narrow(2, first, keys).mT)
        held, freed, tested = found.split_with_sizes((1, 1, self.tests.shape[1] - 2), -1)
        able = (tested >= self.bounds).all(-1, keepdim=True)
        able = able if rows is None else able & rows
        gain = freed / held.clamp_min(TINY)
        share = torch.cat((gain, torch.ones_like(gain)), -1) * able
        factor = torch.baddbmm(self.one, share, self.parts.narrow(2, first, keys))
        return factor * pattern if factor.requires_grad else factor.mul_(pattern), able

    def _reach(self, last: int, pattern: Tensor) -> None:
        """Parts and tests for all keys before `last`, in the pattern's precision."""
        if self.parts.dtype == pattern.dtype and self.parts.shape[2] >= last:
            return
        ones = (1.0, 0.0), (1.0, 0.0, 1.0, *[0.0] * (self.tests.shape[1] - 3))
        self.parts, self.tests = (
            _wide(each, last, new if self.new else None).to(pattern)
            for each, new in zip((self.parts, self.tests), ones, strict=True)
        )
        self.bounds, self.one = self.bounds.to(pattern), pattern.new_ones(())


def exact(pattern: Tensor) -> Tensor:
    """In at least float32: sums of half precision numbers would not keep a row's sum."""
    return pattern if pattern.dtype in (torch.float32, torch.float64) else pattern.float()


def _wide(parts: Tensor, width: int, new: Sequence[float] | None) -> Tensor:
    """Over at least `width` keys."""
    group, kinds, keys = parts.shape
    if keys >= width:
        return parts
    more = parts.new_zeros(group, kinds, width - keys + ROOM)
    if new is not None:
        more += parts.new_tensor(new)[:, None]
    return torch.cat([parts, more], -1)
