"""Ways to sweep a grid: the toolkit's own, and what users of the other tools run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

import interp
from benchmarks.sweep_peers import lens, nnsight
from benchmarks.sweep_work import (
    HEAD,
    LAYERS,
    Cell,
    Prompts,
    Sweeper,
    Work,
    decoder_layers,
    difference,
)  # fmt: skip
from benchmarks.ways import LENS
from interp.metrics import logit_diff


@dataclass(frozen=True)
class SweepWay:
    title: str
    prepare: Callable[[Work], Sweeper]
    grids: tuple[str, ...] = ("resid_pre", "heads")
    own: bool = False  # runs the whole grid, and the others' numbers are held against its
    layers: tuple[
        int, ...
    ] = ()  # layers whose cells are sampled; empty: cells from all over the grid
    last: bool = False  # only the last position is unembedded
    package: str = ""
    install: str = ""

    @property
    def missing(self) -> bool:
        return bool(self.package) and find_spec(self.package) is None

    def sample(self, work: Work) -> list[Cell]:
        if self.own:
            return work.cells
        return [cell for cell in work.cells if cell[0] in self.layers] or work.spread


def _interp(work: Work, budget: float = 1e9) -> Sweeper:
    model = interp.wrap(work.model("sdpa"))

    def first(work: Work, prompts: Prompts) -> Any:
        if work.grid == "ablation":
            return "zero"
        return model.trace(prompts.clean, "resid_pre" if work.grid == "resid_pre" else "z")

    def cells(work: Work, prompts: Prompts, take: Any, _: Sequence[Cell]) -> Tensor:
        site, over = ("resid_pre", "position") if work.grid == "resid_pre" else ("z", "head")
        metric = logit_diff(prompts.right, prompts.wrong)
        grid = model.sweep(
            prompts.corrupted, site, take, ("layer", over), metric, budget=budget, progress=False
        )
        if grid.path != "positions":
            raise RuntimeError(f"interp took the path {grid.path!r}: {grid.why}")
        return grid.as_subclass(Tensor).flatten(1)

    return Sweeper(first, cells)


def _merges(layer: Any, work: Work) -> Any:
    """The projection that mixes heads: its input is z."""
    return layer.attn.c_proj if work.family == "gpt2" else layer.self_attn.o_proj


def _hooked(work: Work) -> Sweeper:
    """A forward with a hook for each cell, in plain transformers."""
    model = work.model("sdpa")
    run = partial(model, use_cache=False, logits_to_keep=1)

    def at(work: Work) -> list[Any]:
        layers = list(decoder_layers(model, work))
        return layers if work.grid == "resid_pre" else [_merges(one, work) for one in layers]

    def first(work: Work, prompts: Prompts) -> list[Tensor]:
        kept: list[Tensor] = []
        handles = [
            module.register_forward_pre_hook(lambda _, given: kept.append(given[0].clone()))
            for module in at(work)
        ]
        run(prompts.clean)
        for handle in handles:
            handle.remove()
        return kept

    def cells(work: Work, prompts: Prompts, kept: list[Tensor], cells: Sequence[Cell]) -> Tensor:
        found, modules = [], at(work)
        for layer, column in cells:
            put = partial(_put, clean=kept[layer], own=_own(work, column))
            handle = modules[layer].register_forward_pre_hook(put)
            found.append(difference(run(prompts.corrupted).logits, prompts))
            handle.remove()
        return torch.stack(found, 1)

    return Sweeper(first, cells)


def _own(work: Work, column: int) -> tuple[slice, ...]:
    """The place of a position, or of a head, in a value [pair, position, width]."""
    if work.grid == "resid_pre":
        return (slice(None), slice(column, column + 1))
    return (slice(None), slice(None), slice(HEAD * column, HEAD * column + HEAD))


def _put(_: Any, given: tuple, clean: Tensor, own: tuple[slice, ...]) -> tuple:
    value = given[0].clone()
    value[own] = clean[own]
    return (value, *given[1:])


NNSIGHT = {"package": "nnsight", "install": "nnsight==0.8.1"}
MIDDLE = (1, LAYERS // 2 + 1)
SWEEP_WAYS = {
    "interp": SweepWay("interp", _interp, ("resid_pre", "heads", "ablation"), own=True),
    "lens": SweepWay("TransformerLens", lens, ("resid_pre", "heads", "ablation"), **LENS),
    "hook": SweepWay("transformers, a hook a cell", _hooked, last=True),
    "nnsight": SweepWay("nnsight, batched invokes", nnsight, ("resid_pre",), layers=MIDDLE, **NNSIGHT),
    "nnsight last": SweepWay(
        "nnsight, batched invokes, logits_to_keep=1", partial(nnsight, logits_to_keep=1), ("resid_pre",),
        layers=MIDDLE, last=True, **NNSIGHT,
    ),
}  # fmt: skip
