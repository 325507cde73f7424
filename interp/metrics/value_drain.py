"""Values that say little where much attention goes (arXiv 2410.13835)."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, SiteMetric
from interp.spread import whole_weight


@dataclass(frozen=True)
class ValueDrain(SiteMetric):
    """|v W_O| of a position over the mean of the text's other positions, per head and key.

    Below 1 a position writes less than others when it is looked at. `projected=False` takes |v| before
    the output projection; `relative=False` the norm itself. Padding is 0.
    """

    name: ClassVar[str] = "value_drain"
    per: ClassVar[str] = "key"
    site: ClassVar[str] = "v"

    projected: bool = True
    relative: bool = True

    @property
    def joins(self) -> bool:
        return not self.relative

    def read(self, value: Tensor, mask: Tensor, layer: Any) -> Tensor:
        norms = (
            projected_norms(value, layer, self.name)
            if self.projected
            else value.norm(dim=-1).transpose(1, 2)
        )
        return over_others(norms, mask[:, None]) if self.relative else norms * mask[:, None]


def projected_norms(value: Tensor, layer: Any, name: str) -> Tensor:
    """[batch, head, position]: |x W_O| with each query head's part of the output projection.

    `value` [batch, position, head or KV head, d_head].
    """
    weight = output_weight(layer, name)
    size = value.shape[-1]
    if weight.shape[0] % (size * value.shape[2]):
        raise ValueError(
            f"the output projection takes {weight.shape[0]} numbers, which are no whole heads of {size}, so "
            f"{name} cannot tell them apart."
        )
    heads = weight.shape[0] // size
    own = value.repeat_interleave(heads // value.shape[2], dim=2)
    parts = weight.view(heads, size, -1).to(own)
    squares = parts @ parts.transpose(1, 2)  # so that nothing of the model's width is made
    mixed = torch.einsum("bkhd,hde->bkhe", own, squares)
    return (mixed * own).sum(-1).clamp_min(0).sqrt().transpose(1, 2)


def output_weight(layer: Any, name: str = "this") -> Tensor:
    """The output projection of a layer as [heads times d_head, d_model]."""
    out = getattr(layer, "out", None)
    if isinstance(out, torch.nn.Linear):
        return whole_weight(out).T.float()
    weight = getattr(out, "weight", None)
    kind = type(out).__name__
    if isinstance(out, torch.nn.Module) and kind == "Conv1D" and getattr(weight, "ndim", 0) == 2:
        return whole_weight(out).float()
    raise ValueError(
        f"{name} needs the layer's output projection: metric(value, prompt, model.stacks[...].layers[i]); "
        f"here it is {type(out).__name__}. METRICS['value_drain'](projected=False) does without."
    )


def over_others(norms: Tensor, mask: Tensor) -> Tensor:
    """Each value over the mean of the others that the mask holds; 0 outside it, NaN where there are none."""
    norms = norms * mask
    count = mask.sum(-1, keepdim=True)
    others = (norms.sum(-1, keepdim=True) - norms) / (count - 1).clamp_min(1)
    ratio = norms / others.clamp_min(torch.finfo(norms.dtype).tiny)
    return torch.where(mask, torch.where(count > 1, ratio, torch.nan), 0.0)


METRICS.add(ValueDrain.name, ValueDrain)
