"""The family's own eager attention: the oracle of the seam, and its way out.

Nearly every modelling file of transformers keeps an `eager_attention_forward` beside its attention,
with one softmax in it. Where the seam's arithmetic is not the family's, that function is run instead,
and a tap on its softmax reads and changes `scores` and `pattern`.
"""

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from interp.rows import Call, whole

Edit = Callable[[Tensor], Tensor]
_SOFTMAXES = {torch.softmax, torch.nn.functional.softmax, Tensor.softmax}
_AGREES: dict[tuple, bool] = {}


def eager_of(module: nn.Module) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The eager function that stands beside this attention's class, or beside one it inherits."""
    for cls in type(module).__mro__:
        function = getattr(sys.modules.get(cls.__module__), "eager_attention_forward", None)
        if function is not None:
            return function
    return None


def additive(call: Call) -> Tensor | None:
    """The call's mask as eager code takes it: added to the scores, 0 where a key is seen."""
    mask = call.mask
    if mask is None and call.causal:
        queries, keys = call.query.shape[2], call.key.shape[2]
        seen = torch.ones(queries, keys, dtype=torch.bool, device=call.query.device).tril()
        mask = seen[None, None]
    if mask is None or mask.dtype != torch.bool:
        return mask
    lowest = torch.finfo(call.query.dtype).min
    return torch.zeros_like(mask, dtype=call.query.dtype).masked_fill(~mask, lowest)


class _SoftmaxTap(TorchFunctionMode):
    """Stands at the one softmax of an eager function."""

    def __init__(self, keys: int, edit_scores: Edit, edit_pattern: Edit):
        super().__init__()
        self.keys, self.edit_scores, self.edit_pattern = keys, edit_scores, edit_pattern
        self.passed = 0

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in _SOFTMAXES:
            return func(*args, **kwargs)
        self.passed += 1
        # A learned sink makes one more column than there are keys: it stays out of sight.
        scores = _within(args[0], self.keys, self.edit_scores)
        return _within(func(scores, *args[1:], **kwargs), self.keys, self.edit_pattern)


def _within(value: Tensor, keys: int, edit: Edit) -> Tensor:
    if value.shape[-1] == keys:
        return edit(value)
    return torch.cat([edit(value[..., :keys]), value[..., keys:]], dim=-1)


def tapped_eager(
    module: nn.Module, call: Call, extras: dict[str, Any], edit_scores: Edit, edit_pattern: Edit
) -> Tensor:
    """The family's eager function with `scores` and `pattern` passing through the edits."""
    function = eager_of(module)
    if function is None:
        raise ValueError(
            f"{type(module).__name__} computes attention in a way the seam does not know, and has no "
            "eager function beside it; its scores and pattern cannot be served."
        )
    with _SoftmaxTap(call.key.shape[2], edit_scores, edit_pattern) as tap:
        output, _ = function(
            module,
            call.query,
            call.key,
            call.value,
            additive(call),
            scaling=call.scaling,
            dropout=call.dropout,
            **extras,
        )
    if tap.passed != 1:
        raise ValueError(
            f"the eager attention of {type(module).__name__} has {tap.passed} softmaxes, not one; "
            "its scores and pattern cannot be served."
        )
    return output


def _wave(*shape: int, like: Tensor) -> Tensor:
    """Numbers that look random and leave every random generator alone."""
    count = torch.arange(1, 1 + torch.Size(shape).numel(), device=like.device, dtype=torch.float32)
    return torch.sin(count * count * 0.7).view(shape).to(like.dtype)


@torch.no_grad()
def agrees(module: nn.Module, call: Call, extras: dict[str, Any]) -> bool:
    """Whether the seam's arithmetic is this family's own, tried once on a small example."""
    shape = (call.query.shape[1], call.key.shape[1], call.query.shape[3], call.value.shape[3])
    known = (type(module), call.query.dtype, shape, call.softcap, *sorted(extras))
    if known not in _AGREES:
        _AGREES[known] = _agrees_now(module, call, extras)
    return _AGREES[known]


def _agrees_now(module: nn.Module, call: Call, extras: dict[str, Any]) -> bool:
    function = eager_of(module)
    if function is None:
        return not extras  # plain attention: nothing to compare with, and nothing unusual asked
    queries, keys, like = 3, 5, call.query
    heads, kv_heads = call.query.shape[1], call.key.shape[1]
    small = Call(
        _wave(1, heads, queries, call.query.shape[3], like=like),
        _wave(1, kv_heads, keys, call.key.shape[3], like=like) * 2,
        _wave(1, kv_heads, keys, call.value.shape[3], like=like),
        torch.ones(1, 1, queries, keys, dtype=torch.bool, device=like.device).tril(2),
        causal=False,
        scaling=call.scaling,
        softcap=call.softcap,
        bias=None if call.bias is None else _wave(1, heads, queries, keys, like=like),
        sinks=call.sinks,
    )
    if small.bias is not None:
        extras = {**extras, "position_bias": small.bias}
    seen: list[Tensor] = []
    ours = whole(small, edit_pattern=lambda pattern, first: seen.append(pattern) or pattern)
    theirs, weights = function(
        module,
        small.query,
        small.key,
        small.value,
        additive(small),
        scaling=small.scaling,
        **extras,
    )
    tolerance = 1e-5 if like.dtype == torch.float32 else 3e-2
    return torch.allclose(ours, theirs, atol=tolerance) and (
        weights is None or torch.allclose(seen[0], weights.to(seen[0]), atol=tolerance)
    )
