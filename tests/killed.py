"""Runs that are killed, in processes forked from this one, which has imported all there is to import.

    python tests/killed.py moments FOLDER KILLS SEED    SIGKILL at random moments of a command, resumed
    python tests/killed.py steps FOLDER                 SIGKILL at each step of saving a result

Prints a JSON line with what was seen; a check that fails ends it with a traceback.
"""

import json
import os
import random
import re
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy
import pandas
import plotly.graph_objects  # noqa: F401
import pyarrow.parquet
import torch
import transformers.models.llama.modeling_llama  # noqa: F401
from safetensors.torch import load_file

import interp.loading  # noqa: F401
import interp.plots
from analyses import ANALYSES
from app.command import main
from interp.placing import LEFT, UNFINISHED
from interp.result import Result
from interp.runs import found

LINE = (
    "run activation_patching --model demo-lm --task ioi --count 8 --batch 4 --sites resid_pre z "
    "--save chunks --out out/run"
)
IN_A_CHAIN = 3  # kills after which one may come to its end
LONGEST = 240  # seconds that one command may take on a loaded machine


def child(function, *arguments):
    """A forked process that calls the function; what it prints goes nowhere."""
    process = os.fork()
    if process:
        return process
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        code = function(*arguments)
        os._exit(code or 0)
    except BaseException:
        traceback.print_exc()
        os._exit(99)


def ended(process, seconds=LONGEST):
    """How it ended: its code, or minus the signal; None while it still runs when the time is over."""
    until = time.monotonic() + seconds
    while True:
        over, status = os.waitpid(process, os.WNOHANG)
        if over:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            return None
        time.sleep(0.002)


def command(folder):
    os.chdir(folder)
    return main(LINE.split())


def is_temporary(path, root):
    inside = path.relative_to(root).parts
    return path.suffix == ".tmp" or any(part.endswith(UNFINISHED) for part in inside)


def files(root):
    """All files but temporary ones, by name: bytes, without when it ran and how long it took."""
    content = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not is_temporary(path, root):
            told = path.read_bytes()
            if path.name == "manifest.json":
                told, count = re.subn(rb'"(seconds|at)": [^\n,]+', rb"\1", told)
                assert count == 2, path
            content[path.relative_to(root).as_posix()] = told
    return content


def check_readable(root):
    """Every file that is not a temporary one opens."""
    opens = {
        ".json": lambda path: json.loads(path.read_text()),
        ".npy": numpy.load,
        ".parquet": pyarrow.parquet.read_table,
        ".safetensors": load_file,
        ".html": lambda path: path.read_text().rstrip().endswith("</html>") or 1 / 0,
    }
    for path in root.rglob("*"):
        if path.is_file() and not is_temporary(path, root):
            opens[path.suffix](path)
    for one in found(root):
        assert not one.problem, one
        one.load()


def all_well(function, *arguments):
    code = ended(child(function, *arguments))
    assert code == 0, f"{function.__name__} ended with {code}"


def moments(root, kills, seed):
    """Chains of one command in a folder: killed, started again, killed, ... until it comes to its end."""
    rng = random.Random(seed)
    whole = root / "whole"
    whole.mkdir()
    started = time.monotonic()
    all_well(command, whole)
    seconds, wanted = time.monotonic() - started, files(whole)
    done, chains, left, gone_on = [], 0, 0, 0
    while len(done) < kills:
        folder = root / f"chain-{chains}"
        folder.mkdir()
        if chains % 2:  # an older result is there, and stays until the new one is whole
            all_well(save_small, 1, folder / "out" / "run")
        chains += 1
        most = min(kills, len(done) + IN_A_CHAIN)
        while True:
            before = len(list(folder.rglob("chunk-*.npy")))
            process, started = child(command, folder), time.monotonic()
            moment = rng.uniform(0, seconds)
            code = ended(process, moment if len(done) < most else LONGEST)
            if code is None:
                os.kill(process, signal.SIGKILL)
                code = ended(process)
            took = time.monotonic() - started
            all_well(check_readable, folder)
            if code == 0:
                # The whole run may have been under more load than those that are killed.
                seconds = seconds if before else min(seconds, took)
                break
            assert code == -signal.SIGKILL and len(done) < most, code
            gone_on += bool(before)
            done.append(round(moment, 2))
        assert files(folder) == wanted, different(files(folder), wanted)
        left += sum(is_temporary(path, folder) for path in folder.rglob("*"))
    sizes = sum(map(len, wanted.values()))
    return {"seconds": round(seconds, 2), "kills": len(done), "moments": done, "chains": chains,
            "resumed and killed again": gone_on, "files": len(wanted), "bytes": sizes,
            "temporary left": left}  # fmt: skip


def different(one, other):
    return [name for name in {*one, *other} if one.get(name) != other.get(name)]


def small(value):
    table = pandas.DataFrame({"value": [float(value)] * 3})
    made = {"seconds": 0.5, "at": "now"}
    return Result("sinks", table, {"more": table}, {"map": torch.full((4,), value)}, made=made)


def save_small(value, path):
    small(value).save(path)


def value_at(path):
    """Which of the small results is there: 1 or 2, or 0 for none."""
    return int(Result.load(path).table["value"][0]) if path.exists() else 0


def saved(path, step):
    """Saves a result, and is killed at a step: what Python is about to ask the system for."""
    seen = 0

    def hook(event, arguments):
        nonlocal seen
        if event.split(".")[0] in ("open", "os", "shutil", "tempfile", "ctypes"):
            seen += 1
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)

    result = small(2)
    result.save(path.parent / "before")  # what is imported on first use is imported
    sys.addaudithook(hook)
    result.save(path)


def steps(root):
    """After every kill the old result is there or the new one; and what is left goes away by itself."""
    path, seen, counts = root / "run", [], []
    for old in (1, 0):
        step, code = 0, -signal.SIGKILL
        while code == -signal.SIGKILL:
            step += 1
            shutil.rmtree(path, ignore_errors=True)
            if old:
                all_well(save_small, old, path)
            code = ended(child(saved, path, step))
            seen.append(ended(child(value_at, path)))
            assert seen[-1] in (old, 2), (step, seen)
            all_well(check_readable, root)
        assert code == 0, code
        counts.append(step - 1)
    left = unfinished(root)
    for one in left[1:]:  # the first may still be written to
        os.utime(one, (0, time.time() - LEFT - 60))
    all_well(save_small, 1, path)
    assert unfinished(root) == left[:1]
    return {
        "kills": counts,
        "left": len(left),
        "seen": {value: seen.count(value) for value in (0, 1, 2)},
    }


def unfinished(root):
    return [path for path in sorted(root.iterdir()) if path.name.endswith(UNFINISHED)]


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert "activation_patching" in ANALYSES and interp.plots.RESULTS  # which imports their files
    what, where, *numbers = sys.argv[1:]
    told = {"moments": moments, "steps": steps}[what](Path(where), *map(int, numbers))
    sys.stdout.write(json.dumps(told))
