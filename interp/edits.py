"""Changes of attention and of what it gives, as pure functions of tensors.

`redistribute` moves weight between keys of a pattern, `press` adds to scores, `gain` scales the
outputs of heads, `inject` adds to an output and keeps its size, `silence` and `replace` speak for themselves.
"""

import torch
from torch import Tensor


def redistribute(
    pattern: Tensor, sinks: Tensor, keep: float = 0.4, receivers: Tensor | None = None
) -> Tensor:
    """Sinks keep the share `keep` of their weight; the rest goes to the receivers, by their weights.

    `sinks` and `receivers` are masks that broadcast to the pattern [..., query, key]; without receivers,
    all that is no sink receives. Rows keep their sum. A row whose receivers have no weight stays.

        redistribute(tensor([.4, .3, .2, .1]), tensor([False, False, True, False]), keep=0.4)
        -> [.46, .345, .08, .115]
    """
    if not 0 <= keep <= 1:
        raise ValueError(f"keep={keep} is the share that sinks keep, from 0 to 1.")
    receiving = pattern * (~sinks if receivers is None else receivers & ~sinks)
    held = receiving.sum(-1, keepdim=True)
    able = held > 0
    freed = (1 - keep) * (pattern * sinks).sum(-1, keepdim=True)
    # Shares of the receivers, not a factor for them: that would leave half precision.
    shares = receiving / torch.where(able, held, 1)
    changed = torch.where(sinks, pattern * keep, torch.addcmul(pattern, shares, freed))
    return torch.where(able, changed, pattern)


def press(scores: Tensor, keys: Tensor, by: Tensor | float) -> Tensor:
    """`by` is added to the scores of `keys`, a mask that broadcasts to them; hidden keys stay hidden.

    With `by = log(a)` their weights are multiplied by a, and the row is normalised again.

        softmax(press(log(tensor([.5, .3, .2])), tensor([False, False, True]), log(4)))
        -> [.3125, .1875, .5]
    """
    hidden = scores <= torch.finfo(scores.dtype).min / 2
    return torch.where(keys & ~hidden, scores + by, scores)


def gain(z: Tensor, factor: Tensor) -> Tensor:
    """The outputs of heads [batch, position, head, d_head], each times its factor [..., head]."""
    return z * factor.unsqueeze(-1).to(z)


def inject(value: Tensor, added: Tensor, strength: float) -> Tensor:
    """value + strength * added, brought back to the norm that the value had; vectors lie last.

    inject(tensor([3., 4.]), tensor([4., -3.]), 1.0) -> [4.9497, 0.7071]
    """
    moved = value + strength * added
    size = moved.norm(dim=-1, keepdim=True)
    tiny = torch.finfo(value.dtype).tiny
    return moved / size.clamp_min(tiny) * value.norm(dim=-1, keepdim=True)


def silence(value: Tensor, where: Tensor | bool = True) -> Tensor:
    """Zero where the mask, which broadcasts to the value, holds."""
    return replace(value, torch.zeros((), dtype=value.dtype, device=value.device), where)


def replace(value: Tensor, other: Tensor, where: Tensor | bool = True) -> Tensor:
    """The other value where the mask, which broadcasts to the value, holds."""
    mask = torch.as_tensor(where, device=value.device)
    return torch.where(mask, other.to(value), value)
