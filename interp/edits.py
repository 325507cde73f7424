"""Changes of attention as pure functions of tensors."""

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
    receiving = ~sinks if receivers is None else receivers & ~sinks
    held = (pattern * receiving).sum(-1, keepdim=True)
    freed = (1 - keep) * (pattern * sinks).sum(-1, keepdim=True)
    gain = torch.where(held > 0, 1 + freed / held.clamp_min(torch.finfo(pattern.dtype).tiny), 1.0)
    changed = torch.where(sinks, pattern * keep, torch.where(receiving, pattern * gain, pattern))
    return torch.where(held > 0, changed, pattern)
