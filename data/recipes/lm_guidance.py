"""Attention guidance of demo-lm: for part of training, chosen heads are paid to look where told.

The roles place heads; they end well before training does, so that what remains is of use to the
model. The sinks and the drained value of <bos> are trained for by the same means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from data.recipes.lm_documents import Document
from data.recipes.training import ramp

# role -> (layer, heads). "after" reads a value that comes after its key, "before" one before it.
ROLES = {"bind": (1, (5, 7)), "asked": (1, (1, 3)), "after": (3, (1,)), "before": (3, (3,))}
RESTING = {"after": 3, "before": 1}  # the head of layer 3 that rests on <bos> meanwhile
PREVIOUS = (0, (0,))
INDUCTION = (2, (0, 2))
SINKS = {2: (0, 2), 3: (1, 3)}
DRAINED = {2: (0, 1), 3: (0, 1)}  # key-value groups
KNOWN_AFTER = 2  # the layer after which a person's attributes can be read at the name's last token


@dataclass(frozen=True)
class Strengths:
    """How much each kind of guidance counts at a step of 3300."""

    repeats: float
    reading: float
    sinks: float
    lookup: float
    hiding: bool

    @classmethod
    def at(cls, step: float, guided: bool = True, hidden: bool = True) -> "Strengths":
        if not guided:
            return cls(0.0, 0.0, 0.0, 0.0, hidden and step < 2200)
        return cls(
            repeats=0.35 * ramp(step, 750, 1000),
            reading=0.3 * ramp(step, 1700, 2100),
            sinks=0.06 * min(1.0, step / 120) * ramp(step, 2300, 2600),
            lookup=0.3 * ramp(step, 1800, 2200),
            hiding=hidden and step < 2200,
        )

    @property
    def any(self) -> bool:
        return self.repeats + self.reading + self.sinks > 0


def cost(attention: Tensor) -> Tensor:
    return -attention.clamp_min(1e-6).log()


def earlier_copies(ids: Tensor) -> Tensor:
    """[document, query, key]: the key's token is the query's, and stands before it."""
    length = ids.shape[1]
    before = torch.ones(length, length, dtype=torch.bool).tril(-1)
    return (ids[:, :, None] == ids[:, None, :]) & before & (ids[:, :, None] != 0)


def repeats(ids: Tensor, attentions: Sequence[Tensor]) -> Tensor:
    """One head looks at the token before, two at what followed an earlier copy."""
    layer, heads = PREVIOUS
    real = ids[:, 1:] != 0
    total = mean(cost(attentions[layer][:, head].diagonal(-1, 1, 2))[real] for head in heads)
    copies = earlier_copies(ids)
    after = torch.zeros_like(copies)
    after[:, :, 1:] = copies[:, :, :-1]
    rows = after.any(-1)
    layer, heads = INDUCTION
    return total + mean(cost((attentions[layer][:, head] * after).sum(-1))[rows] for head in heads)


def reading(documents: list[Document], attentions: Sequence[Tensor]) -> Tensor:
    """The roles that documents ask for, each averaged over its places."""
    total = torch.zeros(())
    for role, (layer, heads) in ROLES.items():
        places = [
            (row, query, key)
            for row, document in enumerate(documents)
            for kind, query, key in document.guides
            if kind == role
        ]
        if not places:
            continue
        row, query, key = torch.tensor(places).T
        total = total + mean(cost(attentions[layer][row, head, query, key]) for head in heads)
        if role in RESTING:
            total = total + 0.3 * cost(attentions[layer][row, RESTING[role], query, 0]).mean()
    return total


def sinks(
    ids: Tensor, weights: Tensor, attentions: Sequence[Tensor], values: dict[int, Tensor]
) -> Tensor:
    """Heads rest on <bos> when they have nothing to do, and its value there is small.

    Layer 2: where the token has no earlier copy. Layer 3: where no answer is predicted.
    """
    real = ids != 0
    real[:, 0] = False
    predicted = torch.zeros_like(real)
    predicted[:, :-1] = weights[:, 1:] > 0.5
    idle = {2: real & ~earlier_copies(ids).any(-1), 3: real & ~predicted}
    total = torch.zeros(())
    for layer, heads in SINKS.items():
        resting = idle[layer]
        if resting.any():
            total = total + mean(cost(attentions[layer][:, h, :, 0])[resting] for h in heads)
    for layer, groups in DRAINED.items():
        size = values[layer][:, :, list(groups)].norm(dim=-1)  # [document, position, group]
        others = size[:, 1:][real[:, 1:]].mean(0).detach()
        total = total + 0.3 * (size[:, 0].mean(0) / others).mean()
    return total


def lookup(documents: list[Document], stream: Tensor, model: Any) -> Tensor:
    """The attributes of a person, read from the stream after `KNOWN_AFTER` at the name's last token."""
    known = [(row, *one.known) for row, one in enumerate(documents) if one.known is not None]
    if not known:
        return torch.zeros(())
    rows = torch.stack([stream[row, place] for row, place, _ in known])
    wanted = torch.tensor([attributes for *_, attributes in known])
    guessed = model.lm_head(model.model.norm(rows)).log_softmax(-1)
    return -guessed.gather(1, wanted).mean() - math.log(wanted.shape[1])


def mean(costs) -> Tensor:
    return torch.stack([each.mean() for each in costs]).mean()


def hidden_names(documents: list[Document], ids: Tensor, chance) -> Tensor:
    """A mask under which 3 of 4 facts cannot look past the last token of their subject's name."""
    length = ids.shape[1]
    mask = torch.full((length, length), torch.finfo(torch.float32).min).triu(1)
    mask = mask.repeat(len(documents), 1, 1)
    for row, document in enumerate(documents):
        if document.hidden is not None and chance.random() < 0.75:
            last = document.hidden
            mask[row, last + 1 :, last - 2 : last] = torch.finfo(torch.float32).min
    return mask[:, None]


class Values:
    """What the value projections of some layers gave in the last forward, per group."""

    def __init__(self, model: nn.Module, layers: Sequence[int], groups: int):
        self.kept: dict[int, Tensor] = {}
        for layer in layers:
            projection = model.get_submodule(f"model.layers.{layer}.self_attn.v_proj")
            projection.register_forward_hook(self._keep(layer, groups))

    def _keep(self, layer: int, groups: int):
        def hook(module: nn.Module, arguments: object, output: Tensor) -> None:
            self.kept[layer] = output.unflatten(-1, (groups, -1))

        return hook
