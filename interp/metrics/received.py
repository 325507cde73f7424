"""Attention that a key gets: the column sum of the pattern."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric


@dataclass(frozen=True)
class Received(Metric):
    """Sum over queries of A[query, key], per head and key; over all keys it sums to the queries."""

    name: ClassVar[str] = "received"
    per: ClassVar[str] = "key"

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        total[block.batch, block.heads, block.columns] += block.pattern.sum(-2, dtype=total.dtype)


METRICS.add(Received.name, Received)
