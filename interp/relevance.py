"""How much each input position counts, from attention patterns and gradients: plain tensor functions.

A pattern is [batch, head, T, T] or, with its heads already fused, [batch, T, T]; lists run from the
first layer to the last. Maps that come back are [batch, T, T]: row t says where position t of the last
layer came from. The row to read is that of the position that answers: the last, or the class token.
"""

from collections.abc import Sequence

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_flow
from torch import Tensor

from interp.registry import unknown

FUSIONS = {"mean": torch.mean, "max": torch.amax, "min": torch.amin}
FORMS = ("positive", "absolute")
AOPC_SHARES = (0.01, 0.05, 0.1, 0.2, 0.5)
LIMIT = 64  # positions up to which maximum flow is a matter of seconds
_UNITS = 2_000_000_000  # capacities as whole numbers that fit 32 bits: an error of about 1e-8

Pair = tuple[Sequence[Tensor], Sequence[Tensor]]  # the patterns of some layers, and their gradients


def rollout(patterns: Sequence[Tensor], heads: str = "mean", discard: float = 0.0) -> Tensor:
    """Attention rollout (Abnar and Zuidema 2020): the product over layers of half pattern, half identity.

    `heads` fuses them; `discard` is the share of each fused map's lowest entries that is set to 0 first
    (of a causal map these are the empty upper triangle before anything else).
    """
    through = torch.eye(_size(patterns), dtype=patterns[0].dtype, device=patterns[0].device)
    for mixing in _mixings(patterns, heads, discard):
        through = mixing @ through
    return through


def flow(
    patterns: Sequence[Tensor],
    heads: str = "mean",
    discard: float = 0.0,
    tops: Sequence[int] | None = None,
    limit: int = LIMIT,
) -> Tensor:
    """Attention flow (the same paper): the largest flow from each top position to each input position.

    Edges are the entries of rollout's factors. Raw flows, [batch, top, T]; `normalised` makes each row
    sum to 1. `tops` names the top positions, None: all. One problem is solved for each pair.
    """
    size = _size(patterns)
    if size > limit:
        raise ValueError(
            f"flow solves one maximum-flow problem for each pair of positions, and there are {size} "
            f"positions (limit {limit}). Use rollout, or raise it: limit={size}."
        )
    chosen = list(range(size)) if tops is None else [range(size)[top] for top in tops]
    mixings = torch.stack(_mixings(patterns, heads, discard), dim=1)
    found = [_flows(example, chosen) for example in mixings.detach().double().cpu().numpy()]
    return torch.tensor(np.stack(found)).to(mixings)


def normalised(rows: Tensor) -> Tensor:
    """Each row divided by its sum; a row that sums to 0 stays as it is."""
    total = rows.sum(-1, keepdim=True)
    return torch.where(total == 0, rows, rows / torch.where(total == 0, 1, total))


