"""Hooks that change scores before softmax: where they are put, and the numbers they use by key."""

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.found import taken
from interp.steering.needs import heads_of, layers_of
from interp.steering.spans import first_of, over_rows

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

ROOM = 256  # keys of new tokens that are laid at once
Change = Callable[[Tensor, At], Tensor]
Heads = Mapping[int, tuple[int, ...]]


def by_key(values: Tensor, scores: Tensor, at: At, rest: float = 0.0) -> Tensor:
    """Numbers over the prompt, [row, position], as [batch, 1, 1, key] of these scores; `rest` elsewhere.

    They are laid with room for new tokens and kept in the run's memo: a step of writing costs a slice.
    """
    end = at.first_key + scores.shape[-1]
    name = ("by key", id(values), scores.shape[0], scores.dtype, scores.device)
    laid = at.memo.get(name)
    if laid is None or laid.shape[-1] < end:
        (rows, length), start = values.shape, at.run.start or 0
        laid = scores.new_full((rows, 1, 1, max(end, start + length) + ROOM), rest)
        laid[:, 0, 0, start : start + length] = values.to(laid)
        at.memo[name] = laid = laid.repeat_interleave(scores.shape[0] // rows, dim=0)
    return laid[..., at.first_key : end]


def placed(
    model: "Model", stack: "Stack", heads: Any, layers: Any, default: Iterable[int], who: str
) -> tuple[list[int], Heads | None]:
    """Layers, and the heads in them where not all: a finding, its file, pairs, or {layer: heads}."""
    given = taken(model, heads, "heads", who)
    if given is None:
        return layers_of(stack, layers, list(default), "scores"), None
    if layers is not None:
        raise ValueError(
            f"{who}(heads=..., layers=...): heads name their layers; give one of both."
        )
    chosen = heads_of(stack, [given] if isinstance(given, str) else given, "scores") or {}
    return list(chosen), chosen


def hooks_on_scores(
    stack: "Stack",
    change: Change,
    layers: Iterable[int],
    heads: Heads | None = None,
    within: tuple[int, int | None] = (0, None),
) -> list[Hook]:
    """One hook for all layers in which the same heads are changed."""
    groups: dict[tuple[int, ...] | None, list[int]] = {}
    for layer in layers:
        own = None if heads is None else heads[layer]
        groups.setdefault(None if own and len(own) == stack.heads else own, []).append(layer)
    return [
        Hook("scores", change, group, stack.name, own, rows=True, within=within)
        for own, group in groups.items()
    ]


def on_rows(rows: Tensor, change: Change) -> tuple[Change, int]:
    """The change on these rows of the prompt [row, position] and on new ones; and the first of them.

    Rows of a batch that begin together need no mask, and neither do those of new tokens.
    """
    since = first_of(rows) or 0
    if bool(rows[:, since:].all()):
        return change, since

    def changed(scores: Tensor, at: At) -> Tensor:
        after = change(scores, at)
        if not at.prefill:
            return after
        return torch.where(over_rows(rows, scores, at)[:, None, :, None], after, scores)

    return changed, since


def seeing_from(model: "Model", prompt: Prompt, span: Tensor) -> int:
    """The first position whose row can see the span: its own first, where rows see only what is before.

    Vision-language models may let the prompt, or an image in it, see itself both ways.
    """
    return (first_of(span & prompt.mask) or 0) if model.kind == "text" else 0
