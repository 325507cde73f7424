"""How much each part of a sum counts for a number behind a norm, the norm's scale held at the run's own.

A norm is x -> x / spread(x) times weights, of x less its mean where it centres. With the spread held,
the number is linear in x. That line is found without knowing the norm: its slope differs from the
gradient by a multiple of x alone (d spread / dx is along x), and which multiple follows from what the
number is at x and at 0.
"""

import torch
from torch import Tensor

CLOSE = 1e-4  # how far from linear a map may be, by the size of what it gives


class NotLinear(Exception):
    """A map is not linear, even with the scale of a norm held."""


def close(dtype: torch.dtype) -> float:
    """What rounding may do in a model of this precision."""
    return max(CLOSE, 32 * torch.finfo(dtype).eps)


def frozen_direction(
    slope: Tensor, at: Tensor, gain: Tensor, trial: Tensor, trial_gain: Tensor, tolerance: float
) -> Tensor:
    """The direction d [batch, d_model] for which d . x is the number less that at 0.

    `slope` is the gradient at `at`, `gain` what the number is there less what it is at 0. `trial` is
    another place of the same spread, with its own gain: what a wrong direction cannot meet.
    """
    found = []
    for x in (at, at - at.mean(-1, keepdim=True)):  # the norm leaves the mean, or takes it off
        size = (x * x).sum(-1, keepdim=True)
        missing = gain[:, None] - (slope * x).sum(-1, keepdim=True)
        step = torch.where(size > 0, missing / size.clamp_min(torch.finfo(size.dtype).tiny), 0.0)
        direction = slope + step * x
        wrong = (direction * trial).sum(-1) - trial_gain
        found.append((float(wrong.abs().sum()), wrong, direction))
    _, wrong, direction = min(found, key=lambda one: one[0])
    if not bool(
        (wrong.abs() <= tolerance * typical(direction, trial, gain)).all()
    ):  # NaN is no answer
        raise NotLinear
    return direction


def typical(direction: Tensor, at: Tensor, gain: Tensor) -> Tensor:
    """The size that direction . at would have by chance, or has."""
    by_chance = direction.norm(dim=-1) * at.norm(dim=-1) / at.shape[-1] ** 0.5
    return by_chance + gain.abs()


def elsewhere(value: Tensor) -> Tensor:
    """Another vector of the same mean and the same spread."""
    return value.roll(1, -1)
