"""A model whose chosen heads are knocked out: who has a path to the logits then, and looks where?"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.circuits.held_out import stands_in
from interp.circuits.paths import PathEffects, path_effects
from interp.circuits.replaced import Values
from interp.pairs import pairs
from interp.roles.looking import Places, Shares, means
from interp.sites import At, Hook
from interp.structure import Stack
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model


def without(
    model: "Model",
    task: Task,
    heads: Sequence[tuple[int, int]],
    stack: Stack,
    places: Places,
    batch: int,
) -> tuple[PathEffects, dict[str, Tensor]]:
    """Path effects to the logits (operator "ioi"), and attention from the last position to places.

    The heads' outputs are their means over counterfactuals of the same length and template, at each
    position (arXiv 2211.00593).
    """
    stand_ins = stands_in(task).of(model, task, "roles", batch=batch, stack=stack.name)
    parts, shares = [], Shares()
    for pair, own in zip(pairs(model, task, "roles", batch), stand_ins, strict=True):
        assert pair.numbers == own.numbers
        metric = pair.metric(model)
        with _knocked_out(model, heads, own.values, stack):
            found = path_effects(
                model, pair.clean, pair.corrupted, metric, None, "logits", "ioi", stack=stack.name
            )
            shares.add(model, pair.clean, stack, "last", places(pair.clean, pair.records))
        parts.append((pair.numbers, found))
    return PathEffects.joined(parts), means(shares.found())


@contextmanager
def _knocked_out(
    model: "Model", heads: Sequence[tuple[int, int]], values: Values, stack: Stack
) -> Iterator[None]:
    """The heads' z is their mean at every position."""
    by_layer: dict[int, list[int]] = {}
    for layer, head in heads:
        by_layer.setdefault(layer, []).append(head)

    def put(value: Tensor, at: At) -> Tensor:
        mask = torch.zeros(value.shape[-2], dtype=torch.bool, device=value.device)
        mask[by_layer[at.layer]] = True
        return torch.where(mask[:, None], values["z", at.layer], value)

    with model.using(Hook("z", put, sorted(by_layer), stack.name)):
        yield
