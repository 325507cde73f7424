"""Places in a prompt as masks, laid over the rows and keys that a hook is shown.

Rows and keys of one call are a window on the positions of the run: what was in the cache before it,
the prompt, new tokens. Beam search repeats each row of the prompt.
"""

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.responses import SPAN
from interp.sites import MAP_SITES, At


def over_keys(span: Tensor, value: Tensor, at: At, new: bool = False) -> Tensor:
    """The span [row, position] of the prompt over the keys of this value: [batch, key].

    `new`: whether tokens after the prompt belong to it.
    """
    keys = value.shape[-1] if at.site in MAP_SITES else value.shape[1]
    return _window(span, value.shape[0], at, at.first_key, keys, new)


def over_rows(span: Tensor, value: Tensor, at: At, new: bool = True) -> Tensor:
    """The span [row, position] of the prompt over the query rows, or positions, of this value."""
    rows = value.shape[2] if at.site in MAP_SITES else value.shape[1]
    return _window(span, value.shape[0], at, at.first, rows, new)


def _window(span: Tensor, batch: int, at: At, first: int, count: int, new: bool) -> Tensor:
    """Kept in the run's memo: every layer of a step asks for the same."""
    kept = at.memo.setdefault("windows", {})
    key = (id(span), batch, first, count, new)
    if key not in kept:
        if len(kept) > 64:  # steps gone by
            kept.clear()
        kept[key] = (_laid(span, batch, first - (at.run.start or 0), count, new), span)
    return kept[key][0]


def _laid(span: Tensor, batch: int, first: int, count: int, new: bool) -> Tensor:
    """Positions `first` to `first + count`, counted from the prompt's first."""
    rows, length = span.shape
    position = torch.arange(first, first + count, device=span.device)
    inside = (position >= 0) & (position < length)
    found = span[:, position.clamp(0, length - 1)] & inside
    if new:
        found = found | (position >= length)
    return found.repeat_interleave(batch // rows, dim=0)


def asked(prompt: Prompt) -> Tensor:
    """Real positions of the prompt itself, without a response that stands in it: [row, position]."""
    if SPAN in prompt.spans:
        return prompt.mask & ~prompt.spans[SPAN]
    return prompt.mask.clone()


def from_last(prompt: Prompt) -> Tensor:
    """The last position of what is asked, and all of the response: rows that write the answer."""
    real = asked(prompt)
    order = torch.arange(prompt.length, device=real.device)
    last = torch.where(real, order, -1).amax(1, keepdim=True)
    return prompt.mask & (order >= last)


def after(prompt: Prompt, span: Tensor) -> Tensor:
    """Real positions behind the last of the span's: [row, position]."""
    order = torch.arange(prompt.length, device=span.device)
    last = torch.where(span, order, -1).amax(1, keepdim=True)
    return prompt.mask & (order > last) & (last >= 0)


def first_of(rows: Tensor) -> int | None:
    """The first position that any row of the mask holds; None where there is none."""
    found = rows.any(0).nonzero()
    return int(found[0]) if len(found) else None
