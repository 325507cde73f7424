"""Is a circuit all that matters, and is all of it needed? (Wang et al. 2022, arXiv 2211.00593)

`runs` are `NodeRuns` or `EdgeRuns`: C is the circuit, M the whole model, F the metric's mean with
everything outside replaced.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import pandas
import torch
from torch import Tensor

from interp.circuits.building import greedy, pruned, top
from interp.circuits.curves import SIZES, Areas, areas
from interp.circuits.graph import Part
from interp.circuits.record import Circuit, part_of
from interp.statistics import standard_error


class Runs(Protocol):
    """What can run a circuit."""

    parts: frozenset[Part]

    def values(self, kept: Any) -> Tensor: ...
    def mean(self, kept: Any) -> float: ...


@dataclass(frozen=True)
class Faithfulness:
    """F of the circuit, of the whole model, and with every part replaced."""

    circuit: float
    whole: float
    empty: float
    each: float  # the mean of each record's own share, which one small denominator can rule
    error: float = math.nan  # the standard error of `share` over records

    @property
    def share(self) -> float:
        """(F(C) - F(nothing)) / (F(M) - F(nothing)): 0 as if nothing was kept, 1 as the model."""
        return (self.circuit - self.empty) / (self.whole - self.empty)

    @property
    def gap(self) -> float:
        """|F(M) - F(C)|, in the metric's units."""
        return abs(self.whole - self.circuit)


def faithfulness(runs: Runs, circuit: Circuit | Iterable[Any]) -> Faithfulness:
    """How much of the way from nothing kept to the whole model a circuit does by itself."""
    whole, empty, own = (runs.values(kept) for kept in (runs.parts, (), circuit))
    if math.isclose(float(whole.mean()), float(empty.mean()), rel_tol=1e-6, abs_tol=1e-9):
        raise ValueError(
            "replacing every part does not change the metric, so that no share of it can be told: what is "
            "put there is what was there (a mean over one row of its length and group, a counterfactual that "
            "does not differ), or the MLPs do it all (NodeRuns(..., mlps='parts') counts them)."
        )
    way, got = whole - empty, own - empty
    rest = got - got.mean() / way.mean() * way
    error = standard_error(rest) / way.mean().abs()
    return Faithfulness(float(own.mean()), float(whole.mean()), float(empty.mean()),
                        float((got / way)[way != 0].mean()), float(error))  # fmt: skip


@dataclass(frozen=True)
class _Sets:
    """C without K, and M without K, with the positions of C's nodes kept."""

    runs: Runs
    circuit: Circuit

    def row(self, kind: str, name: str, less: Iterable[Part]) -> dict[str, Any]:
        less = frozenset(less)
        own = self.runs.mean(self.circuit.minus(less))
        whole = self.runs.mean(self.runs.parts - less)
        listed = ", ".join(str(one) for one in sorted(less, key=lambda one: one.order))
        return {"kind": kind, "name": name, "without": listed, "count": len(less),
                "circuit": own, "model": whole, "gap": abs(own - whole)}  # fmt: skip


def completeness(
    runs: Runs,
    circuit: Circuit,
    classes: Mapping[str, Iterable[Any]] | None = None,
    draws: int = 10,
    greedy_steps: int = 0,
    tries: int = 10,
    seed: int = 0,
) -> pandas.DataFrame:
    """|F(C without K) - F(M without K)| for subsets K of C: a row for each.

    K is nothing, each of `classes`, `draws` random halves of C, and what a greedy search of
    `greedy_steps` finds that makes the gap large, trying `tries` random parts at each step.
    """
    sets, parts = (
        _Sets(runs, circuit),
        sorted(circuit.parts & runs.parts, key=lambda one: one.order),
    )
    if not parts:
        raise ValueError("the circuit holds none of the parts that these runs replace.")
    rows = [sets.row("none", "nothing", ())]
    for name, given in (classes or {}).items():
        rows.append(sets.row("class", name, _own(given, circuit, name)))
    chance = torch.Generator().manual_seed(seed)
    for number in range(draws):
        some = [one for one in parts if float(torch.rand((), generator=chance)) < 0.5]
        rows.append(sets.row("random", str(number), some))
    less: list[Part] = []
    for step in range(min(greedy_steps, len(parts))):
        left = [one for one in parts if one not in less]
        picked = torch.randperm(len(left), generator=chance)[:tries].tolist()
        found = [sets.row("greedy", str(step), [*less, left[at]]) for at in picked]
        best = max(range(len(found)), key=lambda at: found[at]["gap"])
        less.append(left[picked[best]])
        rows.append(found[best])
    return pandas.DataFrame(rows)


