"""Runs each measurement in a process of its own and gathers what came back."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median

import torch

from benchmarks.case import Case
from benchmarks.dense import Statistics
from benchmarks.plan import Entry
from benchmarks.ways import WAYS

# Large tensors go back to the system when they are freed, small ones are kept for the next. Left to
# itself glibc keeps large ones too, or not, by chance: the same streamed forward peaks at 180 MB or at 600.
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(4 << 20), "MALLOC_TRIM_THRESHOLD_": str(256 << 20)}
# Results may differ by this part of the largest value: float32 over twelve layers.
TOLERANCE = 1e-3


@dataclass
class Row:
    """Everything measured of one way at one shape."""

    case: Case
    seconds: list[float] = field(default_factory=list)
    megabytes: list[float] = field(default_factory=list)
    differs: dict[str, float] = field(default_factory=dict)  # largest difference from interp's
    agrees: bool = True

    @property
    def time(self) -> float:
        return median(self.seconds)

    @property
    def memory(self) -> float:
        return median(self.megabytes)


def child(
    module: str, arguments: Sequence[str], allocator: Mapping[str, str] = ALLOCATOR
) -> dict | None:
    """The JSON that a module of this package prints; None and a line of complaint if it fails."""
    environment = {
        **os.environ,
        **allocator,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",  # a peer must not install anything while it is measured
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout.strip().splitlines()[-1])
    reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
    print(f"FAILED: {' '.join(command[1:])}: {reason}", flush=True)
    return None


class Gathering:
    """The rows of one run, in the order in which they were first measured."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.rows: dict[Case, Row] = {}
        self.failed = 0

    def run(self, plan: Sequence[Entry]) -> list[Row]:
        """Every case once, then every case again: what drifts on the machine drifts for all."""
        begun = time.monotonic()
        for turn in range(max(entry.rounds for entry in plan)):
            for entry in plan:
                if turn >= entry.rounds:
                    continue
                self._measure(entry.case)
                minutes = (time.monotonic() - begun) / 60
                title = f"{entry.case.shape}  {WAYS[entry.case.way].title}"
                print(f"{minutes:5.1f} min  {title}", flush=True)
        return list(self.rows.values())

    def _measure(self, case: Case) -> None:
        answers = self.folder / "answers.pt"
        record = child("case", [json.dumps(asdict(case)), "--answers", str(answers)])
        if record is None:
            self.failed += 1
            return
        row = self.rows.setdefault(case, Row(case))
        row.seconds += record["seconds"]
        row.megabytes.append(record["megabytes"])
        self._compare(row, torch.load(answers))

    def _compare(self, row: Row, answers: Statistics) -> None:
        reference = self.folder / f"{row.case.shape}.pt".replace(" ", "_")
        known: Statistics = torch.load(reference) if reference.exists() else {}
        if WAYS[row.case.way].own:
            torch.save(answers | known, reference)
        for name, expected in known.items():
            if name in answers:
                defined = ~expected.isnan()  # a key past whose end no horizon lies
                row.agrees &= bool(torch.equal(defined, ~answers[name].isnan()))
                expected, own = expected[defined], answers[name][defined]
                difference = float((own - expected).abs().max())
                row.differs[name] = max(difference, row.differs.get(name, 0.0))
                # Written so that a NaN does not pass.
                row.agrees &= bool(difference <= TOLERANCE * float(expected.abs().max()))
