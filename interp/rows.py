"""Attention computed so that every softmax row is seen whole: by map, or by blocks of rows.

A block of query rows sees all its keys, so its softmax is exact; it is handed to whoever asked,
multiplied into the values and dropped. Keys and values keep their KV heads: queries of one KV head
are stacked into the rows of one product instead.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from interp.metrics import Block

# Measured on CPU (d_head 64): blocks of 64 to 128 rows and at most 2 MB of scores stay in the cache.
BLOCK_ROWS = 128
BLOCK_ELEMENTS = 1 << 19

Edit = Callable[[Tensor, int], Tensor]  # (value [batch, head, row, key], first row) -> value


@dataclass
class Call:
    """One attention call, in the seam's own words.

    `mask` is True where a key is seen, or is added to the scores; without one, `causal` says whether
    the triangle holds. `bias` is added to the scores, [batch or 1, head, query, key]. `sinks`, [head],
    is a learned score that joins each softmax and takes its share.
    """

    query: Tensor  # [batch, head, query, d_head]
    key: Tensor  # [batch, kv_head, key, d_head]
    value: Tensor  # [batch, kv_head, key, d_value]
    mask: Tensor | None
    causal: bool
    scaling: float
    dropout: float = 0.0
    softcap: float | None = None
    bias: Tensor | None = None
    sinks: Tensor | None = None
    own_keys: bool = True  # queries and keys are one sequence: not so in cross attention

    @property
    def groups(self) -> int:
        return self.query.shape[1] // self.key.shape[1]

    @cached_property
    def seen(self) -> Tensor | None:
        """The mask as True where a key is seen, [batch or 1, head or 1, query, key]."""
        if self.mask is None or self.mask.dtype == torch.bool:
            return self.mask
        return self.mask > torch.finfo(self.mask.dtype).min / 2

    @cached_property
    def awake(self) -> Tensor | None:
        """[..., query, 1]: rows whose values are mixed; None when all are.

        A row that sees no key gives 0, as in SDPA; an eager family spreads it over all keys.
        """
        if self.seen is None or self.mask is None or self.mask.dtype != torch.bool:
            return None
        return _unless_all(self.seen.any(-1, keepdim=True))

    @cached_property
    def real(self) -> Tensor | None:
        """[..., query, 1]: rows that stand for a token; None when all do.

        A padding row sees nothing, or nobody sees its position. Its pattern is shown as 0, so that
        sums over queries are sums over tokens; what it passes on is left as the family has it.
        """
        if self.seen is None:
            return None
        rows = self.seen.any(-1, keepdim=True)
        if self.own_keys and self.query.shape[2] == self.key.shape[2]:
            # Padding is at an end: a key that a mask hides from everyone in the middle is a token.
            met = self.seen.any(-2).int()
            inside = met.cumsum(-1).bool() & met.flip(-1).cumsum(-1).flip(-1).bool()
            rows = rows & inside[..., None]
        return _unless_all(rows)

    @property
    def wants_gradient(self) -> bool:
        tensors = (self.query, self.key, self.value, self.bias, self.sinks)
        return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _unless_all(rows: Tensor) -> Tensor | None:
    return None if bool(rows.all()) else rows


def _part(rows: Tensor, batch: slice, heads: slice, top: int, bottom: int) -> Tensor:
    """The rows of some examples and heads, where either axis may be shared by all."""
    rows = rows[batch] if rows.shape[0] > 1 else rows
    rows = rows[:, heads] if rows.shape[1] > 1 else rows
    return rows[:, :, top:bottom]


@dataclass(frozen=True)
class Span:
    """Rows `top:bottom` of a call, and the columns `left:right` beyond which they see nothing."""

    top: int
    bottom: int
    left: int
    right: int

    @classmethod
    def of(cls, call: Call) -> "Span":
        return cls(0, call.query.shape[2], 0, call.key.shape[2])


def hide(scores: Tensor, call: Call, span: Span) -> Tensor:
    """Hide again what a change of the scores may have uncovered; what a mask only weighs stays."""
    lowest = torch.finfo(scores.dtype).min
    if call.seen is not None:
        seen = call.seen[:, :, span.top : span.bottom, span.left : span.right]
        return scores.masked_fill(~seen, lowest)
    return _under_triangle(scores, span, False) if call.causal else scores


def put_back(before: Tensor, shown: Tensor, after: Tensor, real: Tensor | None) -> Tensor:
    """The pattern to go on with: changes count in the rows of tokens, padding keeps what it had."""
    if after is shown:
        return before
    return after if real is None else torch.where(real, after, before)


def _hide(scores: Tensor, call: Call, batch: slice, heads: slice, span: Span) -> Tensor:
    """Take away the keys that a row must not see. `scores` is [batch, head, row, key]."""
    lowest = torch.finfo(scores.dtype).min
    if call.mask is not None:
        mask = _part(call.mask, batch, heads, span.top, span.bottom)[..., span.left : span.right]
        if mask.dtype == torch.bool:
            return scores.masked_fill(~mask, lowest)
        return (scores + mask).clamp_min(lowest)
    return _under_triangle(scores, span, True) if call.causal else scores


def _under_triangle(scores: Tensor, span: Span, own: bool) -> Tensor:
    """Later keys hidden. Columns before the first row are seen by all: only what follows is looked at.

    `own`: the scores are nobody else's, and may be changed in place.
    """
    lowest = torch.finfo(scores.dtype).min
    start = max(0, span.top - span.left)
    row = torch.arange(span.top, span.bottom, device=scores.device)
    column = torch.arange(span.left + start, span.right, device=scores.device)
    later = column[None, :] > row[:, None]
    edge = scores[..., start:]
    if own:
        edge.masked_fill_(later, lowest)
        return scores
    if not bool((later & (edge > lowest / 2)).any()):
        return scores
    return torch.cat([scores[..., :start], edge.masked_fill(later, lowest)], -1)


def _softmax(scores: Tensor, call: Call, heads: slice) -> Tensor:
    """Softmax in at least float32, with the learned sink as one more key that is not returned."""
    precision = torch.promote_types(scores.dtype, torch.float32)
    if call.sinks is None:
        return torch.softmax(scores, dim=-1, dtype=precision)
    sink = call.sinks[heads].view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat([scores, sink.to(scores)], -1), -1, precision)[..., :-1]


def _bend(scores: Tensor, call: Call, batch: slice, heads: slice, span: Span) -> Tensor:
    """Soft cap and position bias, in the order in which every family applies them."""
    if call.softcap is not None:
        scores = torch.tanh(scores / call.softcap) * call.softcap
    if call.bias is not None:
        bias = call.bias[batch] if call.bias.shape[0] > 1 else call.bias
        scores = scores + bias[:, heads, span.top : span.bottom, span.left : span.right]
    return scores


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
    total = call.query.shape[2]
    outputs = []
    for top in range(0, total, rows or total):
        span = Span(top, min(total, top + (rows or total)), 0, call.key.shape[2])
        outputs.append(opened(call, span, edit_scores, edit_pattern, read)[0])
    output = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=2)
    return output.transpose(1, 2).contiguous()


def opened(
    call: Call,
    span: Span,
    edit_scores: Edit | None = None,
    edit_pattern: Edit | None = None,
    read: Callable[[Block], None] | None = None,
) -> tuple[Tensor, bool]:
    """Some rows with their maps in the open, [batch, head, row, d_value]; and whether edits changed them."""
    every, rows = slice(None), slice(span.top, span.bottom)
    query, key, value = call.query, call.key, call.value
    if span.bottom - span.top < query.shape[2]:
        query = query[:, :, rows]
    if span.right < key.shape[2]:
        key, value = key[:, :, : span.right], value[:, :, : span.right]
    raw = scores = _hide(_bend(_product(query * call.scaling, key), call, every, every, span),
                         call, every, every, span)  # fmt: skip
    if edit_scores is not None:
        scores = edit_scores(scores, span.top)
        if scores is not raw:
            scores = hide(scores, call, span)
    pattern = _softmax(scores, call, every).to(query.dtype)
    real = None
    if call.seen is not None:
        if call.awake is not None:
            pattern = pattern * call.awake[:, :, rows]
        real = None if call.real is None else call.real[:, :, rows]
    shown = pattern if real is None else pattern * real
    after = shown if edit_pattern is None else edit_pattern(shown, span.top)
    pattern = put_back(pattern, shown, after, real)
    if read is not None:
        # Changed scores may hold anything, and would not belong to a changed pattern.
        known = scores.detach() if after is shown and scores is raw else None
        read(Block(after.detach(), known, rows, 0, every, every))
    if call.dropout:
        pattern = torch.nn.functional.dropout(pattern, call.dropout)
    return _mix(pattern, value), scores is not raw or after is not shown


def _product(query: Tensor, key: Tensor) -> Tensor:
    """query . key, [batch, head, row, key], with the heads that share a KV head in one product."""
    batch, heads, rows, size = query.shape
    if heads == key.shape[1]:
        return query @ key.transpose(2, 3)
    stacked = query.reshape(batch, key.shape[1], -1, size)
    return (stacked @ key.transpose(2, 3)).reshape(batch, heads, rows, -1)


def _mix(pattern: Tensor, value: Tensor) -> Tensor:
    batch, heads, rows, keys = pattern.shape
    if heads == value.shape[1]:
        return pattern.to(value.dtype) @ value
    stacked = pattern.reshape(batch, value.shape[1], -1, keys).to(value.dtype)
    return (stacked @ value).reshape(batch, heads, rows, -1)


@dataclass(frozen=True)
class Rows:
    """A span of rows in streaming, and where hiding starts in it."""

    span: Span
    hide_from: int  # columns before it are seen by every row


def _blocks(call: Call, example: int, height: int) -> Iterator[Rows]:
    """Blocks of rows with the columns that any row of theirs sees; sightless blocks are left out."""
    total, keys = call.query.shape[2], call.key.shape[2]
    for top in range(0, total, height):
        bottom = min(total, top + height)
        if call.seen is None or call.mask is None:
            right = bottom if call.causal else keys
            yield Rows(Span(top, bottom, 0, right), top if call.causal else right)
            continue
        if call.mask.dtype != torch.bool:  # where it does not hide, it may still weigh
            yield Rows(Span(top, bottom, 0, keys), 0)
            continue
        part = call.seen[example if len(call.seen) > 1 else 0, :, top:bottom].flatten(0, 1)
        columns = part.any(0).nonzero()
        if len(columns) == 0:
            continue
        left, right = int(columns[0]), int(columns[-1]) + 1
        partly = (~part[:, left:right].all(0)).nonzero()
        yield Rows(Span(top, bottom, left, right), left + int(partly[0]) if len(partly) else right)


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
        if call.awake is not None:
            pattern *= _part(call.awake, batch, heads, span.top, span.bottom)
        shown = pattern
        if call.real is not None:
            shown = pattern * _part(call.real, batch, heads, span.top, span.bottom)
        read(Block(shown, scores, slice(span.top, span.bottom), span.left, batch, heads))
        mixed = pattern.to(value.dtype).view(wide) @ value[:, span.left : span.right]
        mixed = mixed.unflatten(1, (call.groups, -1)).flatten(0, 1)
        output[example, span.top : span.bottom, heads] = mixed.transpose(0, 1)


def default_scaling(query: Tensor) -> float:
    return 1 / math.sqrt(query.shape[-1])
