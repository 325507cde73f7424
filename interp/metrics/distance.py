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
        pattern = block.pattern.float()
        height, width = pattern.shape[-2:]
        top = extent.first + block.rows.start
        query = torch.arange(height, device=pattern.device, dtype=torch.float32)
        # Counted from the block's first row: small numbers keep float32 exact at long contexts.
        key = torch.arange(width, device=pattern.device, dtype=torch.float32)
        key += extent.first_key + block.left - top
        if extent.causal:
            rows = query * pattern.sum(-1) - pattern @ key
        else:
            rows = (pattern * (query[:, None] - key[None, :]).abs()).sum(-1)
        total[block.batch, block.heads, block.rows] = rows


METRICS.add(Distance.name, Distance)
