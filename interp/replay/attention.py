"""Attention of packed tokens: each row over its own later keys and the run's earlier ones."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from interp.replay.capture import Attended
from interp.replay.changes import Change
from interp.replay.packing import Tokens
from interp.replay.rows import Pack
from interp.rows import Call, whole


def row_values(kept: Tensor, packed: Tensor, pack: Pack) -> Tensor:
    """Keys or values of every row, [row, position, head, width]: the run's, and from `start` on its own.

    `kept` is [batch, head, position, width], `packed` [n, head, width].
    """
    if pack.even and pack.width == pack.positions:
        return packed.view(len(pack.rows), pack.positions, *packed.shape[1:])
    own = kept.transpose(1, 2)[pack.bases]
    own[pack.owner, pack.tokens.places] = packed
    return own


def over_rows(kept: Attended, query: Tensor, key: Tensor, value: Tensor, pack: Pack) -> Tensor:
    """z of packed queries [n, head, width] over `row_values` [row, position, kv_head, width]."""
    width = pack.width
    place = pack.tokens.places - (pack.positions - width)
    if pack.even:
        spread = query.view(len(pack.rows), width, *query.shape[1:])
    else:
        spread = query.new_zeros(len(pack.rows), width, *query.shape[1:])
        spread[pack.owner, place] = query
    mask = _row_mask(kept.call, pack)
    top = pack.positions - width
    mixed = _mix(kept.call, spread, key, value, mask, top, pack.bases)
    return mixed.flatten(0, 1) if pack.even else mixed[pack.owner, place]


def over_reads(
    kept: Attended, query: Tensor, key: Tensor, value: Tensor, bases: Tensor, places: Tensor
) -> Tensor:
    """z of one query a row, [row, head, width], at these positions, over `row_values`."""
    call = kept.call
    order = torch.arange(key.shape[1])
    mask: Tensor | None = None
    if call.mask is not None:
        rows = bases if len(call.mask) > 1 else torch.zeros_like(bases)
        at = places if call.mask.shape[2] > 1 else torch.zeros_like(places)
        mask = call.mask[rows, :, at][:, :, None]
    elif call.causal:
        mask = (order[None] <= places[:, None])[:, None, None].to(query.device)
    bias = call.bias
    if bias is not None:
        bias = bias[bases if len(bias) > 1 else torch.zeros_like(bases), :, places][:, :, None]
    one = replace(call, bias=bias)
    return _mix(one, query[:, None], key, value, mask, 0, torch.arange(len(bases)))[:, 0]


def over_run(kept: Attended, query: Tensor, tokens: Tokens) -> Tensor:
    """z of queries [n, head, width] over the run's own keys and values; cross attention too."""
    call = kept.call
    output = query.new_empty(*query.shape[:2], call.value.shape[-1])
    for base in tokens.rows.unique().tolist():
        own = tokens.rows == base
        rows = slice(base, base + 1)
        key, value = (part[rows].transpose(1, 2) for part in (call.key, call.value))
        mask = _at(call.mask, base, tokens.places[own])
        if mask is None and call.causal:
            order = torch.arange(call.key.shape[2])
            mask = (order <= tokens.places[own][:, None])[None, None].to(query.device)
        bias = _at(call.bias, base, tokens.places[own])
        one = replace(call, bias=bias, mask=mask, causal=False)
        output[own] = _mix(
            one, query[own][None], key, value, mask, 0, torch.zeros(1, dtype=torch.long)
        )[0]
    return output


def changed_run(kept: Attended, base: int, changes: Sequence[Change]) -> Attended:
    """One row of the run's attention with other keys or values."""
    call, own = kept.call, slice(base, base + 1)
    parts = {"k": call.key[own].clone(), "v": call.value[own].clone()}
    for change in changes:
        assert change.values is not None
        one = replace(change, rows=torch.zeros_like(change.rows))
        parts[change.site] = one.put(parts[change.site].transpose(1, 2), None).transpose(1, 2)
    mask, bias = (
        value if value is None or len(value) == 1 else value[own]
        for value in (call.mask, call.bias)
    )
    mine = replace(call, key=parts["k"], value=parts["v"], mask=mask, bias=bias)
    return Attended(mine, kept.output, kept.known)


def _at(value: Tensor | None, base: int, places: Tensor) -> Tensor | None:
    """The rows of a mask or bias [batch or 1, head, query or 1, key] that belong to these positions."""
    if value is None:
        return None
    own = value[base : base + 1] if len(value) > 1 else value
    return own if own.shape[2] == 1 else own[:, :, places]


def _row_mask(call: Call, pack: Pack) -> Tensor | None:
    """[row or 1, head or 1, query, key] for the last `width` queries; None where all is seen."""
    top = pack.positions - pack.width
    if call.mask is None:
        if not call.causal or pack.positions == 1:
            return None
        order = torch.arange(pack.positions)
        return (order[None, :] <= order[top:, None])[None, None].to(call.key.device)
    key = call.mask.data_ptr()
    if key not in pack.masks:
        own = call.mask if call.mask.shape[2] == 1 else call.mask[:, :, top:]
        alike = len(own) == 1 or bool((pack.bases == pack.bases[0]).all())
        pack.masks[key] = own[pack.bases[:1] if len(own) > 1 else [0]] if alike else own[pack.bases]
    return pack.masks[key]


def _mix(
    call: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    top: int,
    bases: Tensor,
) -> Tensor:
    """Attention of [row, position, head, width] in the run's own arithmetic."""
    if call.softcap is None and call.bias is None and call.sinks is None:
        return _fused(query, key, value, mask, call.scaling)
    bias = call.bias
    if bias is not None and top:
        bias = bias[:, :, top:]
    if bias is not None and len(bias) > 1:
        bias = bias[bases]
    query, key, value = (part.transpose(1, 2) for part in (query, key, value))
    own = replace(call, query=query, key=key, value=value, mask=mask, bias=bias)
    return whole(replace(own, causal=False, dropout=0.0, own_keys=False))


def _fused(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """SDPA with the heads that share a KV head stacked into the rows of one."""
    rows, positions, heads, width = query.shape
    shared = key.shape[2]
    groups = heads // shared
    stacked = query.transpose(1, 2)
    if groups > 1:
        stacked = stacked.reshape(rows, shared, groups * positions, width)
        if mask is not None:
            mask = mask.expand(-1, -1, positions, -1)
            if mask.shape[1] > 1:  # a mask of each head
                mask = mask.reshape(len(mask), shared, groups * positions, -1)
            else:
                mask = mask.repeat(1, 1, groups, 1)
    mixed = torch.nn.functional.scaled_dot_product_attention(
        stacked, key.transpose(1, 2), value.transpose(1, 2), attn_mask=mask, scale=scale
    )
    if groups > 1:
        mixed = mixed.reshape(rows, heads, positions, -1)
    return _awake(mixed.transpose(1, 2), mask)


def _awake(mixed: Tensor, mask: Tensor | None) -> Tensor:
    """A query that sees no key gives 0, whatever the kernel makes of it."""
    if mask is None or mask.dtype != torch.bool:
        return mixed
    return torch.nan_to_num(mixed, nan=0.0) if not bool(mask.any(-1).all()) else mixed
