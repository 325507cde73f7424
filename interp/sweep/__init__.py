"""Many single changes of one run, and what each does to a number: patching, ablation, tracing.

Every cell is exact: what a forward of its own with a hook would give.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp import mapping
from interp.asking import choose_heads, choose_layers, choose_stack
from interp.replay import Replay
from interp.sites import Hook, parse_site, whole_number
from interp.sweep.axes import AXES, Axes
from interp.sweep.cells import cells_of
from interp.sweep.grid import Grid
from interp.sweep.takes import Source

if TYPE_CHECKING:
    from interp.model import Model

__all__ = ["Grid", "sweep"]


def sweep(
    model: "Model",
    prompt: Any,
    site: str,
    take: Any = "zero",
    over: Sequence[str] | str = ("layer", "position"),
    metric: Any = None,
    *,
    layers: Any = None,
    positions: Any = None,
    heads: Any = None,
    spans: Any = None,
    window: int = 1,
    stack: str | None = None,
    reference: Any = None,
    scale: float = 3.0,
    seed: int = 0,
    hooks: Sequence[Hook] | Hook = (),
    using: Any = None,
    budget: float = 1e9,
    save: str | Path | None = None,
    progress: bool | None = None,
    path: str | None = None,
    on: str | None = None,
) -> Grid:
    """See `Model.sweep`."""
    name, own = parse_site(site)
    if own is not None and layers is not None:
        raise ValueError(f"{site} names its layer; leave layers= out.")
    tower = choose_stack(model.stacks, stack, model.name)
    chosen = sorted(choose_layers(tower, layers if own is None else own, name))
    named = _names(over)
    if metric is None or not callable(metric):
        raise TypeError(
            f"a sweep reads a metric off each run, and metric={metric!r} is none: "
            "interp.metrics.logit_diff(right, wrong), or a function of logits [batch, position, token]."
        )
    for word, value in (("budget", budget), ("scale", scale)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(
                f"{word}={value!r}: a number above 0{' (bytes)' if word == 'budget' else ''}."
            )
    seed = whole_number(seed, "seed=")
    host = _host(model, tower.name)
    choose_heads(tower, heads, name)  # refuses before anything runs
    holding = choose_layers(tower, None, name)
    windows = {
        layer: [one for one in _window(layer, window, tower.size) if one in holding]
        for layer in chosen
    }
    every = sorted({one for own in windows.values() for one in own})
    several = (
        len(every) > 1 if "layer" not in named else any(len(own) > 1 for own in windows.values())
    )
    source = Source(model, name, tower, take, reference, scale, seed, every, several)
    whole = "a function over several layers sees what the earlier ones made"
    path = "whole" if source.called else path
    with mapping.on(on):
        replay = Replay(model, prompt, host, using, hooks, source.readers(), path)
        source.fill(replay)
        axes = Axes(replay, source, named, windows, positions, heads, spans)
        cells = list(cells_of(replay, source, axes, metric))
        values = replay.values(cells, metric, budget, save, progress)
        shape = [len(axes.labels[name]) for name in named]
        grid = values.reshape(len(values), *shape, *values.shape[2:])
        plain = replay.values([[]], metric)[:, 0]
        why = whole if source.called else replay.why
        skipped = sum(not cell for cell in cells)
        prompt = replay.prompt
        tokens = prompt.tokens if (len(prompt), prompt.length) == source.extent else []
        how = (replay.path, why, name, skipped, tokens)
        return Grid.of(grid, ("batch", *named), axes.labels, plain, *how)


def _names(over: Sequence[str] | str) -> tuple[str, ...]:
    names = (over,) if isinstance(over, str) else tuple(over)
    if not names or len(set(names)) < len(names) or not set(names) <= set(AXES):
        raise ValueError(
            f"over={over!r}: give each of {', '.join(AXES)} at most once, and one at least."
        )
    if {"position", "span"} <= set(names):
        raise ValueError(
            "over= names position and span, which are two ways to cut the same axis; give one."
        )
    return names


def _window(layer: int, window: Any, size: int) -> list[int]:
    """The layers that a window around one stands for (arXiv 2202.05262's rule)."""
    if isinstance(window, bool) or not isinstance(window, int) or window < 1:
        raise ValueError(f"window={window!r}: a number of layers, 1 or more.")
    return list(range(max(0, layer - window // 2), min(size, layer + -(-window // 2))))


def _host(model: "Model", stack: str) -> str:
    """The stack whose layers hold this one: cross attention lies in its decoder's."""
    own = model.stacks[stack].path
    return next(name for name, tower in model.stacks.items() if tower.path == own)
