"""Windowed average attention distance (arXiv 2510.13554)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, LooksBack


@dataclass(frozen=True)
class WAAD(LooksBack):
    """sum_{key <= query} A min(query - key, window), per head and query; from 0 to `window`.

    `rows` names a span, such as "response": the other rows are NaN.
    """

    name: ClassVar[str] = "waad"
    per: ClassVar[str] = "query"

    window: int = 10

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window={self.window}: WAAD looks back over at least 1 token.")

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        """window * row sum, less what the columns inside the window fall short of it."""
        top = extent.first + block.rows.start
        start = extent.first_key + block.left  # absolute position of the block's first column
        skip = min(max(0, top - self.window - start), block.pattern.shape[-1])
        near = block.pattern[..., skip:].float()
        query = torch.arange(near.shape[-2], device=near.device) + top
        key = torch.arange(near.shape[-1], device=near.device) + start + skip
        back = query[:, None] - key[None, :]
        short = (self.window - back).clamp_min(0).masked_fill(back < 0, 0).to(near.dtype)
        rows = self.window * block.pattern.sum(-1, dtype=torch.float32) - (near * short).sum(-1)
        total[block.batch, block.heads, block.rows] = rows

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        rows = self.chosen(extent)
        return total if rows is None else total.masked_fill(~rows[:, None], torch.nan)


METRICS.add(WAAD.name, WAAD)
