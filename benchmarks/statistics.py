"""Streamed attention statistics beside plain SDPA, eager maps, TransformerLens and nnsight.

python -m benchmarks.statistics           everything, about half an hour
python -m benchmarks.statistics --quick   a few minutes
"""

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks.children import Gathering, Row, child
from benchmarks.goals import Goal, goals
from benchmarks.plan import Entry, full, idle, quick
from benchmarks.table import goal_table, idle_table, table
from benchmarks.ways import WAYS

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight")
MEANING = """
CPU s: CPU seconds of the process, the median. Attention: the same less the forward without
attention. MB: how far resident memory rises during the call. Differs: the largest absolute difference
from interp's numbers: received, entropy, distance, WAAD, FAI, sink score, logits. Only ratios within
one run carry over to other machines."""


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    found = {"cpu": processor(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def available(plan: Sequence[Entry]) -> list[Entry]:
    """The plan without the peers that are not installed."""
    for way in dict.fromkeys(entry.case.way for entry in plan):
        if WAYS[way].missing:
            print(f"Skipped: {WAYS[way].title}. For this row: pip install {WAYS[way].install}")
    return [entry for entry in plan if not WAYS[entry.case.way].missing]


def report(rows: Sequence[Row], seams: Sequence[dict], found: Sequence[Goal]) -> str:
    about = ", ".join(f"{name} {value}" for name, value in versions().items())
    parts = [about, table(rows), MEANING.strip(), idle_table(seams), goal_table(found)]
    return "\n\n".join(parts)


def save(rows: Sequence[Row], seams: Sequence[dict], text: str) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"statistics-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    record = {"versions": versions(), "rows": [asdict(row) for row in rows], "idle": list(seams)}
    path.write_text(json.dumps(record, indent=1))
    path.with_suffix(".md").write_text(text + "\n")
    return path


def _idle(arguments: Sequence[str]) -> dict | None:
    print(f"           idle: {' '.join(arguments)}", flush=True)
    return child("idle", arguments)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short prompts, one round")
    parser.add_argument("--family", choices=["gpt2", "llama"], help="only this model")
    parser.add_argument("--length", type=int, help="only this prompt length")
    given = parser.parse_args()
    torch.set_num_threads(1)
    plan = [
        entry
        for entry in available(quick() if given.quick else full())
        if given.family in (None, entry.case.family) and given.length in (None, entry.case.length)
    ]
    whole = given.family is None and given.length is None
    asked = [_idle(arguments) for arguments in (idle(given.quick) if whole else [])]
    seams = [record for record in asked if record is not None]
    with tempfile.TemporaryDirectory() as folder:
        gathering = Gathering(Path(folder))
        rows = gathering.run(plan)
    text = report(rows, seams, goals(rows, seams))
    print(f"\n{text}\n\nWritten to {save(rows, seams, text)}")
    wrong = gathering.failed + len(asked) - len(seams) + sum(not row.agrees for row in rows)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
