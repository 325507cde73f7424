"""Sink tokens of a run, found once in its first forward and kept for its length (VAR's test)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.metrics.residual import in_rms
from interp.sites import At


@dataclass(eq=False)
class LayerSinks:
    """What one layer's prompt held: sinks [batch, position], and the largest phi [batch]."""

    sinks: Tensor
    largest: Tensor
    seen: int = 0  # positions read so far: prompts may come in chunks
    channels: Tensor | None = None  # [batch, k], where they are looked for in the run
    sizes: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SinkTest:
    """phi(x) = max over `dims` of |x| / rms(x) >= tau, at real positions [row, position].

    Without dims they are each row's own: the `count` largest channels at its first token.
    """

    tau: float
    real: Tensor
    dims: tuple[int, ...] | None = None
    count: int = 2

    def read(self, value: Tensor, at: At) -> LayerSinks | None:
        """What is known of the layer after these positions; None where they bring nothing new."""
        known: dict[int, LayerSinks] = at.memo.setdefault("sinks", {})
        length = self.real.shape[1]
        start, stop = at.first, min(length, at.first + value.shape[1])
        if at.layer not in known:
            known[at.layer] = self._nothing(value)
        found = known[at.layer]
        if stop <= found.seen:
            return None  # a later step: tokens that are written never become sinks
        value = value.detach()[:, : stop - start]
        phi = self._phi(value.to(torch.promote_types(value.dtype, torch.float32)), start, found)
        real = self._rows(value)[:, start:stop]
        found.largest = torch.maximum(found.largest, (phi * real).amax(1))
        found.sinks[:, start:stop] = (phi >= self.tau) & real
        found.seen = stop
        return found

    def _nothing(self, value: Tensor) -> LayerSinks:
        sinks = torch.zeros_like(self._rows(value))
        return LayerSinks(sinks, torch.zeros(len(value), device=value.device))

    def _rows(self, value: Tensor) -> Tensor:
        """Beam search repeats each row of the prompt."""
        return self.real.to(value.device).repeat_interleave(len(value) // len(self.real), 0)

    def _phi(self, value: Tensor, start: int, found: LayerSinks) -> Tensor:
        if self.dims is not None:
            part = value[..., list(self.dims)].abs()
        else:
            channels, sizes = self._own(value, start, found)
            part = value.gather(-1, channels[:, None].expand(-1, value.shape[1], -1)).abs()
            part = part * (sizes >= self.tau)[:, None]
        return part.amax(-1) * torch.rsqrt(value.pow(2).mean(-1) + 1e-6)

    def _own(self, value: Tensor, start: int, found: LayerSinks) -> tuple[Tensor, Tensor]:
        """[batch, count]: the largest channels of each row's first token, and their sizes there."""
        place = self._rows(value).int().argmax(1) - start
        rows = torch.arange(len(value), device=value.device)
        here = (place >= 0) & (place < value.shape[1])
        first = in_rms(value[rows, place.clamp(0, value.shape[1] - 1)])
        sizes, channels = first.topk(min(self.count, first.shape[-1]))
        if found.channels is not None and found.sizes is not None:  # of rows that began earlier
            channels = torch.where(here[:, None], channels, found.channels)
            sizes = torch.where(here[:, None], sizes, found.sizes)
        found.channels, found.sizes = channels, sizes
        found.largest = torch.maximum(found.largest, (sizes[:, 0] * here).to(found.largest))
        return channels, sizes
