"""Sweeps that were killed go on from their finished chunks, to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from torch import Tensor

import interp
from interp.metrics import logit_diff
from interp.placing import LEFT
from interp.replay import plan

ROOT = Path(__file__).parents[1]
SCRIPT = """
import sys, torch, interp
from interp.metrics import logit_diff
from interp.replay import plan
torch.set_num_threads(1)
plan.TOKENS = 16
model = interp.load("demo-lm")
ids = torch.arange(5, 45).view(2, 20)
grid = model.sweep(ids, "z", "mean", ("layer", "head", "position"), logit_diff(7, 9), save=sys.argv[1])
torch.save(grid.as_subclass(torch.Tensor), sys.argv[2])
"""


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(plan, "TOKENS", 40)


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


def swept(model, folder, ids=None, **settings):
    ids = torch.arange(5, 45).view(2, 20) if ids is None else ids
    metric = settings.pop("metric", logit_diff(7, 9))
    grid = model.sweep(ids, "z", "mean", ("layer", "head"), metric, save=folder, **settings)
    return grid.as_subclass(Tensor)


def chunks(folder):
    return sorted(Path(folder).glob("chunk-*.npy"))


def test_what_killed_processes_were_writing_is_removed_and_nothing_else(model, tmp_path, small):
    folder, hour = tmp_path / "sweep", time.time() - LEFT - 60
    swept(model, folder)
    names = ["chunk-000001.12.tmp", "chunk-000002.13.tmp", "mine.tmp"]
    for name in names:
        (folder / name).write_bytes(b"half")
    for name in (names[0], names[2]):
        os.utime(folder / name, (hour, hour))
    swept(model, folder)
    assert sorted(path.name for path in folder.glob("*.tmp")) == names[1:]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / names[0]).write_bytes(b"mine")
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    os.utime(tmp_path / "mine" / names[0], (hour, hour))
    with pytest.raises(FileExistsError, match="something else"):
        swept(model, tmp_path / "mine")
    assert (tmp_path / "mine" / names[0]).exists(), "in a folder that is no sweep's"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_what_is_stopped_keeps_its_chunks(model, tmp_path, small, monkeypatch, stop):
    whole = swept(model, tmp_path / "whole")
    total = len(chunks(tmp_path / "whole"))
    assert total > 4
    from interp.replay.running import Replay

    calls, states = [], Replay.states

    def stopping(self, rows, reads):
        calls.append(len(rows))
        if len(calls) == 4:
            raise stop
        return states(self, rows, reads)

    monkeypatch.setattr(Replay, "states", stopping)
    with pytest.raises(stop):
        swept(model, tmp_path / "half")
    monkeypatch.setattr(Replay, "states", states)
    done = chunks(tmp_path / "half")
    assert 1 <= len(done) <= 4
    stamps = [path.stat().st_mtime_ns for path in done]
    again = swept(model, tmp_path / "half")
    assert [path.stat().st_mtime_ns for path in done] == stamps, (
        "finished chunks are not computed again"
    )
    assert again.numpy().tobytes() == whole.numpy().tobytes()
    for one, other in zip(chunks(tmp_path / "half"), chunks(tmp_path / "whole"), strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_a_killed_process_resumes_to_the_same_bytes(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}

    def start(folder):
        command = [
            sys.executable,
            "-c",
            SCRIPT,
            str(tmp_path / folder),
            str(tmp_path / f"{folder}.pt"),
        ]
        return subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)

    assert start("whole").wait(120) == 0
    total = len(chunks(tmp_path / "whole"))
    for wanted in (1, total // 2):  # killed once early and once in the middle
        process = start("killed")
        while process.poll() is None and len(chunks(tmp_path / "killed")) < wanted:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(chunks(tmp_path / "killed")) < total
        for path in chunks(tmp_path / "killed"):
            numpy.load(path)  # whole, or not there
    assert start("killed").wait(120) == 0
    one, other = (torch.load(tmp_path / f"{name}.pt") for name in ("whole", "killed"))
    assert one.numpy().tobytes() == other.numpy().tobytes()


def test_the_folder_of_another_sweep_is_refused(model, tmp_path, small):
    swept(model, tmp_path / "own")
    others = (
        {"ids": torch.arange(6, 46).view(2, 20)},
        {"metric": logit_diff(7, 10)},
        {"layers": [0]},
        {"budget": 5e8},
    )
    for other in others:
        with pytest.raises(FileExistsError, match="another sweep"):
            swept(model, tmp_path / "own", **other)
    with torch.no_grad():
        weight = model.hf.get_input_embeddings().weight
        weight[9] += 1
        with pytest.raises(FileExistsError, match="another sweep"):
            swept(model, tmp_path / "own")
        weight[9] -= 1
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="something else"):
        swept(model, tmp_path / "full")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(FileExistsError, match="is a file"):
        swept(model, tmp_path / "file")


def test_whole_forwards_and_functions_of_logits_are_kept_too(model, tmp_path, small):
    def metric(logits):
        return logits[:, -1, 7]

    for path in ("positions", "whole"):
        first = swept(
            model, tmp_path / path, metric=metric, path=None if path == "positions" else path
        )
        assert len(chunks(tmp_path / path)) > 1
        again = swept(
            model, tmp_path / path, metric=metric, path=None if path == "positions" else path
        )
        assert torch.equal(first, again)


def test_a_function_over_windows_cannot_be_kept(model, tmp_path):
    with pytest.raises(ValueError, match="cannot be named"):
        model.sweep(torch.arange(5, 15)[None], "z", lambda value, at: value * 2, "layer", logit_diff(7, 9),
                    window=2, save=tmp_path / "one")  # fmt: skip
