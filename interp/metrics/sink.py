"""Attention that a position did not earn (Gu et al., ICLR 2025; the column score of ACT)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric

# The threshold at which a head is said to have a sink; the share of such heads falls with the
# length, so shares of texts of different lengths must not be compared.
EPSILON = 0.3


@dataclass(frozen=True)
class Sink(Metric):
    """alpha_k: the mean attention to a key over the queries that stand at or after it, per head and key.

    In a stack that sees both ways, over all queries that see it. `share` makes Sink_k^eps of it.
    """

    name: ClassVar[str] = "sink"
    per: ClassVar[str] = "key"

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        total[block.batch, block.heads, block.columns] += block.pattern.sum(-2, dtype=total.dtype)

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        return total / extent.rows_seeing().clamp_min(1)


def share(alpha: Tensor, position: int = 0, epsilon: float = EPSILON) -> float:
    """Sink_k^eps: the share of heads, over examples and layers, whose alpha_k is above epsilon.

    `alpha` is [..., head, key], of texts of one length.
    """
    if not -alpha.shape[-1] <= position < alpha.shape[-1]:
        raise IndexError(f"position {position} is out of range: there are {alpha.shape[-1]} keys.")
    return float((alpha[..., position] > epsilon).float().mean())


METRICS.add(Sink.name, Sink)
