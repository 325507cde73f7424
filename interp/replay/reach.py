"""How far a change can reach: which positions may differ once one of them does."""

from collections.abc import Iterable

import torch
from torch import Tensor

from interp.rows import Call


def starts(calls: Iterable[Call], batch: int, positions: int) -> Tensor:
    """[batch, position]: the first position that may differ after one differs there, over all layers.

    A causal mask lets a change reach later positions only; a window, a prefix that sees both ways and
    padding are in the mask; a stack without one lets it reach all.
    """
    first = torch.arange(positions).expand(batch, positions).clone()
    done: set[int] = set()
    for call in calls:
        if call.seen is None:
            if not call.causal:
                return torch.zeros(batch, positions, dtype=torch.long)
            continue
        if call.seen.data_ptr() in done:
            continue
        done.add(call.seen.data_ptr())
        seen = call.seen.any(1)  # of any head: [batch or 1, query, key]
        rows = torch.arange(positions, device=seen.device)[None, :, None]
        looks = (
            torch.where(seen, rows, positions).amin(1).cpu()
        )  # the first query that sees each key
        first = torch.minimum(first, looks.expand(batch, -1))
    return _closed(first)


def _closed(first: Tensor) -> Tensor:
    """Until nothing changes: all positions after the start may differ, and reach on."""
    while True:
        after = first.flip(1).cummin(1).values.flip(1)
        further = after.gather(1, after)
        if torch.equal(further, first):
            return first
        first = further
