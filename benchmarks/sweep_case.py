"""One way at one grid, in a process of its own. Prints one line of JSON.

python -m benchmarks.sweep_case '{"way": "interp", "grid": "resid_pre", "family": "gpt2", "length": 16}'
"""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from benchmarks.measure import cpu_seconds, peak_megabytes
from benchmarks.sweep_ways import SWEEP_WAYS
from benchmarks.sweep_work import Cell, Sweeper, Work

PRODUCT = (1024, 768, 3072)


@dataclass(frozen=True)
class SweepCase:
    way: str
    grid: str
    family: str
    length: int
    pairs: int = 1
    what: str = "time"  # or "memory" of a sweep, or "first": the first sweeps of a model
    again: int = 1  # timed runs
    budget: float = 1e9  # of interp's sweep

    @property
    def work(self) -> Work:
        return Work(self.grid, self.family, self.length, self.pairs)


@torch.no_grad()
def measure(case: SweepCase) -> tuple[dict, Tensor | None]:
    """What was measured, and the values [pair, cell] where there are some."""
    way = SWEEP_WAYS[case.way]
    prepare = partial(way.prepare, budget=case.budget) if way.own else way.prepare
    sweeper = prepare(case.work)
    record = {**asdict(case), "rate": product_rate()}
    if case.what == "first":
        return record | _first(sweeper, case.work), None
    cells = way.sample(case.work)
    _run(sweeper, case.work.warm_up(), cells[:3])
    if case.what == "memory":
        return record | _memory(sweeper, case.work), None
    runs = [_run(sweeper, case.work, cells) for _ in range(case.again)]
    times = {
        "seconds": [seconds for seconds, _ in runs],
        "cells": len(cells),
        "rate_after": product_rate(),
    }
    return record | times, runs[0][1].clone()


def _run(sweeper: Sweeper, work: Work, cells: Sequence[Cell]) -> tuple[float, Tensor]:
    """CPU seconds of the whole grid: what is done once, and the cells, scaled where these are a sample."""
    prompts = work.prompts
    once, clean = cpu_seconds(lambda: sweeper.first(work, prompts))
    cells = [cell for cell in cells if cell[1] < work.columns]
    seconds, values = cpu_seconds(lambda: sweeper.cells(work, prompts, clean, cells))
    return once + seconds * len(work.cells) / values.shape[1], values


def _first(sweeper: Sweeper, work: Work) -> dict:
    """The first sweep of a process, one of another length, and the first again."""
    prompts = work.prompts
    sweeper.first(work, prompts)  # the model has run; no sweep has
    calls = [work, work.warm_up(), work]
    return {"seconds": [_run(sweeper, one, one.cells)[0] for one in calls]}


def _memory(sweeper: Sweeper, work: Work) -> dict:
    prompts = work.prompts

    def sweep() -> Tensor:
        return sweeper.cells(work, prompts, sweeper.first(work, prompts), work.cells)

    try:
        megabytes, _ = peak_megabytes(sweep)
    except ValueError as problem:
        if not re.search(r"budget", str(problem)):
            raise
        return {"refused": str(problem)}
    return {"megabytes": megabytes}


def product_rate() -> float:
    """Operations a second of a product in float32 as layers have them, the median of some."""
    rows, inner, columns = PRODUCT
    given = torch.randn(rows, inner), torch.randn(inner, columns), torch.randn(columns)
    times = [cpu_seconds(lambda: torch.addmm(given[2], given[0], given[1]))[0] for _ in range(12)]
    return 2.0 * rows * inner * columns / median(times[2:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("case", help="a SweepCase as JSON")
    parser.add_argument("--values", help="file for the grid itself")
    options = parser.parse_args()
    torch.set_num_threads(1)
    record, values = measure(SweepCase(**json.loads(options.case)))
    if options.values and values is not None:
        torch.save(values, options.values)
    print(json.dumps(record))


if __name__ == "__main__":
    main()