def minimality(
    runs: Runs,
    circuit: Circuit,
    without: Mapping[Any, Iterable[Any]] | None = None,
    search: int = 0,
) -> pandas.DataFrame:
    """|F(C without K and v) - F(C without K)| for each part v of C, with a K that shows what v is for.

    `without` gives K for parts that need one (a backup shows once what it backs up is gone); for others
    a greedy search of `search` steps adds to K whatever makes the change larger. `share` is of F(M).
    """
    given = {part_of(one): _own(k, circuit, str(one)) for one, k in (without or {}).items()}
    if lost := sorted(str(one) for one in given.keys() - circuit.parts):
        raise LookupError(f"without= names {', '.join(lost)}, no part of the circuit.")
    whole = runs.mean(runs.parts)
    rows = []
    for one in circuit:
        if one not in runs.parts:
            continue
        less = given.get(one, frozenset()) - {one}
        change = _change(runs, circuit, one, less)
        if one not in given:
            less, change = _searched(runs, circuit, one, search, less, change)
        listed = ", ".join(str(each) for each in sorted(less, key=lambda each: each.order))
        rows.append({"part": str(one), "without": listed, "change": change,
                     "share": abs(change) / abs(whole) if whole else math.nan})  # fmt: skip
    return pandas.DataFrame(rows)


def _change(runs: Runs, circuit: Circuit, one: Part, less: frozenset[Part]) -> float:
    return runs.mean(circuit.minus([*less, one])) - runs.mean(circuit.minus(less))


def _searched(
    runs: Runs, circuit: Circuit, one: Part, steps: int, less: frozenset[Part], change: float
) -> tuple[frozenset[Part], float]:
    for _ in range(steps):
        left = sorted((circuit.parts & runs.parts) - less - {one}, key=lambda each: each.order)
        found = [(abs(_change(runs, circuit, one, less | {each})), each) for each in left]
        best = max(found, key=lambda row: row[0], default=None)
        if best is None or best[0] <= abs(change):
            break
        less |= {best[1]}
        change = _change(runs, circuit, one, less)
    return less, change


@dataclass(frozen=True, eq=False)
class Curve:
    """`table` has a row for each size: `size`, `count`, `metric`, `share` (of means) and `each` (the mean
    of records' own shares). `areas` are of `share`."""

    table: pandas.DataFrame
    areas: Areas


def curve(
    runs: Runs,
    scores: Mapping[Any, float],
    sizes: Sequence[float] = SIZES,
    absolute: bool = False,
    build: str = "top",
    prune: bool = False,
) -> Curve:
    """Faithfulness of the circuits that scores make, at each size (a share of all parts).

    `build`: "top" takes the best scores, "greedy" only edges that lead to what is there; `prune` takes
    loose ends away afterwards. `count` is what is left.
    """
    makers = {"top": top, "greedy": greedy}
    if build not in makers:
        raise ValueError(f"build={build!r}: 'top' or 'greedy'.")
    scored = {part_of(one): float(score) for one, score in scores.items()}
    if set(scored) != set(runs.parts):
        missing, more = len(runs.parts - scored.keys()), len(scored.keys() - runs.parts)
        raise ValueError(
            f"scores are needed of each of the {len(runs.parts)} parts: {missing} have none, and {more} "
            "scores are of something else (of MLPs, where NodeRuns(..., mlps='parts') is not said?)."
        )
    rows = []
    for size in sizes:
        kept = makers[build](scored, round(size * len(scored)), absolute)
        kept = pruned(kept) if prune else kept
        found = faithfulness(runs, kept)
        rows.append({"size": size, "count": len(kept), "metric": found.circuit,
                     "share": found.share, "each": found.each})  # fmt: skip
    table = pandas.DataFrame(rows)
    return Curve(table, areas(table["share"].tolist(), sizes))


def _own(given: Iterable[Any], circuit: Circuit, name: str) -> frozenset[Part]:
    parts = frozenset(part_of(one) for one in given)
    if lost := sorted(str(one) for one in parts - circuit.parts):
        raise LookupError(f"{name} names {', '.join(lost)}, no part of the circuit.")
    return parts
