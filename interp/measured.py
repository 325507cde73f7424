"""Metrics read off a whole attention map, as a back end without the seam hands it over."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from interp.live import Place, Watched
from interp.metrics import Block, Extent, apart


def measure(watched: Iterable[Watched], pattern: Tensor, place: Place, prompt: Any) -> None:
    """Give [batch, head, query, key] of one call to each metric, and its number to who asked for it.

    Rows that stand for padding are 0 in it.
    """
    asked = [one for one in watched if one.stack == place.stack and place.layer in one.layers]
    if not asked:
        return
    pattern = pattern.detach().float()
    batch, heads, queries, keys = pattern.shape
    first = max(0, keys - queries) if place.causal else 0
    real = pattern.sum(-1) > 0
    ahead = not place.causal or bool(pattern.triu(first + 1).any())
    parts = apart((pattern != 0).flatten(0, 1).any(0)) if ahead and queries == keys else []
    extent = Extent(
        batch,
        heads,
        queries,
        keys,
        first,
        0,
        not ahead,
        pattern.device,
        real=None if bool(real.all()) else real,
        parts=tuple(parts) if len(parts) > 1 else (),
        prompt=prompt,
        stack=place.stack,
        layer=place.layer,
    )
    every = slice(None)
    block = Block(pattern, None, slice(0, queries), 0, every, every)
    with torch.no_grad():
        for one in asked:
            total = one.metric.start(extent)
            one.metric.add(total, block, extent)
            one.collect(one.metric.finish(total, extent), place)
