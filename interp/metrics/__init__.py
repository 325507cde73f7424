"""Numbers read off attention while it streams, and equally off a stored pattern.

A metric is a small frozen object: settings, and three steps that the seam calls block by block.
Called on a stored pattern it takes the same steps over one block that holds everything.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.registry import Registry
from interp.sites import SITES

METRICS: "Registry[type[Metric]]" = Registry("metric", "interp.metrics")


@dataclass(frozen=True)
class Block:
    """Some rows of some heads of attention maps, on their way through the seam."""

    pattern: Tensor  # [batch, head, row, key]
    scores: Tensor | None  # the same before softmax; None when the pattern was changed after it
    rows: slice  # which query rows of the call
    left: int  # the call's column that is this block's first
    batch: slice
    heads: slice


@dataclass(frozen=True)
class Extent:
    """The size of one attention call and where it lies in the text."""

    batch: int
    heads: int
    queries: int
    keys: int
    first: int  # absolute position of the first query
    first_key: int  # absolute position of the first key
    causal: bool  # no key lies after its query: known of the stack, not guessed from numbers
    device: torch.device


@dataclass(frozen=True)
class Metric:
    """One number per head and query, or per head and key."""

    name: ClassVar[str]
    per: ClassVar[str]  # "query" or "key"
    one_sequence: ClassVar[bool] = False  # needs queries and keys to be positions of one sequence
    only_causal: ClassVar[bool] = False

    def start(self, extent: Extent) -> Tensor:
        length = extent.queries if self.per == "query" else extent.keys
        return torch.zeros(extent.batch, extent.heads, length, device=extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        """Take one block into the running total. Blocks come in any order, each row once."""
        raise TypeError(f"the metric {self.name!r} does not say how it adds a block.")

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        return total

    def __call__(self, pattern: Tensor) -> Tensor:
        """From a stored [batch, head, query, key]; the last query is taken to be at the last key."""
        if pattern.ndim != 4:
            raise ValueError(
                f"{self.name} takes a pattern [batch, head, query, key], not {tuple(pattern.shape)}."
            )
        batch, heads, queries, keys = pattern.shape
        first = max(0, keys - queries)
        extent = Extent(batch, heads, queries, keys, first, 0, self.only_causal, pattern.device)
        total = self.start(extent)
        every = slice(None)
        block = Block(pattern.detach().float(), None, slice(0, queries), 0, every, every)
        self.add(total, block, extent)
        return self.finish(total, extent)


def resolve(keep: Any) -> list[Metric]:
    """Metrics from objects or names; two with one name could not be told apart in a trace."""
    asked = list(keep) if isinstance(keep, (list, tuple)) else [keep]
    metrics: list[Metric] = []
    for item in asked:
        if isinstance(item, str) and item in SITES:
            raise LookupError(f"{item!r} is a site, not a metric: trace(prompt, {item!r}).")
        metric = METRICS[item]() if isinstance(item, str) else item
        metric = metric() if isinstance(metric, type) and issubclass(metric, Metric) else metric
        if not isinstance(metric, Metric):
            raise TypeError(
                f"keep= takes metrics or their names, not {item!r}. There are: {', '.join(METRICS)}."
            )
        if metric.name in {other.name for other in metrics}:
            raise ValueError(
                f"keep= holds {metric.name!r} twice; trace the two settings one after the other."
            )
        metrics.append(metric)
    return metrics
