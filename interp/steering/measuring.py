"""How far a hook's value is from what it was given, row by row; rows that stand for no token are left out."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.sites import MAP_SITES, At, head_axis
from interp.steering.spans import over_keys, over_rows

UNITS = {"scores": "weight", "pattern": "weight", "logits": "probability"}  # others: of their size


def unit(site: str) -> str:
    return UNITS.get(site, "size")


@dataclass(frozen=True)
class Difference:
    """Rows are [batch, head, position]; one head stands for all where a site has none."""

    real: Tensor  # rows that count
    changed: Tensor  # of these, rows of which anything is another
    moved: Tensor  # by how much, 0 where nothing is


@torch.no_grad()
def difference(site: str, before: Tensor, after: Tensor, real: Tensor | None) -> Difference:
    """`real` [batch, position]: rows that stand for a token, where that is known.

    Maps and logits: the share of the weight that has moved. Others: |after - before| / |before|.
    """
    after = after.detach()
    awake = torch.ones_like(before[..., 0], dtype=torch.bool)
    if site == "pattern":
        awake = before.any(-1)
    if site == "scores":
        lowest = torch.finfo(before.dtype).min
        hidden = before <= lowest / 2  # what is hidden is hidden again behind the hook
        after, awake = after.masked_fill(hidden, lowest), ~hidden.all(-1)
    unlike = (after != before).any(-1)
    if site in UNITS:
        moved = _weights(site, after).sub(_weights(site, before)).abs().sum(-1) / 2
    else:
        size = before.float().norm(dim=-1)
        moved = (after.float() - before.float()).norm(dim=-1) / size.clamp_min(1e-30)
    unlike, awake, moved = (_by_head(site, rows) for rows in (unlike, awake, moved))
    awake = awake if real is None else awake & real[:, None].to(awake.device)
    changed = unlike & awake
    return Difference(awake, changed, torch.where(changed, moved, 0.0))


def _weights(site: str, value: Tensor) -> Tensor:
    value = value.float()
    return value if site == "pattern" else value.softmax(-1).nan_to_num()


def _by_head(site: str, rows: Tensor) -> Tensor:
    """Rows of any site as [batch, head, position]."""
    if site in MAP_SITES:
        return rows
    axis = None if site == "logits" else head_axis(site)
    return rows[:, None] if axis is None else rows.movedim(axis, 1)


def first_of(at: At) -> int:
    """Absolute position of the value's first row."""
    return at.first_key if at.site in ("k", "v") else at.first


def real_rows(value: Tensor, at: At, memo: dict) -> Tensor | None:
    """Rows that are no padding of the prompt, [batch, position]; None where it says nothing of them."""
    prompt = at.prompt
    if prompt is None or value.shape[0] % len(prompt):
        return None
    at = replace(at, memo=memo)  # what is kept here is not the intervention's
    whole = value.shape[2 if at.site in MAP_SITES else 1] == prompt.length
    own = at.stack == "encoder" or (at.stack == "vision" and prompt.ids is None)
    if at.stack != "text" and not (own and whole):
        return None
    laid = over_keys if at.site in ("k", "v") else over_rows
    return laid(prompt.mask, value, at, new=True)
