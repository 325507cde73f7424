"""Attention of which only some heads and rows are opened: the rest is plain, and stays so to the bit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.live import Placed
from interp.rows import BLOCK_ROWS, Call, Edit, Span, opened


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
    if all(placed.heads is not None for placed in hooks):
        heads = tuple(sorted({head for placed in hooks for head in placed.heads or ()}))
        heads = None if len(heads) == call.query.shape[1] else heads
    edges = [placed.rows(first, call.query.shape[2], start) for placed in hooks]
    top, bottom = min(low for low, _ in edges), max(high for _, high in edges)
    whole = bottom - top == call.query.shape[2]
    clipped = all(placed.hook.rows and placed.hook.within is not None for placed in hooks)
    if heads is None and whole and not clipped:
        return None
    by_rows = all(placed.hook.rows for placed in hooks)
    return Part(heads, top, bottom, BLOCK_ROWS if by_rows else bottom - top, clipped)


def spliced(
    call: Call,
    part: Part,
    edit_scores: Edit | None,
    edit_pattern: Edit | None,
    plain: Callable[[], Tensor],
) -> Tensor:
    """The plain output, [batch, query, head, d_value], with the changed part in its place."""
    own = call if part.heads is None else of_heads(call, part.heads)
    covers = part.covers(call)
    output = None if covers else plain()
    pieces: list[Tensor] = []
    for top in range(part.top, part.bottom, part.height):
        bottom = min(part.bottom, top + part.height)
        # Without a mask the triangle holds: later keys are hidden from all of these rows.
        right = bottom if part.clipped and call.causal else call.key.shape[2]
        mixed, changed = opened(own, Span(top, bottom, 0, right), edit_scores, edit_pattern)
        mixed = mixed.transpose(1, 2)
        if output is None:
            pieces.append(mixed)
        elif changed and part.heads is None:
            output[:, top:bottom] = mixed.to(output)
        elif changed:
            output[:, top:bottom, list(part.heads or ())] = mixed.to(output)
    if output is not None:
        return output
    return (pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)).contiguous()


def of_heads(call: Call, heads: tuple[int, ...]) -> Call:
    """The call of these query heads alone, each with keys and values of its own."""
    index = torch.tensor(heads, device=call.query.device)
    shared = index // call.groups
    mask, bias = call.mask, call.bias
    return replace(
        call,
        query=call.query.index_select(1, index),
        key=call.key.index_select(1, shared),
        value=call.value.index_select(1, shared),
        mask=mask.index_select(1, index) if mask is not None and mask.shape[1] > 1 else mask,
        bias=None if bias is None else bias.index_select(1, index),
        sinks=None if call.sinks is None else call.sinks.index_select(0, index),
    )
