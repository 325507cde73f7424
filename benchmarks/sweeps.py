"""Sweeps (patching and ablation, every cell exact) beside TransformerLens, nnsight and hooks.

python -m benchmarks.sweeps                    everything, about half an hour
python -m benchmarks.sweeps --quick            prompts of 16 tokens, about two minutes
python -m benchmarks.sweeps --only heads-32    some rows alone
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.children import child
from benchmarks.goals import Goal
from benchmarks.statistics import RESULTS, versions
from benchmarks.sweep_plan import SweepEntry, full, names, quick
from benchmarks.sweep_rows import SweepGathering, SweepRow
from benchmarks.sweep_table import other_lines, rate_of, sweep_goals, sweep_table
from benchmarks.sweep_ways import SWEEP_WAYS
from benchmarks.table import goal_table

ATTRIBUTION = "attribution"  # the module that measures gradient estimates, and its name for --only
MEANING = """
CPU s: CPU seconds of the process, one thread, the median: for patching, the clean run and the grid; for
ablation, the grid. interp runs every cell; its time is that of the whole `model.sweep`. The others cost the
same at every cell, so "cells run" of them are timed and scaled to the grid. Each process has run a small
grid of another length first; that is also when interp tries, once for a model, whether it can be
replayed. Floor: the operations of the matrix products that cannot be left out (for interp: layers and
positions that can differ, the last layer only where it is read; for the others: a forward for each cell),
divided by the rate of one such product, measured in the same run. Differs: the largest absolute
difference from interp's values over the cells run. No cell is left out: clean and corrupted prompts
differ at every position. Only ratios within one run carry over to other machines."""


def available(plan: Sequence[SweepEntry]) -> list[SweepEntry]:
    """The plan without the peers that are not installed."""
    for way in dict.fromkeys(entry.case.way for entry in plan):
        if SWEEP_WAYS[way].missing:
            print(
                f"Skipped: {SWEEP_WAYS[way].title}. For this row: pip install {SWEEP_WAYS[way].install}"
            )
    return [entry for entry in plan if not SWEEP_WAYS[entry.case.way].missing]


def report(rows: Sequence[SweepRow], found: Sequence[Goal], loads: Sequence[float]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in versions().items())
    load = " to ".join(f"{one:.1f}" for one in loads)
    about += f"; {rate_of(rows) / 1e9:.0f} GFLOP/s in one product; load {load}"
    table = [sweep_table(rows), MEANING.strip()] if any(row.seconds for row in rows) else []
    parts = [about, *table, other_lines(rows), goal_table(found)]
    return "\n\n".join(part for part in parts if part)


def save(rows: Sequence[SweepRow], attribution: dict | None, text: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"sweeps-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    record = {
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
        "attribution": attribution,
    }
    path.write_text(json.dumps(record, indent=1))
    path.with_suffix(".md").write_text(text + "\n")
    return path


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="prompts of 16 tokens, each way once")
    known = [*names(), ATTRIBUTION]
    parser.add_argument("--only", nargs="+", choices=known, metavar="NAME", help=", ".join(known))
    parser.add_argument("--rounds", type=int, default=2, help="processes that time the same")
    given = parser.parse_args()
    plan = [
        replace(entry, rounds=min(entry.rounds, given.rounds))
        for entry in available(quick() if given.quick else full())
        if given.only is None or entry.name in given.only
    ]
    loads = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        gathering = SweepGathering(Path(folder))
        rows = gathering.run(plan)
    attribution = None
    if ATTRIBUTION in (given.only or ([] if given.quick else [ATTRIBUTION])):
        print("           attribution", flush=True)
        attribution = child(ATTRIBUTION, [], allocator={})
        gathering.failed += attribution is None
    loads.append(os.getloadavg()[0])
    text = report(rows, sweep_goals(rows, attribution), loads)
    print(f"\n{text}\n\nWritten to {save(rows, attribution, text)}")
    return 1 if gathering.failed or not all(row.agrees for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
