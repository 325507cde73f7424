"""Future attention influence (arXiv 2510.13554)."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, LooksBack

if TYPE_CHECKING:
    from interp.prompt import Prompt

# The horizons that the two versions of the paper train with. Its analysis looks to the end.
PUBLISHED = {"v1": (10, 50), "v2": (10, 100)}


@dataclass(frozen=True)
class FAI(LooksBack):
    """Mean attention that a key gets from the queries `low` to `high` positions after it, per head and key.

    `high=None` looks to the end. `rows` counts only the queries of a span, such as "response". NaN for a
    key after which no such query stands.
    """

    name: ClassVar[str] = "fai"
    per: ClassVar[str] = "key"

    low: int = 0
    high: int | None = None

    def __post_init__(self) -> None:
        if self.low < 0 or (self.high is not None and self.high < self.low):
            raise ValueError(
                f"the horizon [{self.low}, {self.high}] must start at 0 or later and not end before it."
            )

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        super().check(stack, prompt)
        if prompt is not None and prompt.length:
            self._check_length(int(prompt.mask.sum(-1).max()))

    def _check_length(self, length: int) -> None:
        if self.low >= length:
            raise ValueError(
                f"the horizon [{self.low}, {self.high}] starts {self.low} tokens after a key, and the text "
                f"has only {length} tokens: every value would be undefined. Give a smaller low=."
            )

    def start(self, extent: Extent) -> Tensor:
        self._check_length(extent.first_key + extent.keys)
        return super().start(extent)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        """Columns inside the horizon of every row are summed as they are, the others under a mask."""
        height, width = block.pattern.shape[-2:]
        top = extent.first + block.rows.start
        start = extent.first_key + block.left
        right = _within(top + height - self.low - start, width)
        edge = _within(
            top - self.low - start + 1, right
        )  # columns before it are in every row's past
        if self.high is not None:
            edge = _within(top - self.high - start, right)  # and here too far back for all of them
        weights = self.chosen(extent)
        if weights is not None:
            weights = weights[block.batch, None, None, block.rows].to(block.pattern.dtype)
        own = total[block.batch, block.heads, block.columns]
        if self.high is None:
            own[..., :edge] += _summed(block.pattern[..., :edge], weights)
        row = torch.arange(height, device=total.device) + top
        key = torch.arange(edge, right, device=total.device) + start
        back = row[:, None] - key[None, :]
        inside = back >= self.low if self.high is None else (back >= self.low) & (back <= self.high)
        own[..., edge:right] += _summed(block.pattern[..., edge:right] * inside, weights)

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        weights = self.chosen(extent)
        if weights is not None:
            rows = weights[:, None] * extent.rows
            extent = replace(extent, real=rows)
        count = extent.rows_after(self.low, self.high)
        return torch.where(count > 0, total / count.clamp_min(1), torch.nan)


def _within(column: int, width: int) -> int:
    return min(max(0, column), width)


def _summed(pattern: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return pattern.sum(-2, dtype=torch.float32)
    return (weights @ pattern)[..., 0, :].float()


METRICS.add(FAI.name, FAI)
