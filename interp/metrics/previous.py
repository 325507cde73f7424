"""Heads that look at the token before."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric


@dataclass(frozen=True)
class Previous(Metric):
    """Mean over the queries of A[query, query - back], per head: at `back=1` the previous-token score.

    Queries with nothing that far back are left out.
    """

    name: ClassVar[str] = "previous"
    per: ClassVar[str] = "head"
    one_sequence: ClassVar[bool] = True

    back: int = 1

    def __post_init__(self) -> None:
        if self.back < 1:
            raise ValueError(f"back={self.back}: previous looks at least 1 token back.")

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        shift = extent.first + block.rows.start - self.back - extent.first_key - block.left
        height, width = block.pattern.shape[-2:]
        if -height < shift < width:
            along = block.pattern.diagonal(shift, -2, -1)
            total[block.batch, block.heads] += along.sum(-1, dtype=total.dtype)

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        """Divided by the number of tokens that have a token that far before them."""
        rows = extent.rows
        if extent.queries != extent.keys:  # a step with a cache: the keys before it are all there
            reach = torch.arange(extent.queries, device=extent.device) + extent.first
            count = (rows * (reach >= extent.first_key + self.back)).sum(-1)
        else:
            count = (rows[..., self.back :] * rows[..., : -self.back]).sum(-1)
        return total / count.clamp_min(1)


METRICS.add(Previous.name, Previous)
