"""How far away a query looks."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric


@dataclass(frozen=True)
class Distance(Metric):
    """sum_key A |query - key| in tokens, per head and query (the span of a row)."""

    name: ClassVar[str] = "distance"
    per: ClassVar[str] = "query"
    one_sequence: ClassVar[bool] = True

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        if extent.causal:
            rows = looked_back(block, extent)
        else:
            query, key = _places(block, extent)
            rows = (block.pattern.float() * (query[:, None] - key[None, :]).abs()).sum(-1)
        total[block.batch, block.heads, block.rows] = rows


def looked_back(block: Block, extent: Extent) -> Tensor:
    """sum_key A (query - key) of a block's rows, with no table of distances."""
    query, key = _places(block, extent)
    pattern = block.pattern.float()
    return query * pattern.sum(-1) - pattern @ key


def _places(block: Block, extent: Extent) -> tuple[Tensor, Tensor]:
    """Where queries and keys stand, counted from the block's first row: small numbers keep float32
    exact at long contexts."""
    height, width = block.pattern.shape[-2:]
    query = torch.arange(height, device=block.pattern.device, dtype=torch.float32)
    key = torch.arange(width, device=block.pattern.device, dtype=torch.float32)
    return query, key + extent.first_key + block.left - extent.first - block.rows.start


METRICS.add(Distance.name, Distance)
