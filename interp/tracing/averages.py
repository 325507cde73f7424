"""Means over records with their intervals, and shares as ratios of means."""

from typing import Any

import torch
from torch import Tensor

from interp.statistics import NORMAL, standard_error

NOTHING = 1e-6  # a way this short, against what it is measured on, is none


def averaged(effect: Tensor, way: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
    """Over the first axis of `effect` [record, ...]; NaN where a record has no such place.

    `effect` is a mean; `share` the mean effect over the mean of `way` [record], how far the effect
    could go, and `mean_of_ratios` the mean of each record's own share. With 95 % intervals, `_low`
    and `_high`, and the number of `records`. `scale` says what counts as no way at all.
    """
    effect = effect.double()
    way = way.double().reshape(-1, *[1] * (effect.ndim - 1)).expand_as(effect)
    known = ~effect.isnan()
    count = known.sum(0)
    value, own = effect.nan_to_num(), way.where(known, 0.0)
    mean, length = value.sum(0) / count, own.sum(0) / count
    length = length.where(length.abs() > NOTHING * scale, torch.nan)
    share = mean / length
    found = {"effect": mean} | _ends("effect", mean, _error(value - mean, known))
    found |= {"share": share}
    found |= _ends("share", share, _error(value - share * own, known) / length.abs())
    ratios = effect / way.where(way.abs() > NOTHING * scale, torch.nan)
    return found | {"mean_of_ratios": ratios.nanmean(0), "records": count}


def mean_with_interval(values: Any) -> tuple[float, float, float]:
    """A mean of numbers and the ends of its 95 % interval; of one number there is none."""
    values = torch.as_tensor(values, dtype=torch.float64)
    mean = float(values.mean()) if len(values) else float("nan")
    error = float(standard_error(values))
    return mean, mean - NORMAL * error, mean + NORMAL * error


def _error(off: Tensor, known: Tensor) -> Tensor:
    """The standard error of a mean over the known ones, from how far each record is off it."""
    count = known.sum(0)
    spread = (off.square() * known).sum(0) / (count - 1).clamp_min(1)
    return (spread / count).sqrt().where(count > 1, torch.nan)


def _ends(name: str, mean: Tensor, error: Tensor) -> dict[str, Tensor]:
    return {f"{name}_low": mean - NORMAL * error, f"{name}_high": mean + NORMAL * error}
