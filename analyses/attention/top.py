"""What a query looks at most: all that is needed of a row, where whole maps are too large to keep."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.metrics import Block, Extent, Metric


@dataclass(frozen=True)
class Top(Metric):
    """The `count` keys that get most of each query, per head: [..., 0] is the key, [..., 1] its share.

    Largest first. Where a query sees fewer keys, the rest are -1 with a share of 0. Of keys with equal
    shares any may be named, so this is no metric of METRICS, whose values are the same however they are read.
    """

    name: ClassVar[str] = "top"
    per: ClassVar[str] = "seen"

    count: int = 16

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count={self.count}: give at least 1 key.")

    def start(self, extent: Extent) -> Tensor:
        shape = (extent.batch, extent.heads, extent.queries, self.count)
        keys, shares = torch.full(shape, -1.0), torch.zeros(shape)
        return torch.stack([keys, shares], -1).to(extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        found = block.pattern.float().topk(min(self.count, block.pattern.shape[-1]), -1)
        keys = (found.indices + block.left + extent.first_key).float()
        keys = keys.masked_fill(found.values == 0, -1.0)
        place = (block.batch, block.heads, block.rows, slice(0, found.values.shape[-1]))
        total[place] = torch.stack([keys, found.values], -1).to(total.dtype)
