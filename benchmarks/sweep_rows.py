"""Runs each way at each grid in a process of its own and gathers what came back."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from benchmarks.children import ALLOCATOR, child
from benchmarks.sweep_case import SweepCase
from benchmarks.sweep_plan import SweepEntry
from benchmarks.sweep_ways import SWEEP_WAYS, SweepWay

TOLERANCE = 1e-5  # of the largest value, above 1


@dataclass
class SweepRow:
    """Everything measured of one way at one grid."""

    name: str
    case: SweepCase
    seconds: list[float] = field(default_factory=list)
    calls: list[list[float]] = field(default_factory=list)  # of "first": one list a process
    rates: list[float] = field(default_factory=list)  # operations a second, of a product
    megabytes: float | None = None
    refused: str = ""
    cells: int = 0  # that were run
    differs: float | None = None  # largest difference from interp's values
    agrees: bool = True

    @property
    def way(self) -> SweepWay:
        return SWEEP_WAYS[self.case.way]

    @property
    def time(self) -> float:
        return median(self.seconds)

    def floor(self, rate: float) -> float:
        """Seconds of the products alone that this way has to do, at the rate that one product runs at."""
        work = self.case.work
        if self.way.own:
            return work.least() / rate
        return work.naive(1 if self.way.last else work.length) / rate


class SweepGathering:
    """The rows of one run, in the order in which they were first measured."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: dict[SweepCase, SweepRow] = {}
        self.failed = 0

    def run(self, plan: Sequence[SweepEntry]) -> list[SweepRow]:
        """Every case once, then every case again: what drifts on the machine drifts for all."""
        begun = time.monotonic()
        for turn in range(max((entry.rounds for entry in plan), default=0)):
            for entry in (entry for entry in plan if turn < entry.rounds):
                self._measure(entry)
                minutes = (time.monotonic() - begun) / 60
                case = entry.case
                print(f"{minutes:5.1f} min  {entry.name}  {case.way}  {case.what}", flush=True)
        return list(self.rows.values())

    def _measure(self, entry: SweepEntry) -> None:
        values = self.folder / "values.pt"
        values.unlink(missing_ok=True)
        # Memory is read with large tensors given back at once; time, as a user's process would run.
        allocator = ALLOCATOR if entry.case.what == "memory" else {}
        asked = [json.dumps(asdict(entry.case)), "--values", str(values)]
        record = child("sweep_case", asked, allocator)
        if record is None:
            self.failed += 1
            return
        row = self.rows.setdefault(entry.case, SweepRow(entry.name, entry.case))
        row.rates += [record[name] for name in ("rate", "rate_after") if name in record]
        row.megabytes = record.get("megabytes", row.megabytes)
        row.refused = record.get("refused", "")
        row.cells = record.get("cells", 0)
        if entry.case.what == "first":
            row.calls.append(record["seconds"])
        else:
            row.seconds += record.get("seconds", [])
        if values.exists():
            self._compare(row, torch.load(values))

    def _compare(self, row: SweepRow, values: Tensor) -> None:
        """Whole grids of interp are kept; the others' samples are held against them."""
        reference = self.folder / f"{row.name}.pt"
        if row.way.own and not reference.exists():
            torch.save(values, reference)
        if not reference.exists():
            return
        work = row.case.work
        places = {cell: number for number, cell in enumerate(work.cells)}
        own = torch.load(reference)[:, [places[cell] for cell in row.way.sample(work)]]
        found = float((values - own).abs().max())
        row.differs = max(found, row.differs or 0.0)
        row.agrees &= bool(found <= TOLERANCE * max(1.0, float(own.abs().max())))  # no NaN passes
