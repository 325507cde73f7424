"""Attention of which only some heads and rows are opened: the rest is plain, and stays so to the bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from interp.live import Placed, numbers
from interp.rows import BLOCK_ELEMENTS, BLOCK_ROWS, Call, Edit, Span, opened


@dataclass(frozen=True)
class Part:
    """The heads (None: all) and rows of one call that hooks are shown, `height` rows at a time."""

    heads: tuple[int, ...] | None
    top: int
    bottom: int
    height: int
    clipped: bool  # keys that none of a block's rows can see may be left out

    def covers(self, call: Call) -> bool:
        return self.heads is None and self.bottom - self.top == call.query.shape[2]


def part_of(hooks: Sequence[Placed], call: Call, first: int, start: int) -> Part | None:
    """What these hooks are shown together; None where that is everything, in one piece."""
    heads: tuple[int, ...] | None = None
    # One row of all heads is cheaper to open than one of some beside a plain one of all.
    if call.query.shape[2] > 1 and all(placed.heads is not None for placed in hooks):
        heads = tuple(sorted({head for placed in hooks for head in placed.heads or ()}))
        heads = None if len(heads) == call.query.shape[1] else heads
    edges = [placed.rows(first, call.query.shape[2], start) for placed in hooks]
    top, bottom = min(low for low, _ in edges), max(high for _, high in edges)
    whole = bottom - top == call.query.shape[2]
    clipped = all(placed.hook.rows and placed.hook.within is not None for placed in hooks)
    if heads is None and whole and not clipped:
        return None
    height = bottom - top
    if all(placed.hook.rows for placed in hooks):
        wide = call.key.shape[2] * (call.query.shape[1] if heads is None else len(heads))
        height = min(height, BLOCK_ROWS, max(16, BLOCK_ELEMENTS // (2 * wide)))
    return Part(heads, top, bottom, height, clipped)


def spliced(
    call: Call,
    part: Part,
    edit_scores: Edit | None,
    edit_pattern: Edit | None,
    plain: Callable[[], Tensor],
) -> Tensor:
    """The plain output, [batch, query, head, d_value], with the changed part in its place."""
    own = call if part.heads is None else of_heads(call, part.heads)
    output = None if part.covers(call) else plain()
    pieces: list[Tensor] = []
    for top in range(part.top, part.bottom, part.height):
        bottom = min(part.bottom, top + part.height)
        # Without a mask the triangle holds: later keys are hidden from all of these rows.
        right = bottom if part.clipped and call.causal else call.key.shape[2]
        mixed, changed = opened(own, Span(top, bottom, 0, right), edit_scores, edit_pattern)
        mixed = mixed.transpose(1, 2)
        if output is None:
            pieces.append(mixed)
        elif changed:
            _put(output[:, top:bottom], mixed.to(output.dtype), part.heads)
    if output is not None:
        return output
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)).contiguous()


def _put(output: Tensor, mixed: Tensor, heads: tuple[int, ...] | None) -> None:
    if heads is None:
        output.copy_(mixed)
    elif _in_a_row(heads):
        output[:, :, heads[0] : heads[-1] + 1].copy_(mixed)
    else:
        output.index_copy_(2, numbers(heads, output.device), mixed)


def _in_a_row(heads: tuple[int, ...]) -> bool:
    return heads == tuple(range(heads[0], heads[0] + len(heads)))


def of_heads(call: Call, heads: tuple[int, ...]) -> Call:
    """The call of these query heads alone, each with keys and values of its own."""
    shared = tuple(head // call.groups for head in heads)
    mask, bias, sinks = call.mask, call.bias, call.sinks
    return Call(
        _taken(call.query, heads),
        _taken(call.key, shared),
        _taken(call.value, shared),
        _taken(mask, heads) if mask is not None and mask.shape[1] > 1 else mask,
        call.causal,
        call.scaling,
        call.dropout,
        call.softcap,
        None if bias is None else _taken(bias, heads),
        None if sinks is None else sinks[list(heads)],
        call.own_keys,
    )


def _taken(value: Tensor, heads: tuple[int, ...]) -> Tensor:
    """These heads of [batch, head, ...]: a view where they lie in a row, one where all are the same."""
    if len(set(heads)) == 1:
        return value[:, heads[0] : heads[0] + 1]
    if _in_a_row(heads):
        return value[:, heads[0] : heads[-1] + 1]
    return value.index_select(1, numbers(heads, value.device))
