"""Attention computed so that every softmax row is seen whole: by map, or by blocks of rows.

A block of query rows sees all its keys, so its softmax is exact; it is handed to whoever asked,
multiplied into the values and dropped. Keys and values keep their KV heads: queries of one KV head
are stacked into the rows of one product instead.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.metrics import Block

# Measured on CPU (d_head 64): blocks of 64 to 128 rows and at most 2 MB of scores stay in the cache.
BLOCK_ROWS = 128
BLOCK_ELEMENTS = 1 << 19

Edit = Callable[[Tensor, int], Tensor]  # (value [batch, head, row, key], first row) -> value


@dataclass
class Call:
    """One attention call, in the seam's own words."""

    query: Tensor  # [batch, head, query, d_head]
    key: Tensor  # [batch, kv_head, key, d_head]
    value: Tensor  # [batch, kv_head, key, d_value]
    mask: (
        Tensor | None
    )  # True where a key is seen, or additive; None with `causal` for the triangle
    causal: bool
    scaling: float
    dropout: float = 0.0
    softcap: float | None = None
    bias: Tensor | None = None  # [batch or 1, head, query, key], added to the scores
    sinks: Tensor | None = (
        None  # [head]: a learned score that joins each softmax and takes its share
    )

    @property
    def groups(self) -> int:
        return self.query.shape[1] // self.key.shape[1]


@dataclass(frozen=True)
class Span:
    """Rows `top:bottom` of a call, and the columns `left:right` beyond which they see nothing."""

    top: int
    bottom: int
    left: int
    right: int


def _hide(scores: Tensor, call: Call, batch: slice, heads: slice, span: Span) -> Tensor:
    """Take away the keys that a row must not see. `scores` is [batch, head, row, key]."""
    rows, keys = slice(span.top, span.bottom), slice(span.left, span.right)
    lowest = torch.finfo(scores.dtype).min
    if call.mask is not None:
        mask = call.mask[:, heads] if call.mask.shape[1] > 1 else call.mask
        mask = (mask[batch] if mask.shape[0] > 1 else mask)[..., rows, keys]
        if mask.dtype == torch.bool:
            return scores.masked_fill(~mask, lowest)
        return (scores + mask).clamp_min(lowest)
    if call.causal:
        row = torch.arange(span.top, span.bottom, device=scores.device)
        column = torch.arange(span.left, span.right, device=scores.device)
        return scores.masked_fill(column[None, :] > row[:, None], lowest)
    return scores


def _softmax(scores: Tensor, call: Call, heads: slice) -> Tensor:
    """Softmax in float32, with the learned sink as one more key that is not returned."""
    if call.sinks is None:
        return torch.softmax(scores, dim=-1, dtype=torch.float32)
    sink = call.sinks[heads].view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, sink.to(scores)], -1), -1, torch.float32)[..., :-1]


def _bend(scores: Tensor, call: Call, batch: slice, heads: slice, span: Span) -> Tensor:
    """Soft cap and position bias, in the order in which every family applies them."""
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    if call.bias is not None:
        bias = call.bias[batch] if call.bias.shape[0] > 1 else call.bias
        scores = scores + bias[:, heads, span.top : span.bottom, span.left : span.right]
    return scores


def _alive(call: Call, batch: slice, heads: slice, span: Span) -> Tensor | None:
    """[batch, head, row, 1]: whether a row sees any key. Padding rows do not; None when all do."""
    if call.mask is None:
        return None
    mask = call.mask[batch] if call.mask.shape[0] > 1 else call.mask
    mask = (mask[:, heads] if mask.shape[1] > 1 else mask)[..., span.top : span.bottom, :]
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return seen.any(-1, keepdim=True)


def whole(
    call: Call,
    edit_scores: Edit | None = None,
    edit_pattern: Edit | None = None,
    read: Callable[[Block], None] | None = None,
    rows: int | None = None,
) -> Tensor:
    """Attention for all examples and heads at once, `rows` query rows at a time (None: all).

    Gradients flow. Returns [batch, query, head, d_value].
    """
    total, every = call.query.shape[2], slice(None)
    outputs = []
    for top in range(0, total, rows or total):
        span = Span(top, min(total, top + (rows or total)), 0, call.key.shape[2])
        scores = _product(call.query[:, :, span.top : span.bottom], call.key) * call.scaling
        scores = _bend(scores, call, every, every, span)
        scores = _hide(scores, call, every, every, span)
        if edit_scores is not None:
            scores = edit_scores(scores, span.top)
        pattern = _softmax(scores, call, every)
        alive = _alive(call, every, every, span)
        if alive is not None:
            pattern = pattern * alive
        pattern = pattern.to(call.query.dtype)
        if edit_pattern is not None:
            pattern = edit_pattern(pattern, span.top)
        if read is not None:
            scores = None if edit_pattern is not None else scores.detach()
            read(Block(pattern.detach(), scores, slice(top, span.bottom), 0, every, every))
        if call.dropout:
            pattern = torch.nn.functional.dropout(pattern, call.dropout)
        outputs.append(_mix(pattern, call.value))
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous()


