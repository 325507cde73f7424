"""Attention to places that hold the token at hand, or what came after it: duplicate and induction."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric, check_owner

if TYPE_CHECKING:
    from interp.prompt import Prompt


@dataclass(frozen=True)
class _Matching(Metric):
    per: ClassVar[str] = "head"
    one_sequence: ClassVar[bool] = True
    shift: ClassVar[int]  # how far after the match the place is that counts

    period: int | None = None
    begins: int = 0
    matched: bool = False

    def __post_init__(self) -> None:
        if self.period is not None and self.period < 2:
            raise ValueError(f"period={self.period}: a repeat is at least 2 tokens long.")

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        if self.period is not None:
            return
        if prompt is not None:
            check_owner(self.name, stack, prompt)
        if prompt is None or prompt.ids is None:
            raise ValueError(
                f"{self.name} compares the prompt's tokens, and here are none. Give the prompt, "
                "metric(pattern, prompt), or period= where the text repeats after that many tokens."
            )

    def start(self, extent: Extent) -> Tensor:
        return torch.zeros(extent.batch, extent.heads, 2, device=extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        row = torch.arange(block.rows.start, block.rows.stop, device=total.device) + extent.first
        key = torch.arange(block.pattern.shape[-1], device=total.device)
        key += block.left + extent.first_key
        if self.period is not None:
            wanted = (row[:, None] - key[None, :] == self.period - self.shift)[None]
            counted = (row >= self.period + self.begins)[None, None]
        else:
            wanted = self._same(row, key, block, extent)
            counted = (
                wanted.any(-1)[:, None] if self.matched else torch.ones_like(row).bool()[None, None]
            )
        rows = extent.rows.expand(extent.batch, -1, -1)[block.batch]
        rows = rows if rows.shape[1] == 1 else rows[:, block.heads]
        counted = counted * rows[..., block.rows]
        found = (block.pattern * wanted[:, None]).sum(-1, dtype=total.dtype)
        total[block.batch, block.heads, 0] += (found * counted).sum(-1)
        total[block.batch, block.heads, 1] += counted.sum(-1)

    def _same(self, row: Tensor, key: Tensor, block: Block, extent: Extent) -> Tensor:
        """[batch, row, key]: where the token `shift` before the key is the query's, and comes before it."""
        prompt = extent.owner(self.name)
        assert prompt.ids is not None
        ids, mask = prompt.ids.to(key.device)[block.batch], prompt.mask.to(key.device)[block.batch]
        there = (key - self.shift).clamp_min(0)
        known = mask[:, there] & (key >= self.shift)
        same = ids[:, row, None] == ids[:, None, there]
        before = key[None, :] - self.shift < row[:, None]
        return same & known[:, None] & before

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        return total[..., 0] / total[..., 1].clamp_min(1)


@dataclass(frozen=True)
class Duplicate(_Matching):
    """Mean attention to earlier places that hold the query's own token, per head.

    `period`: on a text that is repeated after so many tokens, that one place, over the repeat's rows
    (`begins`: tokens before the first of them). `matched` counts only rows with such a place.
    """

    name: ClassVar[str] = "duplicate"
    shift: ClassVar[int] = 0


@dataclass(frozen=True)
class Induction(_Matching):
    """Mean attention to places right after an earlier occurrence of the query's own token, per head.

    `period`, `begins` and `matched` as in duplicate.
    """

    name: ClassVar[str] = "induction"
    shift: ClassVar[int] = 1


METRICS.add(Duplicate.name, Duplicate)
METRICS.add(Induction.name, Induction)
