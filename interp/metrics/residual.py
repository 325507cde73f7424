"""The residual stream where it stands out: peaks, massive activations, sink dimensions."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, SiteMetric

MASSIVE, TIMES_MEDIAN = 100.0, 1000.0  # Sun et al. 2024: |x| > 100 and about 1000 medians
SINK_SCALE, SINK_WIDTH = 20.0, 4096  # VAR's threshold, and the width of the models it was set on


@dataclass(frozen=True)
class ResidualPeak(SiteMetric):
    """|x| of a position over the largest |x| of the text's others, per position; padding is 0.

    Above 1 the position is the peak. `relative=False` gives the norm itself.
    """

    name: ClassVar[str] = "residual_peak"
    per: ClassVar[str] = "position"
    site: ClassVar[str] = "resid_post"

    relative: bool = True

    def read(self, value: Tensor, mask: Tensor, layer: Any) -> Tensor:
        norms = value.norm(dim=-1) * mask
        if not self.relative or norms.shape[1] < 2:
            return norms
        highest = norms.topk(2, dim=-1).values
        others = torch.where(norms == highest[:, :1], highest[:, 1:], highest[:, :1])
        return norms / others.clamp_min(torch.finfo(norms.dtype).tiny) * mask


@dataclass(frozen=True)
class Massive(SiteMetric):
    """The `top` largest |x| of each text: value, position, channel, |x| over the median of all |x|.

    `is_massive` says which of them are massive activations.
    """

    name: ClassVar[str] = "massive"
    per: ClassVar[str] = "rank"
    site: ClassVar[str] = "resid_post"

    top: int = 3

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ValueError(f"top={self.top}: how many of the largest to give, at least 1.")

    def read(self, value: Tensor, mask: Tensor, layer: Any) -> Tensor:
        rows = []
        for state, real in zip(value, mask, strict=True):
            positions = real.nonzero().flatten()
            sizes = state[positions].abs()
            largest, index = sizes.flatten().topk(min(self.top, sizes.numel()))
            place, channel = positions[index // sizes.shape[1]], index % sizes.shape[1]
            median = sizes.median().clamp_min(torch.finfo(sizes.dtype).tiny)
            fields = [state[place, channel], place.float(), channel.float(), largest / median]
            rows.append(torch.stack(fields, -1))
        return torch.stack(rows)


def is_massive(found: Tensor, absolute: bool = True) -> Tensor:
    """[..., rank]: which of `massive`'s are; `absolute=False` asks only for the 1000 medians."""
    outstanding = found[..., 3] >= TIMES_MEDIAN
    return outstanding & (found[..., 0].abs() > MASSIVE) if absolute else outstanding


@dataclass(frozen=True)
class Sinkness(SiteMetric):
    """phi = max over `dims` of |x| / rms(x), per position (VAR, arXiv 2503.03321); padding is 0.

    A position is a sink where phi reaches `threshold`. Without dims, the maximum is over all channels.
    """

    name: ClassVar[str] = "sinkness"
    per: ClassVar[str] = "position"
    site: ClassVar[str] = "resid_pre"

    dims: tuple[int, ...] | None = None

    def read(self, value: Tensor, mask: Tensor, layer: Any) -> Tensor:
        width = value.shape[-1]
        for channel in self.dims or ():
            if not 0 <= channel < width:
                raise IndexError(f"channel {channel} is out of range: the stream has {width}.")
        scaled = in_rms(value)
        part = scaled if self.dims is None else scaled[..., list(self.dims)]
        return part.amax(-1) * mask


def in_rms(value: Tensor) -> Tensor:
    """|x| in units of its position's root mean square."""
    return value.abs() * torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + 1e-6)


def threshold(width: int) -> float:
    """VAR's tau = 20, and for narrower streams the same share of their energy: phi <= sqrt(width).

    It stays above what the largest of so many equal channels reaches by chance, about sqrt(2 ln width).
    """
    scaled = SINK_SCALE * (width / SINK_WIDTH) ** 0.5
    return min(SINK_SCALE, max(scaled, math.sqrt(2 * math.log(width)) + 1))


METRICS.add(ResidualPeak.name, ResidualPeak)
METRICS.add(Massive.name, Massive)
METRICS.add(Sinkness.name, Sinkness)
