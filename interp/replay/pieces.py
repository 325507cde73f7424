"""Parts of layers that treat tokens one by one, run on fewer tokens at a time, or on fewer at all.

Activations pass several times over wide rows: a few tokens at a time stay in the cache (measured on CPU).
Projections to queries, keys and values need not run again on tokens that enter a layer as in the run.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import ACT2CLS
from transformers.pytorch_utils import Conv1D

from interp.live import LIVE, Carrier, carrier_of
from interp.replay.packing import Tokens
from interp.shadow import Around
from interp.structure import Stack

TOKENS = 64
# Classes that treat numbers one by one; ACT2CLS holds some with arguments, as (class, arguments).
_ACTIVATIONS = tuple({one[0] if isinstance(one, tuple) else one for one in ACT2CLS.values()})


class InPieces(Carrier):
    """Lets activations run in pieces, and projections on the tokens that are new."""

    tokens: Tokens
    fresh: Tensor | None = (
        None  # which tokens differ from the run's at the layer's input; None: all
    )
    projected: dict[nn.Module, Tensor]

    def activation(self, call: Callable[[Tensor], Tensor], value: Tensor) -> Tensor:
        output = torch.empty_like(value)
        for start in range(0, value.shape[1], TOKENS):
            own = slice(start, start + TOKENS)
            output[:, own] = call(value[:, own])
        return output

    def projection(
        self, call: Callable[[Tensor], Tensor], value: Tensor, module: nn.Module
    ) -> Tensor:
        kept = self.projected.get(module)
        if self.fresh is None or kept is None or len(self.tokens) != value.shape[1]:
            return call(value)
        output = self.tokens.of(kept)
        if len(self.fresh):
            output[self.fresh] = call(value[:, self.fresh])[0]
        return output[None]


def taps(stack: Stack) -> Iterator[tuple[nn.Module, str, Around]]:
    for layer in stack.layers.values():
        for module in layer.module.modules() if layer.module is not None else ():
            if type(module) in _ACTIVATIONS:
                yield module, "forward", _around_activation
    yield from projection_taps(stack)


def projection_taps(stack: Stack) -> Iterator[tuple[nn.Module, str, Around]]:
    """What makes queries, keys and values of the stream."""
    for layer in stack.layers.values():
        for module in layer.attention.modules() if layer.attention is not None else ():
            if isinstance(module, (nn.Linear, Conv1D)) and module is not layer.out:
                yield module, "forward", _around_projection


def _around_activation(
    original: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict
) -> Any:
    carrier = carrier_of(LIVE.get())
    if not isinstance(carrier, InPieces) or not _is_packed(args, kwargs):
        return original(*args, **kwargs)
    return (
        carrier.activation(original, args[0]) if args[0].device.type == "cpu" else original(args[0])
    )


def _around_projection(
    original: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict
) -> Any:
    carrier = carrier_of(LIVE.get())
    if isinstance(carrier, InPieces) and _is_packed(args, kwargs):
        return carrier.projection(original, args[0], module)
    output = original(*args, **kwargs)
    keep = getattr(carrier, "keep_projection", None)
    if keep is not None:
        keep(module, output)
    return output


def _is_packed(args: tuple, kwargs: dict) -> bool:
    return len(args) == 1 and not kwargs and isinstance(args[0], Tensor) and args[0].ndim == 3
