"""Killed at any moment: every file opens, and the same command goes on to the same bytes."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
KILLS = int(os.environ.get("INTERP_KILLS", "4"))  # more take longer: INTERP_KILLS=20 now and then


def killed(*words, timeout):
    """What tests/killed.py tells; its own checks end it with a traceback."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "killed.py"), *map(str, words)],
        capture_output=True, text=True, timeout=timeout, cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_killed_at_random_moments_and_resumed_to_the_same_bytes(tmp_path, record_property):
    seen = killed("moments", tmp_path, KILLS, 1, timeout=300 + 60 * KILLS)
    assert seen["kills"] == KILLS == len(set(seen["moments"]))
    assert seen["files"] > 60, "chunks, tables, tensors, manifests and the figure"
    record_property("killed and resumed", seen)


def test_killed_at_each_step_of_saving(tmp_path):
    """In place of an older result it is that one or the new one; else the new one or none."""
    seen = killed("steps", tmp_path, timeout=300)
    assert min(seen["kills"]) > 10, "opens, renames, rights: the steps were seen"
    assert seen["left"] > 10 and all(seen["seen"].values()), seen