def _product(query: Tensor, key: Tensor) -> Tensor:
    """query . key, [batch, head, row, key], with the heads that share a KV head in one product."""
    batch, heads, rows, size = query.shape
    stacked = query.reshape(batch, key.shape[1], -1, size)
    return (stacked @ key.transpose(2, 3)).reshape(batch, heads, rows, -1)


def _mix(pattern: Tensor, value: Tensor) -> Tensor:
    batch, heads, rows, keys = pattern.shape
    stacked = pattern.reshape(batch, value.shape[1], -1, keys).to(value.dtype)
    return (stacked @ value).reshape(batch, heads, rows, -1)


@dataclass(frozen=True)
class Rows:
    """A span of rows in streaming: what to hide in it."""

    span: Span
    hide_from: int  # columns before it are seen by every row
    alive: Tensor | None  # [1, 1, row, 1]: rows that see anything; None when all do


def _blocks(call: Call, example: int, height: int) -> Iterator[Rows]:
    """Blocks of rows with the columns that any of them sees; blocks that see nothing are left out."""
    total, keys = call.query.shape[2], call.key.shape[2]
    mask = None if call.mask is None else call.mask[example if call.mask.shape[0] > 1 else 0]
    additive = mask is not None and mask.dtype != torch.bool
    if additive:
        mask = mask > torch.finfo(mask.dtype).min / 2
    for top in range(0, total, height):
        bottom = min(total, top + height)
        if mask is None:
            right = bottom if call.causal else keys
            yield Rows(Span(top, bottom, 0, right), top if call.causal else right, None)
            continue
        part = mask[:, top:bottom].flatten(0, 1)
        seen = part.any(0).nonzero()
        if len(seen) == 0:
            continue
        left, right = int(seen[0]), int(seen[-1]) + 1
        alive = mask[:, top:bottom].any(-1)[None, :, :, None]
        everyone = bool(alive.all())
        partly = (~part[:, left:right].all(0)).nonzero()
        hide_from = left + int(partly[0]) if len(partly) else right
        if additive:
            hide_from = left  # where it does not hide, it may still weigh
        yield Rows(Span(top, bottom, left, right), hide_from, None if everyone else alive)


@torch.no_grad()
def streamed(call: Call, read: Callable[[Block], None]) -> Tensor:
    """Attention in blocks that stay in the cache, each shown to `read` and dropped; no gradients.

    Returns [batch, query, head, d_value]. A block holds a few heads of one example.
    """
    batch, heads, total, _ = call.query.shape
    keys, kv_heads = call.key.shape[2], call.key.shape[1]
    height = min(total, BLOCK_ROWS, max(16, BLOCK_ELEMENTS // (call.groups * keys)))
    together = max(1, min(kv_heads, BLOCK_ELEMENTS // (call.groups * height * keys)))
    output = call.value.new_zeros(batch, total, heads, call.value.shape[3])
    for example in range(batch):
        blocks = list(_blocks(call, example, height))
        for low in range(0, kv_heads, together):
            _stream_heads(call, read, example, low, min(kv_heads, low + together), blocks, output)
    return output


def _stream_heads(
    call: Call,
    read: Callable[[Block], None],
    example: int,
    low: int,
    high: int,
    blocks: list[Rows],
    output: Tensor,
) -> None:
    """The blocks of KV heads `low:high` of one example, and of the query heads that share them."""
    key = call.key[example, low:high].transpose(1, 2).contiguous()
    value = call.value[example, low:high]
    heads = slice(low * call.groups, high * call.groups)
    batch = slice(example, example + 1)
    query = (call.query[example, heads] * call.scaling).unflatten(0, (high - low, call.groups))
    for rows in blocks:
        span = rows.span
        wide = (high - low, -1, span.right - span.left)
        scores = (
            query[:, :, span.top : span.bottom].flatten(1, 2) @ key[:, :, span.left : span.right]
        )
        scores = scores.view(1, heads.stop - heads.start, span.bottom - span.top, -1)
        scores = _bend(scores, call, batch, heads, span)
        if rows.hide_from < span.right:
            part = Span(span.top, span.bottom, rows.hide_from, span.right)
            edge = scores[..., rows.hide_from - span.left :]
            edge.copy_(_hide(edge, call, batch, heads, part))
        pattern = _softmax(scores, call, heads)
        if rows.alive is not None:
            pattern *= rows.alive[:, heads] if rows.alive.shape[1] > 1 else rows.alive
        read(Block(pattern, scores, slice(span.top, span.bottom), span.left, batch, heads))
        mixed = pattern.to(value.dtype).view(wide) @ value[:, span.left : span.right]
        mixed = mixed.unflatten(1, (call.groups, -1)).flatten(0, 1)
        output[example, span.top : span.bottom, heads] = mixed.transpose(0, 1)


def default_scaling(query: Tensor) -> float:
    return 1 / math.sqrt(query.shape[-1])
