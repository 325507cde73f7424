"""How much of what a model does its circuits do, over their size; and what two of them share by chance."""

import math
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

from interp.statistics import jaccard

# Shares of all edges (or nodes) at which circuits are judged (Mueller et al. 2025, arXiv 2504.13151).
SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


@dataclass(frozen=True)
class Areas:
    """`cpr`: area under f, which parts that help raise (above 1 where they help more than the model
    as it is). `cmd`: area between f and 1, which wants those that hurt as well; 0 is best."""

    cpr: float
    cmd: float


def areas(faithfulness: Sequence[float], sizes: Sequence[float] = SIZES) -> Areas:
    """By trapezoids over the linear axis of sizes. With the ten sizes, f = 1 has a cpr of 0.999."""
    values = [float(value) for value in faithfulness]
    if len(values) != len(sizes) or len(sizes) < 2:
        raise ValueError(
            f"areas takes f at each of at least two sizes, not {len(values)} at {len(sizes)}."
        )
    if list(sizes) != sorted(set(sizes)) or not 0 <= sizes[0] <= sizes[-1] <= 1:
        raise ValueError(
            f"sizes are shares from 0 to 1, each larger than the last, not {list(sizes)}."
        )
    if any(math.isnan(value) for value in values):
        raise ValueError("f is not a number at some size, so there is no area.")
    return Areas(_area(values, sizes), _area([abs(1 - value) for value in values], sizes))


def _area(values: Sequence[float], sizes: Sequence[float]) -> float:
    steps = zip(values, values[1:], sizes, sizes[1:], strict=False)
    return sum((right - left) * (one + other) / 2 for one, other, left, right in steps)


@dataclass(frozen=True)
class Overlap:
    """What two sets share, beside what two random sets of their sizes would."""

    shared: int
    jaccard: float
    expected: float
    most: int  # the 95 % quantile of what random sets share
    p: float  # the chance that random sets share as much


def overlap(first: Collection[Hashable], second: Collection[Hashable], among: int) -> Overlap:
    """Two sets out of `among` parts; the chances are hypergeometric."""
    from scipy.stats import hypergeom

    one, other = set(first), set(second)
    if len(one | other) > among:
        raise ValueError(
            f"the sets hold {len(one | other)} parts together, of {among} that there are."
        )
    chance = hypergeom(among, len(one), len(other))
    shared = len(one & other)
    return Overlap(shared, jaccard(one, other), float(chance.mean()), int(chance.ppf(0.95)),
                   float(chance.sf(shared - 1)))  # fmt: skip
