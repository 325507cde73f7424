"""How far back a head looks: what splits heads into local and global ones (arXiv 2510.13554)."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, LooksBack
from interp.metrics.distance import looked_back


@dataclass(frozen=True)
class Span(LooksBack):
    """Mean over the rows of sum_key A (query - key), per head: `rows` names a span of rows, or all count.

    `without_first` leaves out what goes to the text's first position and scales the row back to 1, since
    a head that rests on a sink there looks far only in numbers.
    """

    name: ClassVar[str] = "span"
    per: ClassVar[str] = "head"

    without_first: bool = False

    def _counted(self, extent: Extent) -> Tensor:
        """[batch, head or 1, query]: 1 for the rows that the mean is over."""
        rows = extent.rows
        chosen = self.chosen(extent)
        if chosen is not None:
            rows = rows * chosen[:, None]
        return rows.expand(extent.batch, -1, -1)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        pattern = block.pattern.float()
        back = looked_back(block, extent)
        if self.without_first:
            row = torch.arange(block.rows.start, block.rows.stop, device=pattern.device)
            back = self._without(pattern, back, row + extent.first, block, extent)
        counted = self._counted(extent)[block.batch]
        counted = counted if counted.shape[1] == 1 else counted[:, block.heads]
        total[block.batch, block.heads] += (back * counted[..., block.rows]).sum(-1)

    def _without(
        self, pattern: Tensor, back: Tensor, row: Tensor, block: Block, extent: Extent
    ) -> Tensor:
        """The same of what is left of each row when its text's first position is taken away."""
        first = _first_positions(extent)[block.batch]
        column = first - extent.first_key - block.left
        held = (column >= 0) & (column < pattern.shape[-1])
        index = column.clamp(0, pattern.shape[-1] - 1)[:, None, None, None]
        to_first = pattern.gather(-1, index.expand(*pattern.shape[:3], 1))[..., 0]
        to_first = to_first * held[:, None, None]
        left = pattern.sum(-1) - to_first
        distance = back - to_first * (row - first[:, None])[:, None]
        return torch.where(left > 1e-6, distance / left.clamp_min(1e-6), 0.0)

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        return total / self._counted(extent).sum(-1).clamp_min(1)


def _first_positions(extent: Extent) -> Tensor:
    """[batch]: where each row's text begins."""
    if extent.real is None or extent.queries != extent.keys:
        return torch.full((extent.batch,), extent.first_key, device=extent.device)
    rows = extent.rows.amax(1).expand(extent.batch, -1)
    return rows.argmax(-1) + extent.first


METRICS.add(Span.name, Span)
