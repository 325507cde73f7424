"""The model: a transformer of one head a layer, as wide as the stream, small enough to watch."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

# Takes a layer's attention pattern [row, query, key] and values [row, key, width]; gives new ones.
Change = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
ATTENTION = ("softmax", "relu")


class Seen(NamedTuple):
    """What one layer did: [row, query, key] for scores and pattern, else [row, position, width]."""

    scores: Tensor  # scaled, before the mask
    pattern: Tensor
    value: Tensor
    written: Tensor  # the values through W_O: what each position has to give
    stream: Tensor  # the residual stream after the layer


class Block(nn.Module):
    """Attention of one head and a ReLU network, normed before, without biases."""

    def __init__(self, width: int, attention: str):
        super().__init__()
        self.attention, self.scale = attention, 1 / math.sqrt(width)
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (
            nn.Linear(width, width, bias=False) for _ in range(4)
        )
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, stream: Tensor, change: Change | None = None) -> tuple[Tensor, Seen]:
        normed = self.before_attention(stream)
        scores = self.query(normed) @ self.key(normed).transpose(1, 2) * self.scale
        pattern, value = self.weigh(scores), self.value(normed)
        if change is not None:
            pattern, value = change(pattern, value)
        written = self.out(value)
        stream = stream + pattern @ written
        stream = stream + self.down(self.up(self.before_mlp(stream)).relu_())
        return stream, Seen(scores, pattern, value, written, stream)

    def weigh(self, scores: Tensor) -> Tensor:
        """Scores to attention: softmax over what was before, or ReLU by the number of keys."""
        length = scores.shape[-1]
        later = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
        if self.attention == "softmax":
            return scores.masked_fill(later, -math.inf).softmax(-1)
        seen = torch.arange(1, length + 1, device=scores.device)[:, None]
        return scores.relu().masked_fill(later, 0) / seen


class Network(nn.Module):
    """Learned places, untied output, weights drawn as torch draws them by default.

    So a fresh network's logits have a standard deviation of 0.58, and its loss is near 4.37.
    """

    def __init__(self, tokens: int, length: int, width: int, layers: int, attention: str):
        super().__init__()
        self.token, self.place = nn.Embedding(tokens, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(Block(width, attention) for _ in range(layers))
        self.norm, self.unembed = nn.LayerNorm(width), nn.Linear(width, tokens, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [row, position, token]."""
        return self.watch(tokens)[0]

    def watch(
        self, tokens: Tensor, changes: dict[int, Change] | None = None
    ) -> tuple[Tensor, list[Seen]]:
        """The logits, and what each layer did; `changes` names what to change in which layer."""
        stream = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        seen = []
        for layer, block in enumerate(self.blocks):
            stream, one = block(stream, (changes or {}).get(layer))
            seen.append(one)
        return self.unembed(self.norm(stream)), seen
