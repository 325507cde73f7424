"""How widely a query spreads its attention."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric, check_span

if TYPE_CHECKING:
    from interp.prompt import Prompt

# Past this score, log Z - E[score] loses more than 1e-5 to cancellation in float32.
LARGE_SCORE = 16.0


@dataclass(frozen=True)
class Entropy(Metric):
    """-sum_key A log A in nats, per head and query; 0 for a row that sees nothing.

    `keys` names a span, such as "image": the entropy of what goes there, scaled to sum to 1.
    """

    name: ClassVar[str] = "entropy"
    per: ClassVar[str] = "query"

    keys: str | None = None

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        if self.keys is not None:
            check_span(
                "entropy", self.keys, stack, prompt, "For an image: encode(text, images=...)."
            )

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        if self.keys is not None:
            span = extent.span(self.name, self.keys)[block.batch, None, None, block.columns]
            part = block.pattern.float() * span
            part = part / part.sum(-1, keepdim=True).clamp_min(torch.finfo(part.dtype).tiny)
            rows = torch.special.entr(part).sum(-1)
        elif block.scores is None:
            rows = torch.special.entr(block.pattern).sum(-1)
        else:
            rows = _from_scores(block.pattern, block.scores)
        total[block.batch, block.heads, block.rows] = rows.to(total.dtype)


def _from_scores(pattern: Tensor, scores: Tensor) -> Tensor:
    """log A = score - log Z, so no logarithm of the map is needed: only one of each row's peak."""
    precision = torch.promote_types(scores.dtype, torch.float32)
    pattern, scores = pattern.to(precision), scores.to(precision)
    peak = scores.amax(-1, keepdim=True)
    if peak.abs().max() > LARGE_SCORE:
        scores, peak = scores - peak, torch.zeros_like(peak)
    highest = pattern.amax(-1)
    log_sum = peak[..., 0] - highest.log()
    entropy = log_sum * pattern.sum(-1) - torch.linalg.vecdot(pattern, scores)
    return torch.where(highest > 0, entropy, 0.0)


METRICS.add(Entropy.name, Entropy)
