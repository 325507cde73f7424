"""A state is put in, and what MLPs or attention make of it at its own token is not (arXiv 2202.05262).

Whatever the state does from then on, it does not do by these parts of the layers above it.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.replay import Change, Replay
from interp.sites import At, Hook

if TYPE_CHECKING:
    from interp.model import Model
    from interp.trace import Trace

SEVERED = ("mlp_out", "attn_out")


def severed_sweep(
    model: "Model",
    prompt: Any,
    take: "Trace",
    severed: str,
    metric: Any,
    hooks: Sequence[Hook] = (),
    budget: float = 1e9,
    save: str | Path | None = None,
) -> Tensor:
    """[batch, layer, position]: how the metric moves with `resid_post` of that layer and position from
    `take`, and the outputs of `severed` at that position in all later layers held as the run has them."""
    own: dict[tuple[str, int], Tensor] = {}
    stack = next(iter(model.stacks))

    def keep(value: Tensor, at: At) -> None:
        own[at.site, at.layer] = value.detach()

    readers = [Hook(site, keep, stack=stack) for site in ("resid_post", severed)]
    replay = Replay(model, prompt, stack, hooks=hooks, readers=readers)
    layers = range(model.stacks[stack].size)
    cells = list(_cells(own, take, severed, stack, layers))
    plain = replay.values([[]], metric)
    effect = replay.values(cells, metric, budget, save) - plain
    return effect.unflatten(1, (len(layers), -1))


def _cells(
    own: dict[tuple[str, int], Tensor], take: "Trace", severed: str, stack: str, layers: range
) -> Iterator[list[Change]]:
    """Rows whose state is the same in both runs are left out: nothing happens in them."""
    for layer in layers:
        new, old = take["resid_post", layer, stack], own["resid_post", layer]
        for place in range(new.shape[1]):
            rows = (new[:, place] != old[:, place]).flatten(1).any(-1).nonzero().flatten().cpu()
            if not len(rows):
                yield []
                continue
            places = torch.full_like(rows, place)
            held = [Change(severed, later, rows, places, own[severed, later][rows, place], None, stack)
                    for later in layers if later > layer]  # fmt: skip
            put = Change("resid_post", layer, rows, places, new[rows, place], None, stack)
            yield [put, *held]
