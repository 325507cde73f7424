"""The cells of a sweep as changes, without those that change nothing."""

from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.readouts import Readout
from interp.replay import Change
from interp.replay.changes import taken
from interp.sites import MAP_SITES
from interp.sweep.axes import Axes
from interp.sweep.takes import Source

if TYPE_CHECKING:
    from interp.replay import Replay


def cells_of(replay: "Replay", source: Source, axes: Axes, metric: Any) -> Iterator[list[Change]]:
    """In the order of the axes. Rows in which nothing differs are left out: exact, and free."""
    by_axis = {
        "layer": list(axes.windows.items()),
        "head": list(axes.heads.items()),
        "position": list(axes.places.items()),
        "span": list(axes.places.items()),
    }
    fixed = {
        "layer": next(iter(axes.windows.values())),
        "head": next(iter(axes.heads.values())),
        "position": next(iter(axes.places.values())),
    }
    padding = _padding(replay, source, metric)
    for chosen in product(*(by_axis[name] for name in axes.names)):
        own = fixed | {("position" if name == "span" else name): item
                       for name, (_, item) in zip(axes.names, chosen, strict=True)}  # fmt: skip
        mask = own["position"] if padding is None else own["position"] & padding
        yield _cell(replay, source, own["layer"], mask, own["head"])


def _padding(replay: "Replay", source: Source, metric: Any) -> Tensor | None:
    """Real positions, where padding ones cannot reach what is read."""
    # Padding rows of a map stay as the family has them, whatever is put there.
    unseen = isinstance(metric, Readout) or source.site in MAP_SITES
    return replay.prompt.mask.cpu() if unseen and source.owned else None


def _cell(
    replay: "Replay", source: Source, layers: list[int], mask: Tensor, heads: Tensor | None
) -> list[Change]:
    rows, places = mask.nonzero(as_tuple=True)
    stack = source.stack.name
    if source.called:
        function = source.function(replay)
        return [
            Change(source.site, layer, rows, places, None, heads, stack, function)
            for layer in layers
        ]
    changes, differs = [], torch.zeros(len(mask), dtype=torch.bool)
    for layer in layers:
        new = taken(source.need(layer), source.site, rows, places, heads)
        differs[rows[~source.equal(layer, rows, places, heads, new)]] = True
        changes.append(Change(source.site, layer, rows, places, new, heads, stack))
    if bool(differs.all()):
        return changes
    return [part for part in (_kept(change, differs[rows]) for change in changes) if len(part.rows)]


def _kept(change: Change, own: Tensor) -> Change:
    assert change.values is not None
    return Change(change.site, change.layer, change.rows[own], change.places[own], change.values[own],
                  change.heads, change.stack)  # fmt: skip
