"""The matrices of each head, of any family, and what can be told from them alone.

from interp.weights import head_weights
weights = head_weights(model)
weights.v[2, 3] @ weights.o[2, 3]  # OV of layer 2, head 3: [d_model, d_model]
weights.copying()
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.asking import choose_layers, choose_stack
from interp.weights.circuits import Norm, composition, copying_score, name_copy

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

__all__ = ["HeadWeights", "Norm", "composition", "copying_score", "head_weights", "name_copy"]


@dataclass(eq=False)
class HeadWeights:
    """Weights of heads as the residual stream x meets them, norms' scales folded in, in float32.

        v = x / norms[i].spread(x) @ v[i, head] + v_bias[i, head]

    The first axis is that of `layers`. Where a norm centres, so does the weight. KV heads are
    repeated, one per query head. `o` holds what follows the output projection (a post-norm's scale, a
    multiplier); `o_bias` is the projection's own, before that. `embed` is what a token adds to the
    stream, `unembed` what the stream adds to a token's logit, before any soft cap and multiplier.
    What could not be had is None, and `refused` says why, under "qk", "ov", "embed" and "unembed";
    `notes` say what to know of what could.
    """

    layers: list[int]
    norms: list[Norm]
    q: Tensor | None = None  # [layer, head, d_model, d_head]
    k: Tensor | None = None
    v: Tensor | None = None
    o: Tensor | None = None  # [layer, head, d_head, d_model]
    q_bias: Tensor | None = None  # [layer, head, d_head]
    k_bias: Tensor | None = None
    v_bias: Tensor | None = None
    o_bias: Tensor | None = None  # [layer, d_model]
    embed: Tensor | None = None  # [token, d_model]
    unembed: Tensor | None = None  # [d_model, token]
    unembed_bias: Tensor | None = None  # [token]
    final_norm: Norm = Norm()
    refused: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def __repr__(self) -> str:
        without = f"; without {', '.join(self.refused)}" if self.refused else ""
        return f"HeadWeights(layers {self.layers}{without})"

    def need(self, *parts: str) -> None:
        """Refuse, with the reason, what is not there."""
        for part in parts:
            if part in self.refused:
                raise ValueError(f"there are no {part} weights: {self.refused[part]}")

    def read(self, part: str, stream: Tensor, layer: int) -> Tensor:
        """The "q", "k" or "v" [..., head, d_head] of a stream [..., d_model] at position 0."""
        self.need("ov" if part == "v" else "qk")
        at = self.layers.index(layer)
        weight, bias = getattr(self, part)[at], getattr(self, f"{part}_bias")[at]
        scaled = (stream / self.norms[at].spread(stream)).to(weight)
        return torch.einsum("...d,hde->...he", scaled, weight) + bias

    def copying(self) -> Tensor:
        """The copying score of each head, [layer, head]: of W_E OV W_U, by its small side."""
        self.need("ov", "embed", "unembed")
        assert self.embed is not None and self.unembed is not None
        assert self.o is not None and self.v is not None
        count = min(len(self.embed), self.unembed.shape[1])  # some tables hold more than the other
        through = self.unembed[:, :count] @ self.embed[:count]
        return copying_score(self.o @ through @ self.v)

    def composition(self, samples: int = 20, seed: int = 0) -> dict[str, Tensor]:
        """Q, K and V composition of every head with every later one, less what chance gives."""
        self.need("ov", "qk")
        assert self.q is not None and self.k is not None
        assert self.v is not None and self.o is not None
        return composition(self.q, self.k, self.v, self.o, samples, seed)


def head_weights(
    model: "Model",
    stack: str | None = None,
    layers: Sequence[int] | int | None = None,
    prompt: "Prompt | None" = None,
) -> HeadWeights:
    """The weights of a stack's heads, by passing unit vectors through the model.

    Without `prompt`, one that reaches the stack is made: rows of one token, or blank images for a
    model that reads images alone. Elsewhere give one whose positions all pass through the stack.
    """
    from interp.weights.measuring import measured

    model = model.weighed
    tower = choose_stack(model.stacks, stack, model.name)
    if "cross" in tower.name:
        raise ValueError(
            f"keys and values of the {tower.name} stack are made of another stack's stream, so its "
            "heads have no weights over one stream; ask for a stack that attends to itself."
        )
    return measured(model, tower, sorted(choose_layers(tower, layers, "q")), prompt)
