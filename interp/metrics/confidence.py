"""How sure a head is of one place (Voita et al. 2019)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric


@dataclass(frozen=True)
class Confidence(Metric):
    """max_key A, per head and query; its mean over tokens, the end token left out, is Voita's confidence."""

    name: ClassVar[str] = "confidence"
    per: ClassVar[str] = "query"

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        total[block.batch, block.heads, block.rows] = block.pattern.amax(-1).to(total.dtype)


METRICS.add(Confidence.name, Confidence)
