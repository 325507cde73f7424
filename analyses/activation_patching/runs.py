"""Sweeps over the pairs: how far each patch moves the metric of each record."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas
import torch
from torch import Tensor

from analyses.activation_patching.asked import Asked, by_head
from analyses.activation_patching.places import REST, masks_of, names_of, spans_of
from interp.pairs import Pair
from interp.progress import counted
from interp.trace import Trace

SPELLED = 60  # characters of an example
ALL = "all"  # places of a head, patched together


@dataclass(eq=False)
class Grids:
    """By (direction, site, whether at single places): [record, layer, head?, place?], in the task's order."""

    layers: list[int] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    effects: dict[tuple[str, str, bool], Tensor] = field(default_factory=dict)
    clean: Tensor = field(default_factory=lambda: torch.empty(0))
    corrupted: Tensor = field(default_factory=lambda: torch.empty(0))
    examples: dict[str, tuple[int, int, str]] = field(
        default_factory=dict
    )  # records, tokens, words

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{direction} {site}{' places' if by_head(site) and placed else ''}": values
            for (direction, site, placed), values in self.effects.items()
        }

    def records_table(self) -> pandas.DataFrame:
        numbers = range(len(self.clean))
        columns = {
            "record": numbers,
            "clean": self.clean.numpy(),
            "corrupted": self.corrupted.numpy(),
        }
        return pandas.DataFrame(columns)

    def places_table(self) -> pandas.DataFrame:
        rows = [(place, *self.examples[place]) for place in self.places]
        return pandas.DataFrame(rows, columns=["place", "records", "tokens", "example"])


def patched(asked: Asked) -> Grids:
    found = Grids()
    parts: list[dict[tuple[str, str, bool], Tensor]] = []
    clean, corrupted = [], []
    names = names_of(asked.pairs, asked.spans) if asked.over == "span" else []
    known = spans_of(asked.pairs)
    rest = asked.over == "span" and (asked.spans is None or REST in asked.spans)
    for number, pair in enumerate(counted(asked.pairs, "patching")):
        masks = masks_of(pair, names, rest, known) if asked.over == "span" else None
        run = Run(asked, pair, number, masks)
        parts.append(run.effects())
        clean.append(run.clean)
        corrupted.append(run.corrupted)
        found.layers, found.places = run.layers, run.places
        _count(found, pair, masks, asked.main)
    order = torch.tensor([at for pair in asked.pairs for at in pair.numbers]).argsort()
    found.clean, found.corrupted = torch.cat(clean)[order], torch.cat(corrupted)[order]
    found.effects = {key: torch.cat([part[key] for part in parts])[order] for key in parts[0]}
    return found


class Run:
    """One batch of pairs: both runs, and the sweeps from the one into the other."""

    def __init__(self, asked: Asked, pair: Pair, number: int, masks: dict[str, Tensor] | None):
        assert asked.tower is not None
        self.asked, self.pair, self.number, self.masks = asked, pair, number, masks
        self.layers: list[int] = []
        self.places: list[str] = []
        self.metric = pair.metric(asked.model, asked.metric, asked.first)
        self.stack = asked.tower.name
        with torch.no_grad():
            self.traces = {
                name: asked.model.trace(prompt, *asked.sites, stack=self.stack)
                for name, prompt in (("clean", pair.clean), ("corrupted", pair.corrupted))
            }
        self.clean, self.corrupted = (
            self.metric(self.traces[name].logits, pair.clean).cpu() for name in self.traces
        )

    def effects(self) -> dict[tuple[str, str, bool], Tensor]:
        found = {}
        for direction in self.asked.directions:
            for site in self.asked.sites:
                if by_head(site):
                    found[direction, site, False] = self._swept(direction, site, False)
                if not by_head(site) or self.asked.head_places:
                    found[direction, site, True] = self._swept(direction, site, True)
        return found

    def _swept(self, direction: str, site: str, placed: bool) -> Tensor:
        asked, denoise = self.asked, direction == "denoise"
        prompt = self.pair.corrupted if denoise else self.pair.clean
        take: Trace = self.traces["clean" if denoise else "corrupted"]
        over = ["layer", *(["head"] if by_head(site) else []), *([asked.over] if placed else [])]
        by_span = placed and asked.over == "span"
        save = f"{asked.save}/{self.number}-{direction}-{site}{'-places' if placed else ''}"
        grid = asked.model.sweep(
            prompt, site, take, over, self.metric, layers=asked.layers, window=asked.window,
            positions=None if by_span else asked.positions, spans=self.masks if by_span else None,
            stack=self.stack, budget=asked.budget, save=None if asked.save is None else save,
        )  # fmt: skip
        effect = grid.effect.cpu()
        self.layers = grid.labels["layer"]
        if placed:
            self.places = [str(label) for label in grid.labels[str(asked.over)]]
        if by_span:
            effect = self._without_absent(effect)
        return effect

    def _without_absent(self, effect: Tensor) -> Tensor:
        """A record without a span says nothing about it: NaN instead of no effect."""
        assert self.masks is not None
        there = torch.stack([mask.any(1) for mask in self.masks.values()], 1)
        shape = [len(effect), *[1] * (effect.ndim - 2), there.shape[1]]
        return effect.masked_fill(~there.reshape(shape), torch.nan)


def _count(found: Grids, pair: Pair, masks: dict[str, Tensor] | None, main: bool) -> None:
    """How many records have a place, with how many tokens, and what the first of them has there.

    Of another stack than the prompt's, positions are counted, and there is nothing to spell.
    """
    tokens = pair.clean.tokens
    for place in found.places:
        if not main:
            found.examples[place] = (found.examples.get(place, (0,))[0] + len(pair.clean), 1, "")
            continue
        mask = masks[place] if masks is not None else _column(pair, int(place))
        records, before, words = found.examples.get(place, (0, 0, ""))
        rows = mask.any(1).nonzero().flatten().tolist()
        if rows and not words:
            words = _words(tokens[rows[0]], mask[rows[0]])
        found.examples[place] = (records + len(rows), max(before, int(mask.sum(1).max())), words)


def _column(pair: Pair, place: int) -> Tensor:
    mask = torch.zeros_like(pair.clean.mask).cpu()
    mask[:, place] = True
    return mask


def _words(tokens: Sequence[Any], mask: Tensor) -> str:
    own = (str(token) for token, there in zip(tokens, mask.tolist(), strict=True) if there)
    return "".join(own)[:SPELLED]
