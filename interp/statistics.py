"""Numbers about numbers: chances, distances and overlaps that analyses report."""

import math
from collections.abc import Collection, Hashable

import torch
from torch import Tensor

NORMAL = 1.96  # standard errors from a mean to the end of its 95 % interval
# The hard-concrete gate of Voita et al. 2019: a sigmoid at this temperature, stretched to these ends.
TEMPERATURE, ENDS = 0.33, (-0.1, 1.1)


def standard_error(values: Tensor) -> Tensor:
    """Of the mean over the first axis; not a number where there is one value only."""
    if len(values) < 2:
        return torch.full_like(values.double().mean(0), float("nan"))
    return values.std(0) / len(values) ** 0.5


def wilson(right: int, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share: it has a width at 0 and 1, too."""
    share, square = right / count, NORMAL**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = (share * (1 - share) / count + square / (4 * count**2)) ** 0.5
    half *= NORMAL / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def paired_shares(more: int, less: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a change of a share: of `count` pairs, `more` became true and `less` false.

    Agresti and Min 2005: half a pair is added to each side, so that no change has a width, too.
    """
    change, both = (more - less) / (count + 2), (more + less + 1) / (count + 2)
    half = NORMAL * (max(0.0, both - change**2) / (count + 2)) ** 0.5
    return max(-1.0, change - half), min(1.0, change + half)


def pass_at_k(count: int, right: int, k: int) -> float:
    """The chance that one of k answers is right, when `right` of `count` drawn ones were; unbiased."""
    if not 0 <= right <= count or not 1 <= k <= count:
        raise ValueError(
            f"pass_at_k(count={count}, right={right}, k={k}): of `count` answers `right` are right, "
            "and k of them are taken: 0 <= right <= count and 1 <= k <= count."
        )
    return 1.0 - math.comb(count - right, k) / math.comb(count, k)


def jensen_shannon(first: Tensor, second: Tensor) -> Tensor:
    """Divergence of distributions along the last axis, in nats: 0 if equal, ln 2 if apart."""
    for given in (first, second):
        whole = given.sum(-1)
        if bool((given < 0).any()) or not torch.allclose(whole, torch.ones_like(whole), atol=1e-4):
            raise ValueError("jensen_shannon takes distributions: no number below 0, a sum of 1.")
    middle = (first + second) / 2
    apart = (
        torch.special.entr(middle) - (torch.special.entr(first) + torch.special.entr(second)) / 2
    )
    return apart.sum(-1).clamp_min(0)


def jaccard(first: Collection[Hashable], second: Collection[Hashable]) -> float:
    """How much of two sets' union they share: 1 if equal (two empty ones too), 0 if disjoint."""
    one, other = set(first), set(second)
    return len(one & other) / len(one | other) if one | other else 1.0


def open_probability(
    logit: Tensor, temperature: float = TEMPERATURE, ends: tuple[float, float] = ENDS
) -> Tensor:
    """The chance that a hard-concrete gate is not shut: what its L0 penalty sums."""
    low, high = ends
    if not low < 0 < high or temperature <= 0:
        raise ValueError(
            f"temperature={temperature}, ends={ends}: the temperature is above 0, and the gate is "
            "stretched to both sides of 0."
        )
    return torch.sigmoid(logit - temperature * math.log(-low / high))
