"""What the matrices of heads say by themselves: copying, and which head reads what another wrote.

Eigenvalues and composition after Elhage et al. 2021, copied names after Wang et al. 2022. Matrices
act on rows: a stream x [d_model] gives x @ v @ o.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt
    from interp.weights import HeadWeights


@dataclass(frozen=True)
class Norm:
    """What stands between the stream and a projection, its scale folded into the latter."""

    kind: str = "none"  # "rms", "layer" (which centres first), or "none"
    epsilon: float = 0.0

    def spread(self, stream: Tensor) -> Tensor:
        """What a stream [..., d_model] is divided by, [..., 1]."""
        if self.kind == "none":
            return torch.ones_like(stream[..., :1])
        center = stream.mean(-1, keepdim=True) if self.kind == "layer" else 0.0
        return ((stream - center).pow(2).mean(-1, keepdim=True) + self.epsilon).sqrt()


def copying_score(matrix: Tensor) -> Tensor:
    """sum(Re lambda) / sum |lambda| over the eigenvalues of [..., n, n]: 1 copies, -1 writes against.

    W_E W_V W_O W_U and the small W_O W_U W_E W_V have the same eigenvalues but for zeros, and so the
    same score.
    """
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(
            f"eigenvalues are those of a square matrix, not of {tuple(matrix.shape)}; of v and o give "
            "v @ o, or the small o @ through @ v."
        )
    found = torch.linalg.eigvals(matrix.detach().double().cpu())
    sizes = found.abs().sum(-1)
    return (found.real.sum(-1) / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).float()


def composition(
    q: Tensor, k: Tensor, v: Tensor, o: Tensor, samples: int = 20, seed: int = 0
) -> dict[str, Tensor]:
    """|OV1 X2| / (|OV1| |X2|) under "Q", "K" and "V": [earlier layer, head, later layer, head].

    X2 is QK, its transpose and OV of the later head, | | the Frobenius norm. Taken off is the mean
    over `samples` draws of Gaussian factors of the same shapes (0: nothing). NaN where the first
    head's layer is not the earlier.
    """
    if samples < 0:
        raise ValueError(f"samples={samples}: give 0 for none, or how many to draw.")
    chance = torch.Generator().manual_seed(seed)
    pairs = {"Q": (q, k), "K": (k, q), "V": (v, o.mT)}
    found = {}
    for kind, (left, right) in pairs.items():
        drawn = [_by_chance(v, left, chance) for _ in range(samples)]
        found[kind] = _composed(v, o, left, right) - (sum(drawn) / samples if samples else 0.0)
    return found


def _composed(v: Tensor, o: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """|v1 o1 left2 right2'| over |v1 o1| |left2 right2'|, by triangles of the heads' own size.

    v = QR with orthonormal Q, which no norm notices: R takes the place of v.
    """
    outer, last = _triangle(v), _triangle(right)
    own = (outer @ _triangle(o.mT).mT).norm(dim=(-2, -1))
    other = (_triangle(left) @ last.mT).norm(dim=(-2, -1))
    layers, heads = v.shape[:2]
    score = v.new_full((layers, heads, layers, heads), torch.nan)
    for early in range(layers):
        for late in range(early + 1, layers):
            middle = torch.einsum("gvd,hde->ghve", o[early], left[late])
            whole = outer[early][:, None] @ middle @ last[late].mT
            score[early, :, late] = whole.norm(dim=(-2, -1)) / (own[early][:, None] * other[late])
    return score


def _triangle(factor: Tensor) -> Tensor:
    return torch.linalg.qr(factor, mode="r").R


def _by_chance(v: Tensor, left: Tensor, chance: torch.Generator) -> float:
    """The score of two heads of Gaussian numbers."""
    shapes = [v.shape[-2:], v.shape[-2:], left.shape[-2:], left.shape[-2:]]
    drawn = [torch.randn(shape, generator=chance) for shape in shapes]
    heads = [each.expand(2, 1, *each.shape) for each in drawn]
    return float(_composed(heads[0], heads[1].mT, heads[2], heads[3])[0, 0, 1, 0])


def name_copy(
    model: "Model", weights: "HeadWeights", prompt: "Prompt", where: Tensor, top: int = 5
) -> tuple[Tensor, Tensor]:
    """How often a head writes the token that it reads: two shares, [layer, head].

    The stream after the first layer, at the positions `where` [batch, position], goes through the
    head's norm and OV, the last norm and the unembedding; counted is whether the token itself comes
    among the `top`. The second share is of the head's output turned round: high for negative heads.
    """
    weights.need("ov", "unembed")
    assert prompt.ids is not None and weights.o is not None
    assert weights.unembed is not None and weights.unembed_bias is not None
    if not bool(where.any()):
        raise ValueError("where= marks no position, so there is no token to copy.")
    stack = "text" if "text" in model.stacks else "decoder"
    with torch.no_grad():
        trace = model.trace(prompt, "resid_post", layers=[0], stack=stack)
    stream = trace["resid_post", 0][where].to(weights.o)
    own = prompt.ids[where].to(stream.device)
    shares = torch.zeros(2, *weights.o.shape[:2])
    for at, layer in enumerate(weights.layers):
        values = weights.read("v", stream, layer)
        for head in range(values.shape[1]):
            written = values[:, head] @ weights.o[at, head]
            scale = weights.final_norm.spread(written)
            logits = written / scale @ weights.unembed
            shares[0, at, head] = _among(logits + weights.unembed_bias, own, top)
            shares[1, at, head] = _among(weights.unembed_bias - logits, own, top)
    return shares[0], shares[1]


def _among(logits: Tensor, own: Tensor, top: int) -> float:
    """The share of rows whose own token is among the top."""
    before = (logits > logits.gather(1, own[:, None])).sum(-1)
    return float((before < top).float().mean())
