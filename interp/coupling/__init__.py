"""Peaks of the curves of a response, and what falls together with them (arXiv 2510.13554)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.registry import unknown

RULES = ("maxima", "top")

Flags = Sequence[np.ndarray]  # one array a response, True at its peaks


def peaks(values: Any, rule: str = "maxima", share: float = 0.2) -> np.ndarray:
    """True at the peaks of one series; a value that is NaN is no peak.

    "maxima": greater than both neighbours, so that an end is none, nor what stands beside a NaN. Of a
    series without any order they are a third.
    "top": the `share` of the defined values that is largest, the earlier of equals first.
    """
    curve = series(values)
    if rule == "top":
        defined = int((~np.isnan(curve)).sum())
        return largest(curve, portion(defined, share))
    if rule != "maxima":
        raise ValueError(unknown("peak rule", rule, list(RULES)))
    found = np.zeros(len(curve), dtype=bool)
    found[1:-1] = (curve[1:-1] > curve[:-2]) & (curve[1:-1] > curve[2:])
    return found


def portion(count: int, share: float) -> int:
    """How many of `count` a share is, rounded up."""
    if not 0 < share <= 1:
        raise ValueError(f"the share {share} must lie above 0 and not above 1.")
    return int(np.ceil(share * count - 1e-9))  # 0.7 * 10 is a little more than 7


def largest(values: Any, count: int) -> np.ndarray:
    """True at the `count` largest, the earlier of equals first; NaN is never among them."""
    curve = series(values)
    order = np.argsort(-curve, kind="stable")  # NaN last
    found = np.zeros(len(curve), dtype=bool)
    found[order[:count]] = True
    return found & ~np.isnan(curve)


@dataclass(frozen=True)
class Coupling:
    """What is observed at peaks, and by chance; `low` to `high` holds 95% of the shuffles."""

    observed: float
    random: float
    low: float
    high: float
    count: int  # peaks
    tokens: int

    @property
    def lift(self) -> float:
        return (self.observed - self.random) / self.random if self.random else float("nan")

    @property
    def density(self) -> float:
        return self.count / self.tokens if self.tokens else float("nan")

    def row(self) -> dict[str, float]:
        """For a table."""
        names = ("observed", "random", "lift", "low", "high", "density", "count", "tokens")
        return {name: getattr(self, name) for name in names}

    def note(self, name: str) -> list[str]:
        """A sentence where there are no peaks, or shuffles give as much, or more."""
        if not self.count:
            return [f"{name}: no peaks in {self.tokens} tokens; longer responses would have some."]
        chance = f"what shuffles give ({self.low:.3g} to {self.high:.3g})"
        if self.observed < self.low:
            return [f"{name}: {self.observed:.3g} is less than {chance}, not more as in the paper."]
        if self.observed <= self.high:
            return [f"{name}: {self.observed:.3g} lies inside {chance}: these show no coupling."]
        return []


def entropy_coupling(
    preplans: Flags, entropies: Sequence[Any], shuffles: int = 1000, seed: int = 0
) -> Coupling:
    """Mean entropy at WAAD peaks against that of all tokens. A token without entropy (NaN) is left out."""
    return _at_peaks(preplans, entropies, shuffles, seed)


def co_occurrence(
    receivers: Flags,
    anchors: Flags,
    among: Flags | None = None,
    shuffles: int = 1000,
    seed: int = 0,
) -> Coupling:
    """Share of receiver-FAI peaks that are FAI peaks too, against the share of tokens that are.

    `among` marks the tokens that have an FAI; None: all.
    """
    return _at_peaks(receivers, _among(anchors, among), shuffles, seed)


def preplanned(
    anchors: Flags,
    preplans: Flags,
    lag: int = 1,
    among: Flags | None = None,
    shuffles: int = 1000,
    seed: int = 0,
) -> Coupling:
    """Share of FAI peaks with a WAAD peak at the same token or up to `lag` before it.

    Against the mean of shuffles: FAI peaks moved inside their response, as many as they were.
    """
    near = [upto(flags, lag) for flags in preplans]
    return _at_peaks(anchors, _among(near, among), shuffles, seed, by_shuffles=True)


def couplings(
    curves: Sequence[Mapping[str, np.ndarray]],
    found: Callable[[np.ndarray], np.ndarray] = peaks,
    lag: int = 1,
    shuffles: int = 1000,
    seed: int = 0,
) -> dict[str, Coupling]:
    """All three, of responses that have the curves waad, fai, receiver_fai and entropy, [token] each.

    `found` says where a curve has its peaks.
    """
    preplans, anchors, receivers = (
        [found(one[name]) for one in curves] for name in ("waad", "fai", "receiver_fai")
    )
    entropies, among = [one["entropy"] for one in curves], [~np.isnan(one["fai"]) for one in curves]
    return {
        "preplan": entropy_coupling(preplans, entropies, shuffles, seed),
        "receiver": co_occurrence(receivers, anchors, among, shuffles, seed),
        "anchor": preplanned(anchors, preplans, lag, among, shuffles, seed),
    }


def upto(flags: Any, lag: int) -> np.ndarray:
    """True where a flag stands, and at the `lag` tokens after it."""
    if lag < 0:
        raise ValueError(f"lag={lag}: give 0 for the same token only, or more.")
    flags = np.asarray(flags, dtype=bool)
    found = flags.copy()
    for back in range(1, min(lag, len(flags) - 1) + 1):
        found[back:] |= flags[:-back]
    return found


def _among(flags: Flags, among: Flags | None) -> list[np.ndarray]:
    among = [np.ones(len(one), dtype=bool) for one in flags] if among is None else among
    return [
        np.where(defined, np.asarray(one, dtype=float), np.nan)
        for one, defined in zip(flags, among, strict=True)
    ]


def _at_peaks(
    flags: Flags, values: Sequence[Any], shuffles: int, seed: int, by_shuffles: bool = False
) -> Coupling:
    """The mean of a value over peaks, over all tokens, and over peaks moved inside their response."""
    if shuffles < 1:
        raise ValueError(f"shuffles={shuffles}: a baseline needs at least 1.")
    chance = np.random.default_rng(seed)
    total, everything, moved = 0.0, 0.0, np.zeros(shuffles)
    count = tokens = 0
    for one, given in zip(flags, values, strict=True):
        known = ~np.isnan(series(given))
        peak, value = np.asarray(one, dtype=bool)[known], series(given)[known]
        total, everything = total + value[peak].sum(), everything + value.sum()
        moved += chance.permuted(np.tile(peak, (shuffles, 1)), axis=1) @ value
        count, tokens = count + int(peak.sum()), tokens + len(value)
    if not count:
        nan = float("nan")
        return Coupling(nan, nan if by_shuffles or not tokens else everything / tokens,
                        nan, nan, 0, tokens)  # fmt: skip
    moved = moved / count
    random = moved.mean() if by_shuffles else everything / tokens
    low, high = np.quantile(moved, [0.025, 0.975])
    return Coupling(float(total / count), float(random), float(low), float(high), count, tokens)


def series(values: Any) -> np.ndarray:
    """One axis of numbers, from a list, an array or a tensor."""
    curve = np.asarray(values, dtype=float)
    if curve.ndim != 1:
        raise ValueError(f"one series of numbers was expected, not {curve.shape}.")
    return curve
