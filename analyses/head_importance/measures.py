"""One function for each measure: it fills what it is called by, or refuses with the reason."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from analyses.head_importance.asked import Asked
from interp.batches import Batch
from interp.direct import DirectEffects, direct_effects
from interp.importance import by_mask, per_layer, token_abs, vision_divergence
from interp.readouts import Readout
from interp.sites import At

COMMON = 8  # heads of a layer for each one that T-VHD counts: 4 of the paper's 32


def zero(asked: Asked) -> None:
    """z of the head is 0."""
    asked.records["zero"] = asked.each(lambda part, metric: drop(asked, part, metric, "zero"))


def mean(asked: Asked) -> None:
    """z of the head is its mean over the reference: at each position, or over all positions and lengths."""
    known: dict[int | None, dict[int, Tensor] | None] = {}

    def moved(part: Batch, metric: Readout) -> Tensor | None:
        length = part.prompt.length if asked.settings.per_position else None
        if length not in known:
            known[length] = _mean_z(asked, length)
        means = known[length]
        if means is None:
            return None

        def put(value: Tensor, at: At) -> Tensor:
            return means[at.layer].expand_as(value).contiguous()

        return drop(asked, part, metric, put)

    asked.records["mean"] = asked.each(moved)


def resample(asked: Asked) -> None:
    """z of the head is that of another record of the same length, drawn once."""
    chance = random.Random(asked.settings.seed)

    def moved(part: Batch, metric: Readout) -> Tensor | None:
        known = asked.references.get(part.prompt.length, [])
        others = [[one for name, one in known if name != number] for number in part.numbers]
        if not all(others):
            return None
        return drop(asked, part, metric, asked.z_of([chance.choice(own) for own in others]))

    asked.records["resample"] = asked.each(moved)


def drop(asked: Asked, part: Batch, metric: Readout, take: Any) -> Tensor:
    """By how much the metric falls when a head's z is replaced: [batch, layer, head]."""
    grid = asked.model.sweep(
        part.prompt, "z", take=take, over=("layer", "head"), metric=metric, stack=asked.stack.name,
        layers=asked.layers, budget=asked.settings.budget,
    )  # fmt: skip
    return -grid.effect


def _mean_z(asked: Asked, length: int | None) -> dict[int, Tensor] | None:
    """Means of z over records of one length, by position, or over all positions of all; None if of one."""
    sums: dict[int, Tensor] = {}
    rows = values = 0
    for one in [length] if length else list(asked.references):
        records = [record for _, record in asked.references.get(one, [])]
        for start in range(0, len(records), asked.settings.batch):
            found = asked.z_of(records[start : start + asked.settings.batch])
            for layer, z in found.items():
                own = z.sum(0) if length else z.sum((0, 1))
                sums[layer] = sums[layer] + own if layer in sums else own
            count, positions = next(iter(found.values())).shape[:2]
            rows, values = rows + count, values + count * (1 if length else positions)
    alone = rows < 2 and length is not None and asked.settings.reference is None
    return None if alone or not rows else {layer: own / values for layer, own in sums.items()}


def gradient(asked: Asked) -> None:
    """The code of Michel et al.: one absolute value a token."""
    _by_gradient(asked, "gradient", token_abs)


def mask(asked: Asked) -> None:
    """Their formula: one absolute value an example, of the gradient by the head's gate."""
    _by_gradient(asked, "mask", by_mask)


def _by_gradient(asked: Asked, name: str, score: Callable[[Sequence[Tensor]], Tensor]) -> None:
    scores = score(asked.slopes)
    asked.columns[name] = per_layer(scores) if asked.settings.normalise else scores


def direct(asked: Asked) -> None:
    """What the head adds to the metric by itself, past all later layers."""
    if asked.settings.metric not in ("logit_diff", "logit"):
        raise ValueError(
            f"{asked.settings.metric} is no sum of logits, so that parts do not add up to it; ask with "
            "metric='logit_diff' or 'logit'."
        )
    found: list[DirectEffects] = []

    def taken(part: Batch, metric: Readout) -> Tensor:
        own = direct_effects(asked.model, part.prompt, metric, stack=asked.stack.name)
        found.append(own)
        return own.heads[:, [own.layers.index(layer) for layer in asked.layers]]

    asked.records["direct"] = asked.each(taken)
    whole = DirectEffects.joined(found)
    asked.gap = float((whole.sum - whole.metric).abs().max())
    asked.tables["direct"] = whole.table(by_head=False)
    asked.notes += whole.notes


def vhd(asked: Asked) -> None:
    """How far the head's output at the last position is moved when the image is missing."""
    if asked.stack.name != "text":
        raise ValueError(
            f"an image is left out of a text, and the {asked.stack.name} stack reads none; ask it of the "
            "text stack of a vision-language model."
        )
    top = asked.settings.top or max(1, asked.stack.heads // COMMON)

    def moved(part: Batch, metric: Readout) -> Tensor:
        own = vision_divergence(asked.model, part.prompt)
        token = own.per_token(top)[:, None, None].expand_as(own.vhd)
        return torch.stack([own.vhd, own.kept, token], 1)

    found = asked.each(moved)
    asked.records["vhd"], asked.records["vhd_kept"] = found[:, 0], found[:, 1]
    asked.t_vhd, asked.top = found[:, 2, 0, 0], top


MEASURES: dict[str, Callable[[Asked], None]] = {
    one.__name__: one for one in (zero, mean, resample, gradient, mask, direct, vhd)
}
ABLATIONS = ("zero", "mean", "resample")
SIGNED = (*ABLATIONS, "direct")
