"""What each part adds to the residual stream, and whether a layer's parts add up to what it adds."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from interp.attribution.contrast import Contrast, precise
from interp.spread import whole_weight
from interp.trace import Trace

CLOSE = 1e-4  # how far two sides of an identity may be, by the larger; rounding may need more
VALUES = ("resid_pre", "resid_post", "attn_out", "mlp_out", "z")


@dataclass(frozen=True)
class Scales:
    """By how much the stream grows for what the projection, and the MLP, return."""

    attention: float
    mlp: float


class NoEdges(ValueError):
    """A model whose edges cannot be told apart; says in which layer, and why."""


def refused(given: Contrast, layer: int, why: str) -> NoEdges:
    return NoEdges(
        f"the edges of {given.model.name} cannot be established: in layer {layer} of the "
        f"{given.stack.name} stack {why}. Node estimates (atp, atp_star, along) and model.sweep serve it."
    )


def near(one: Tensor, other: Tensor, dtype: torch.dtype, among: Tensor | None = None) -> bool:
    """Whether two tensors are one but for rounding; `among` what they were taken out of."""
    eps = torch.finfo(dtype).eps
    allowed = max(CLOSE, 16 * eps) * torch.maximum(one.abs().max(), other.abs().max())
    if among is not None:
        allowed = allowed + 64 * eps * among.abs().max()
    return bool((one - other).abs().max() <= allowed)


def matrix(module: nn.Module | None) -> Tensor | None:
    """The weight of a linear map as [in, out]; None where it is no plain one."""
    from transformers.pytorch_utils import Conv1D

    if isinstance(module, nn.Linear):
        return whole_weight(module).T
    return whole_weight(module) if isinstance(module, Conv1D) else None


def scales(given: Contrast, trace: Trace, layer: int) -> Scales:
    """How the layer's two parts make up what it adds; refused where they do not."""
    grown = trace["resid_post", layer] - trace["resid_pre", layer]
    parts = [trace[site, layer] for site in ("attn_out", "mlp_out")]
    if near(parts[0] + parts[1], grown, grown.dtype):
        return Scales(1.0, 1.0)
    columns = torch.stack([part.double().flatten() for part in parts], 1)
    found = torch.linalg.lstsq(columns, grown.double().flatten()[:, None]).solution[:, 0]
    if not near(columns @ found, grown.double().flatten(), grown.dtype):
        why = "what is added to the stream is no sum of attn_out and mlp_out"
        raise refused(given, layer, f"{why} (a norm behind them, a third part)")
    return Scales(float(found[0]), float(found[1]))


def head_writes(given: Contrast, layer: int, change: Tensor, whole: Tensor) -> Tensor:
    """[head, batch, position, d_model]: a change of z [batch, position, head, d_head] as it is projected.

    `whole` is the change of attn_out, which the heads must add up to.
    """
    weight = matrix(given.stack.layers[layer].out)
    heads, width = change.shape[2:]
    if weight is None or weight.shape[0] != heads * width:
        raise refused(given, layer, "the output projection is no plain linear map of the heads' z")
    rows = change.flatten(0, 1).transpose(0, 1)  # [head, place, d_head]
    written = torch.bmm(rows, weight.view(heads, width, -1).to(rows))
    written = written.view(heads, *change.shape[:2], -1)
    if not near(written.sum(0), whole, change.dtype):
        raise refused(
            given, layer, "the heads' writes do not add up to attn_out (a gate or a norm on z)"
        )
    return written


@torch.no_grad()
def write_changes(given: Contrast, clean: Trace, corrupted: Trace) -> tuple[Tensor, list[Scales]]:
    """Corrupted less clean of every source, as the stream gets it: [batch, source, position * d_model]."""
    layers = sorted(given.stack.layers)
    for site in ("attn_out", "mlp_out"):
        if clean.layers(site) != layers:
            missing = sorted(set(layers) - set(clean.layers(site)))
            raise refused(given, missing[0], f"there is no {site}")
    start = corrupted["resid_pre", layers[0]] - clean["resid_pre", layers[0]]
    found, sizes = [start[:, None]], []
    for layer in layers:
        own = scales(given, clean, layer)
        if not near(_made(corrupted, layer, own), corrupted["resid_post", layer], start.dtype):
            raise refused(
                given,
                layer,
                "the parts add up otherwise in the corrupted run than in the clean one",
            )
        z, attention, mlp = (
            corrupted[site, layer] - clean[site, layer] for site in ("z", "attn_out", "mlp_out")
        )
        heads = head_writes(given, layer, z, attention).movedim(0, 1)
        found += [own.attention * heads, own.mlp * mlp[:, None]]
        sizes.append(own)
    return torch.cat([precise(part).flatten(2).to(start.device) for part in found], 1), sizes


def _made(trace: Trace, layer: int, own: Scales) -> Tensor:
    parts = own.attention * trace["attn_out", layer] + own.mlp * trace["mlp_out", layer]
    return trace["resid_pre", layer] + parts
