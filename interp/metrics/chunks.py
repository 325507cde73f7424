"""Attention between sentences, or whatever else a text is cut into."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric


@dataclass(frozen=True)
class Chunks(Metric):
    """Mean of A over each pair of chunks of the text, per head: row chunks look at column chunks.

    `starts` are the positions at which chunks begin; what stands before the first is left out. Without
    starts, the whole text is one chunk. Of one text at a time, or texts cut at the same positions.
    """

    name: ClassVar[str] = "chunks"
    per: ClassVar[str] = "chunk"
    one_sequence: ClassVar[bool] = True

    starts: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        ordered = list(self.starts) == sorted(set(self.starts))
        if not self.starts or not ordered or self.starts[0] < 0:
            raise ValueError(
                f"starts={self.starts!r}: positions from 0, each after the one before."
            )

    def _membership(self, first: int, count: int, device: torch.device) -> Tensor:
        """[position, chunk]: 1 where the position lies in the chunk."""
        position = torch.arange(first, first + count, device=device)
        starts = torch.tensor(self.starts, device=device)
        chunk = (position[:, None] >= starts).sum(-1) - 1
        return (chunk[:, None] == torch.arange(len(starts), device=device)).float()

    def start(self, extent: Extent) -> Tensor:
        size = len(self.starts)
        return torch.zeros(extent.batch, extent.heads, size, size, device=extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        height, width = block.pattern.shape[-2:]
        rows = self._membership(extent.first + block.rows.start, height, total.device)
        keys = self._membership(extent.first_key + block.left, width, total.device)
        total[block.batch, block.heads] += rows.T @ block.pattern.float() @ keys

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        rows = self._membership(extent.first, extent.queries, total.device)
        real = extent.rows.expand(extent.batch, -1, -1) @ rows  # [batch, head or 1, chunk]
        keys = self._membership(extent.first_key, extent.keys, total.device)
        across = real if extent.queries == extent.keys else keys.sum(0).expand_as(real)
        return total / (real[..., :, None] * across[..., None, :]).clamp_min(1)


METRICS.add(Chunks.name, Chunks)
