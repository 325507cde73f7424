"""The grids that are swept: prompts, cells, and the arithmetic that they need at least."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.shapes import Shape, build

LAYERS = HEADS = 12
WIDTH, VOCABULARY = 768, 50257
HEAD = WIDTH // HEADS
# Multiplications and additions of one token in one layer's products: what its keys and values take,
# the output projection, the MLP, and all of them with the queries. Attention's own are not counted.
KEYS = {"gpt2": 4 * WIDTH * WIDTH, "llama": 4 * WIDTH * WIDTH // 3}
OUT = 2 * WIDTH * WIDTH
MLP = {"gpt2": 16 * WIDTH * WIDTH, "llama": 6 * WIDTH * 2048}
UNEMBED = 2 * WIDTH * VOCABULARY

Cell = tuple[int, int]  # layer, and position or head
GRIDS = {
    "resid_pre": "resid_pre patched, layer x position",
    "heads": "z patched, layer x head",
    "ablation": "z zeroed, layer x head",
}


class Prompts(NamedTuple):
    clean: Tensor  # [pair, position]
    corrupted: Tensor  # the same with another token at every position: no cell can be left out
    right: Tensor  # [pair]
    wrong: Tensor


@dataclass(frozen=True)
class Work:
    """One grid over pairs of prompts of one length, at a model of the size of GPT-2 small."""

    grid: str
    family: str
    length: int
    pairs: int = 1

    def __str__(self) -> str:
        several = f" x {self.pairs} {'prompts' if self.grid == 'ablation' else 'pairs'}"
        return (
            f"{self.family} {GRIDS[self.grid]}, T={self.length}{several if self.pairs > 1 else ''}"
        )

    @property
    def columns(self) -> int:
        return self.length if self.grid == "resid_pre" else HEADS

    @property
    def cells(self) -> list[Cell]:
        return list(product(range(LAYERS), range(self.columns)))

    @property
    def prompts(self) -> Prompts:
        random = torch.Generator().manual_seed(self.length)
        shape = (self.pairs, self.length)
        clean = torch.randint(VOCABULARY, shape, generator=random)
        corrupted = clean + torch.randint(1, VOCABULARY, shape, generator=random)
        right = torch.randint(VOCABULARY, shape[:1], generator=random)
        wrong = (right + torch.randint(1, VOCABULARY, shape[:1], generator=random)) % VOCABULARY
        return Prompts(clean, corrupted % VOCABULARY, right, wrong)

    def warm_up(self) -> "Work":
        """The same with shorter prompts: what a first call looks up, loads and tries is done then."""
        return replace(self, length=10, pairs=min(self.pairs, 2))

    def model(self, attention: str) -> PreTrainedModel:
        return build(Shape(self.family, self.length, LAYERS, VOCABULARY), attention)

    @property
    def spread(self) -> list[Cell]:
        """Some cells from all over the grid, for what costs the same at each."""
        count = 6 if self.pairs > 8 else 12
        layers = [round(place * (LAYERS - 1) / (count - 1)) for place in range(count)]
        step = round(self.columns * 0.618)
        return [(layer, (step * place) % self.columns) for place, layer in enumerate(layers)]

    def least(self) -> float:
        """Operations of all cells: what can differ alone, and of the last layer what is read."""
        return self.pairs * sum(self._least(layer, column) for layer, column in self.cells)

    def _least(self, layer: int, column: int) -> int:
        """Where a change enters, queries, keys and values of other positions are the run's own."""
        keys, mixed = KEYS[self.family], OUT + MLP[self.family]
        tokens, enters = self.length, OUT // HEADS + MLP[self.family]  # one head's part of OUT
        if self.grid == "resid_pre":
            tokens = self.length - column
            if layer == LAYERS - 1:
                return keys + mixed + (OUT if tokens == 1 else 0)
            enters = mixed
        elif layer == LAYERS - 1:
            return enters
        entry = tokens * enters + (keys + OUT if self.grid == "resid_pre" else 0)
        return entry + tokens * ((LAYERS - 2 - layer) * self._token + keys) + OUT + mixed

    def naive(self, unembedded: int) -> float:
        """Operations of a forward for each cell, with so many positions unembedded."""
        forward = self.length * LAYERS * self._token + unembedded * UNEMBED
        return float(self.pairs * len(self.cells) * forward)

    @property
    def _token(self) -> int:
        return KEYS[self.family] + 2 * OUT + MLP[self.family]


class Sweeper(NamedTuple):
    """`first` is done once for a grid; `cells` gives [pair, cell] from what that returned."""

    first: Callable[[Work, Prompts], Any]
    cells: Callable[[Work, Prompts, Any, Sequence[Cell]], Tensor]


def decoder_layers(model: Any, work: Work) -> Any:
    return model.transformer.h if work.family == "gpt2" else model.model.layers


def difference(logits: Tensor, prompts: Prompts) -> Tensor:
    """[pair]: the logit of the right token less that of the wrong one, at the last position."""
    last = logits[:, -1]
    ends = torch.stack([prompts.right, prompts.wrong], 1)
    right, wrong = last.gather(1, ends.to(last.device)).unbind(1)
    return right - wrong


def named_works() -> Iterator[tuple[str, Work]]:
    """Names for --only, in the order of the table."""
    for length in (16, 32, 64):
        yield f"resid_pre-{length}", Work("resid_pre", "gpt2", length)
    yield "resid_pre-16x8", Work("resid_pre", "gpt2", 16, 8)
    yield "heads-16", Work("heads", "gpt2", 16)
    yield "heads-32", Work("heads", "gpt2", 32)
    yield "ablation-16x32", Work("ablation", "gpt2", 16, 32)
    for length in (16, 32):
        yield f"llama-resid_pre-{length}", Work("resid_pre", "llama", length)
    yield "llama-heads-32", Work("heads", "llama", 32)