def chefer(patterns: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Chefer et al. (ICCV 2021): R = R + mean over heads of max(0, gradient * pattern) @ R, from R = 1.

    `gradients` are those of the answer's logit with respect to each pattern.
    """
    relevance = _identity(patterns)
    for pattern, gradient in _pairs(patterns, gradients):
        relevance = relevance + attention_gradient(pattern, gradient) @ relevance
    return relevance


def chefer_cross(encoder: Pair, decoder: Pair, cross: Pair) -> tuple[Tensor, Tensor]:
    """The same for an encoder and a decoder that looks at it: (decoder on decoder, decoder on encoder).

    Each argument is (patterns, gradients); `decoder` and `cross` have one pattern for each decoder layer.
    The encoder does not look at the decoder, so the paper's fourth map stays 0 and adds nothing.
    """
    if len(decoder[0]) != len(cross[0]):
        raise ValueError(
            f"there are {len(decoder[0])} decoder patterns and {len(cross[0])} cross patterns; give "
            "one of each for every decoder layer."
        )
    inside = _excess(chefer(*encoder))
    own = _identity(decoder[0])
    across = torch.zeros_like(attention_gradient(cross[0][0], cross[1][0]))
    layers = zip(_pairs(*decoder), _pairs(*cross), strict=True)
    for (pattern, gradient), (cross_pattern, cross_gradient) in layers:
        mixing = attention_gradient(pattern, gradient)
        own, across = own + mixing @ own, across + mixing @ across
        looked = attention_gradient(cross_pattern, cross_gradient)
        across = across + _excess(own).transpose(-1, -2) @ looked @ inside
    return own, across


def attention_gradient(pattern: Tensor, gradient: Tensor, form: str = "positive") -> Tensor:
    """Attention x gradient of one layer, mean over heads: what is positive of it, or its size."""
    if form not in FORMS:
        raise ValueError(unknown("form", form, list(FORMS)))
    if pattern.shape != gradient.shape:
        raise ValueError(
            f"a pattern {tuple(pattern.shape)} and its gradient {tuple(gradient.shape)} differ in shape."
        )
    product = pattern * gradient
    product = product.clamp_min(0) if form == "positive" else product.abs()
    return product.mean(1) if product.ndim == 4 else product


def ranking(values: Tensor, positions: Tensor, chance: torch.Generator) -> Tensor:
    """The positions from the most relevant to the least, [position]; equal values in random order."""
    shuffled = positions[torch.randperm(len(positions), generator=chance)]
    return shuffled[values[shuffled].argsort(descending=True, stable=True)]


def without_top(order: Tensor, shares: Sequence[float], length: int) -> Tensor:
    """What is kept when each share of the order is taken away from its top, True [share, length].

    A share above 0 takes at least one position; those not in the order are always kept.
    """
    kept = torch.ones(len(shares), length, dtype=torch.bool)
    for row, share in enumerate(shares):
        kept[row, order[: _counted(share, len(order))]] = False
    return kept


def with_top(order: Tensor, shares: Sequence[float], length: int) -> Tensor:
    """What is kept when of the order only each share at its top stays, True [share, length]."""
    kept = torch.ones(len(shares), length, dtype=torch.bool)
    for row, share in enumerate(shares):
        kept[row, order[_counted(share, len(order)) :]] = False
    return kept


def area(shares: Sequence[float], values: Tensor) -> Tensor:
    """Area under curves over [0, 1] by trapezoids; `values` is [..., share]."""
    across = torch.as_tensor(list(shares), dtype=values.dtype)
    if len(across) < 2 or across[0] != 0 or across[-1] != 1 or bool((across.diff() <= 0).any()):
        raise ValueError(f"a curve runs over rising shares from 0 to 1, not over {list(shares)}.")
    return torch.trapezoid(values, across, dim=-1)


def aopc(full: Tensor, changed: Tensor) -> Tensor:
    """Area over the perturbation curve: the mean of `full` - `changed` over shares, the last axis.

    Of what is left without the top it is comprehensiveness (higher is better), of the top alone it is
    sufficiency (lower is better).
    """
    return (full[..., None] - changed).mean(-1)


def _counted(share: float, among: int) -> int:
    return min(among, max(round(share * among), 1 if share > 0 else 0))


def _mixings(patterns: Sequence[Tensor], heads: str, discard: float) -> list[Tensor]:
    """(pattern + identity), each row divided by its sum."""
    if heads not in FUSIONS:
        raise ValueError(unknown("way to fuse heads", heads, list(FUSIONS)))
    if not 0 <= discard < 1:
        raise ValueError(f"discard={discard!r}: give a share from 0 to less than 1.")
    _size(patterns)
    found = []
    for pattern in patterns:
        fused = pattern if pattern.ndim == 3 else FUSIONS[heads](pattern, 1)
        if discard:
            flat = fused.flatten(1)
            lowest = flat.topk(int(discard * flat.shape[1]), largest=False).indices
            fused = flat.scatter(1, lowest, 0).view_as(fused)
        found.append(normalised(fused + torch.eye(fused.shape[-1]).to(fused)))
    return found


def _flows(mixings: np.ndarray, tops: Sequence[int]) -> np.ndarray:
    """Maximum flows of one example: [layer, T, T] capacities to [top, T]."""
    layers, size, _ = mixings.shape
    capacity = np.zeros(((layers + 1) * size,) * 2, dtype=np.int32)
    for layer in range(layers):
        above, below = (layer + 1) * size, layer * size
        part = np.rint(mixings[layer] * _UNITS).astype(np.int32)
        capacity[above : above + size, below : below + size] = part
    graph = csr_array(capacity)
    found = np.zeros((len(tops), size))
    for row, top in enumerate(tops):
        for place in range(size):
            found[row, place] = maximum_flow(graph, layers * size + top, place).flow_value / _UNITS
    return found


def _size(patterns: Sequence[Tensor]) -> int:
    """The positions of a list of square patterns, or why it is none."""
    if not len(patterns):
        raise ValueError("there are no patterns; give one for each layer, the first layer first.")
    shapes = [tuple(pattern.shape) for pattern in patterns]
    if any(len(shape) not in (3, 4) or shape[-1] != shape[-2] for shape in shapes):
        raise ValueError(
            f"patterns are [batch, head, T, T] or [batch, T, T], not {shapes[0]}: queries and keys must "
            "be the same positions."
        )
    if len({(shape[0], shape[-1]) for shape in shapes}) > 1:
        raise ValueError(f"the layers' patterns differ in batch or positions: {shapes}.")
    return shapes[0][-1]


def _pairs(patterns: Sequence[Tensor], gradients: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    if len(patterns) != len(gradients):
        raise ValueError(
            f"there are {len(patterns)} patterns and {len(gradients)} gradients; give one gradient for "
            "each pattern."
        )
    return list(zip(patterns, gradients, strict=True))


def _identity(patterns: Sequence[Tensor]) -> Tensor:
    size = _size(patterns)
    return torch.eye(size).to(patterns[0]).expand(len(patterns[0]), size, size)


def _excess(relevance: Tensor) -> Tensor:
    """What relevance has beyond the identity, with rows that sum to 1, and the identity again."""
    identity = torch.eye(relevance.shape[-1]).to(relevance)
    return normalised(relevance - identity) + identity
