"""The statistics from a whole map, as they are written down: what the peers are given to run.

One head at a time, which is both faster and leaner than all heads at once.
"""

import torch
from torch import Tensor

Statistics = dict[str, Tensor]  # name -> [layer, head, position]
WINDOW, HORIZON = 10, (10, 100)  # of WAAD and FAI
THREE = ("received", "entropy", "distance")
FIVE = ("received", "entropy", "waad", "fai", "sink")


def dense(pattern: Tensor, names: tuple[str, ...] = THREE) -> Statistics:
    """Statistics of one layer's map, [1, head, query, key]."""
    position = torch.arange(pattern.shape[-1], dtype=pattern.dtype)
    heads = [{name: _WAYS[name](head, position) for name in names} for head in pattern[0]]
    return {name: torch.stack([head[name] for head in heads]) for name in names}


def _received(pattern: Tensor, position: Tensor) -> Tensor:
    return pattern.sum(0)


def _entropy(pattern: Tensor, position: Tensor) -> Tensor:
    return torch.special.entr(pattern).sum(-1)


def _distance(pattern: Tensor, position: Tensor) -> Tensor:
    """No key lies after its query, so |query - key| needs no table of distances."""
    return position * pattern.sum(-1) - pattern @ position


def _waad(pattern: Tensor, position: Tensor) -> Tensor:
    """Only the columns inside the window fall short of it: ten diagonals, not a table."""
    rows = WINDOW * pattern.sum(-1)
    for back in range(WINDOW):
        rows[back:] -= (WINDOW - back) * pattern.diagonal(-back)
    return rows


def _fai(pattern: Tensor, position: Tensor) -> Tensor:
    """Each key's mean over the rows of its horizon: the diagonals inside it."""
    low, high = HORIZON
    total, count = torch.zeros_like(position), torch.zeros_like(position)
    for back in range(low, min(high, len(position) - 1) + 1):
        along = pattern.diagonal(-back)
        total[: len(along)] += along
        count[: len(along)] += 1
    return torch.where(count > 0, total / count, torch.nan)


def _sink(pattern: Tensor, position: Tensor) -> Tensor:
    return pattern.sum(0) / (len(position) - position)


_WAYS = {
    "received": _received,
    "entropy": _entropy,
    "distance": _distance,
    "waad": _waad,
    "fai": _fai,
    "sink": _sink,
}


def stacked(layers: list[Statistics]) -> Statistics:
    return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}
