"""Clean and corrupted runs of questions about images, and what each restoration recovers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas
import torch
from torch import Tensor

from analyses.fcct.asked import Asked
from interp.batches import Batch, batches
from interp.pairs import answers_metric
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.tracing.groups import GROUPS, boxes, check_among_text, groups, patches_over
from interp.tracing.pixels import noised

SIGMAS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # tried where none is given
HALF, MOST = 0.5, 0.9  # of the clean probability that is left; of the largest fall there is
GUARDED = "with a fall of P below the guard"


@dataclass(eq=False)
class Restored:
    """In the order of the task: NaN where a record was left out before it ran."""

    clean: Tensor  # [record]
    corrupted: Tensor
    why: list[str]  # why a record was left out; "" for those that were traced
    sigma: float | None
    sigmas: pandas.DataFrame | None = None
    patched: dict[str, Tensor] = field(default_factory=dict)  # by component: [record, group, layer]
    sizes: Tensor = field(default_factory=lambda: torch.empty(0))  # tokens, [record, group]

    @property
    def kept(self) -> Tensor:
        return torch.tensor([not why for why in self.why])

    def rates(self, component: str) -> Tensor:
        """[record, group, layer]"""
        fall = (self.clean - self.corrupted)[:, None, None]
        return (self.patched[component] - self.corrupted[:, None, None]) / fall

    def tensors(self) -> dict[str, Tensor]:
        return {component: self.rates(component) for component in self.patched}


@torch.no_grad()
def restored(asked: Asked) -> Restored:
    parts = list(_parts(asked))
    clean = _read(asked, parts, None)
    sigma, tried = _noise(asked, parts, clean)
    corrupted = _read(asked, parts, sigma)
    why = list(asked.left_out)
    for number in range(len(why)):
        if not why[number] and float(clean[number] - corrupted[number]) < asked.guard:
            why[number] = GUARDED
    if all(why):
        fall = float((clean - corrupted).nanmean())
        more = (
            "a larger sigma=, sigma=None to look for one"
            if asked.corruption == "noise"
            else "other images"
        )
        raise ValueError(
            f"the corruption lowers the probability of the answer by {fall:.3f} on average and nowhere by "
            "guard="
            f"{asked.guard:g}: there is nothing to recover. Give {more}, or a smaller guard."
        )
    found = Restored(clean, corrupted, why, sigma, tried)
    layers = next(iter(asked.model.stacks.values())).size
    shape = (len(why), len(GROUPS), layers)
    found.patched = {one: torch.full(shape, torch.nan) for one in asked.components}
    found.sizes = torch.full(shape[:2], torch.nan)
    for number, part in enumerate(parts):
        if any(not why[place] for place in part.numbers):
            _restore(asked, part, number, found)
    return found


def _parts(asked: Asked) -> Iterator[Batch]:
    """Batches of the records that can be traced, under their numbers in the task."""
    numbers = [number for number, why in enumerate(asked.left_out) if not why]
    chosen = replace(asked.task, records=tuple(asked.task[number] for number in numbers))
    for part in batches(asked.model, chosen, "fcct", asked.batch):
        yield replace(part, numbers=tuple(numbers[number] for number in part.numbers))


def _metric(asked: Asked, part: Batch) -> Readout:
    return answers_metric(asked.model, part.prompt, part.records, "probability", asked.first)


def _corrupted(asked: Asked, part: Batch, sigma: float | None) -> Prompt:
    if asked.corruption == "noise":
        assert sigma is not None
        return noised(part.prompt, sigma, asked.seed, part.numbers)
    other = replace(asked.task, records=part.records).encode(asked.model, counterfactual=True)
    if other.mask.shape != part.prompt.mask.shape or not torch.equal(other.mask, part.prompt.mask):
        raise ValueError(
            f"records {list(part.numbers)[:4]} have other numbers of tokens with their counterfactuals: "
            "images of "
            "other sizes, or other words. Positions can only be compared in prompts of equal length."
        )
    return other


def _read(asked: Asked, parts: Sequence[Batch], sigma: float | None) -> Tensor:
    """P of every record: of the clean run, where neither noise nor another image is asked for."""
    found = torch.full((len(asked.left_out),), torch.nan)
    for part in parts:
        plain = sigma is None
        prompt = part.prompt if plain else _corrupted(asked, part, sigma)
        found[list(part.numbers)] = _metric(asked, part)(asked.model.logits(prompt), prompt).cpu()
    return found


def _noise(
    asked: Asked, parts: Sequence[Batch], clean: Tensor
) -> tuple[float, pandas.DataFrame | None]:
    """The size of the noise: as given, or the smallest that halves the mean probability.

    Where none does (a yes is often said of noise, too), the smallest with most of the fall there is.
    """
    if asked.corruption == "image" or asked.sigma is not None:
        return (asked.sigma or 0.0) if asked.corruption == "noise" else 0.0, None
    rows: list[dict[str, Any]] = []
    for sigma in SIGMAS:
        corrupted = float(_read(asked, parts, sigma).nanmean())
        rows.append({"sigma": sigma, "clean": float(clean.nanmean()), "corrupted": corrupted})
        if corrupted < HALF * float(clean.nanmean()):
            return sigma, pandas.DataFrame(rows)
    table: Any = pandas.DataFrame(rows)
    falls = table["clean"] - table["corrupted"]
    return float(table["sigma"][falls >= MOST * falls.max()].iloc[0]), table


def _restore(asked: Asked, part: Batch, number: int, found: Restored) -> None:
    """Every component, layer and group of one batch; rows that are left out change nothing."""
    masks = _masks(asked, part, found.why)
    corrupted = _corrupted(asked, part, found.sigma)
    trace = asked.model.trace(part.prompt, *asked.components)
    there = torch.stack([mask.any(1) for mask in masks.values()], 1)  # [row, group]
    rows = list(part.numbers)
    sizes = torch.stack([mask.sum(1) for mask in masks.values()], 1).float()
    found.sizes[rows] = sizes.masked_fill(~there.any(1, keepdim=True), torch.nan)
    for component in asked.components:
        save = None if asked.save is None else f"{asked.save}/{number}-{component}"
        grid = asked.model.sweep(
            corrupted, component, trace, ("layer", "span"), _metric(asked, part), spans=masks,
            budget=asked.budget, save=save,
        )  # fmt: skip
        own = (grid.effect.cpu() + found.corrupted[rows][:, None, None]).transpose(1, 2)
        found.patched[component][rows] = own.masked_fill(~there[:, :, None], torch.nan)


def _masks(asked: Asked, part: Batch, why: Sequence[str]) -> dict[str, Tensor]:
    """[row, position] by group; empty in rows that are left out."""
    masks = {name: torch.zeros_like(part.prompt.mask).cpu() for name in GROUPS}
    for row, (record, place) in enumerate(zip(part.records, part.numbers, strict=True)):
        if why[place]:
            continue
        check_among_text(part.prompt, row)
        seen = patches_over(part.prompt, row, boxes(record))
        if not bool(seen.any()):
            raise ValueError(
                f"record {place}: no image token shows any of the boxes {boxes(record)}."
            )
        word = part.prompt.where(str(asked.word_of(record)))[row].cpu()
        for name, mask in groups(part.prompt, row, seen, word).items():
            masks[name][row] = mask
    return masks
