"""Scores of a task's records: a row for each, and rates over them that can be drawn again."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy

if TYPE_CHECKING:
    import pandas

DRAWS, LEVEL = 10_000, 95.0  # of the bootstrap, and per cent that its intervals hold
_ROOM = 4_000_000  # counts drawn at once


@dataclass(frozen=True, eq=False)
class Rate:
    """The sum of `top` over the sum of `bottom`, over records: a mean, where each counts 1 below.

    `each` is what a record has of it by itself, for counting those that got better; `better` says
    which way that is ("higher", "lower", or "" where neither is).
    """

    top: numpy.ndarray
    bottom: numpy.ndarray
    better: str = "higher"
    each: numpy.ndarray | None = None

    @classmethod
    def mean(cls, values: Any, better: str = "higher") -> "Rate":
        top = numpy.asarray(values, dtype=float)
        return cls(top, numpy.ones_like(top), better)

    @classmethod
    def of(cls, top: Any, bottom: Any, better: str = "higher", each: Any = None) -> "Rate":
        own = None if each is None else numpy.asarray(each, dtype=float)
        return cls(numpy.asarray(top, dtype=float), numpy.asarray(bottom, dtype=float), better, own)

    @property
    def value(self) -> float:
        return float(quotient(self.top.sum(), self.bottom.sum()))

    @property
    def by_record(self) -> numpy.ndarray:
        return quotient(self.top, self.bottom) if self.each is None else self.each

    def take(self, rows: Any) -> "Rate":
        each = None if self.each is None else self.each[rows]
        return replace(self, top=self.top[rows], bottom=self.bottom[rows], each=each)


@dataclass(frozen=True, eq=False)
class Scored:
    """`table` has a row a record, `rates` what is told of all of them, `protocol` how they were made.

    `headline` names the rate that stands for the measure where one number must.
    """

    measure: str
    headline: str
    table: "pandas.DataFrame"
    rates: Mapping[str, Rate]
    protocol: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = ", ".join(f"{name} {value:.3f}" for name, value in self.values.items())
        return f"Scored({self.measure} of {len(self)} records: {told})"

    def __len__(self) -> int:
        return len(self.table)

    @property
    def value(self) -> float:
        return self.rates[self.headline].value

    @property
    def values(self) -> dict[str, float]:
        return {name: rate.value for name, rate in self.rates.items()}

    def interval(
        self, name: str | None = None, draws: int = DRAWS, seed: int = 0
    ) -> tuple[float, float]:
        """The 95 % percentile interval of a rate, by drawing records anew."""
        rate = self.rates[name or self.headline]
        sums = numpy.stack([rate.top, rate.bottom], 1)
        drawn = resampled(sums, draws, seed)
        return ends(quotient(drawn[:, 0], drawn[:, 1]))

    def by(self, groups: Sequence[Any]) -> dict[Any, dict[str, float]]:
        """The values in each group of records: `scored.by([record.notes["category"] for ...])`."""
        if len(groups) != len(self):
            raise ValueError(f"{len(groups)} groups for {len(self)} records: name one for each.")
        found = {}
        for group in dict.fromkeys(groups):
            rows = numpy.array([one == group for one in groups])
            found[group] = {name: rate.take(rows).value for name, rate in self.rates.items()}
        return found


def quotient(top: Any, bottom: Any) -> Any:
    """NaN where there is nothing to divide by."""
    top, bottom = numpy.asarray(top, dtype=float), numpy.asarray(bottom, dtype=float)
    safe = numpy.where(bottom == 0, numpy.nan, bottom)
    return top / safe


def resampled(sums: numpy.ndarray, draws: int = DRAWS, seed: int = 0) -> numpy.ndarray:
    """Sums over records drawn with replacement: [record, column] -> [draw, column].

    Columns share their draws, so that differences between them are paired.
    """
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 1:
        raise ValueError(f"draws={draws!r}: how often records are drawn anew, at least 1.")
    parts = [count @ sums for count in _counts(len(sums), draws, seed)]
    return numpy.concatenate(parts) if parts else numpy.empty((0, sums.shape[1]))


def _counts(records: int, draws: int, seed: int) -> Iterator[numpy.ndarray]:
    """How often each record is drawn: [draw, record], some draws at a time."""
    chance = numpy.random.default_rng(seed)
    step = max(1, _ROOM // max(records, 1))
    shares = numpy.full(records, 1 / records)
    for start in range(0, draws, step):
        yield chance.multinomial(records, shares, size=min(step, draws - start))


def ends(drawn: numpy.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The ends of the interval that holds `level` per cent of what was drawn; NaN of nothing."""
    known = drawn[~numpy.isnan(drawn)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = numpy.percentile(known, [(100 - level) / 2, (100 + level) / 2])
    return float(low), float(high)
