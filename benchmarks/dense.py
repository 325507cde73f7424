"""The statistics from a whole map, as they are written down: what the peers are given to run.

One head at a time, which is both faster and leaner than all heads at once.
"""

import torch
from torch import Tensor

Statistics = dict[str, Tensor]  # name -> [layer, head, position]


def dense(pattern: Tensor) -> Statistics:
    """received, entropy and distance of one layer's map, [1, head, query, key]."""
    heads = [_of_head(head) for head in pattern[0]]
    return {name: torch.stack([head[name] for head in heads]) for name in heads[0]}


def _of_head(pattern: Tensor) -> Statistics:
    position = torch.arange(len(pattern), dtype=pattern.dtype)
    return {
        "received": pattern.sum(0),
        "entropy": torch.special.entr(pattern).sum(-1),
        # No key lies after its query, so |query - key| needs no table of distances.
        "distance": position * pattern.sum(-1) - pattern @ position,
    }


def stacked(layers: list[Statistics]) -> Statistics:
    return {name: torch.stack([layer[name] for layer in layers]) for name in layers[0]}
