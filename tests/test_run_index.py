"""What is remembered of many runs: nothing is read twice, and nothing remembered is ever wrong."""

import json
import os
import shutil
import time

import pandas
import pytest

from interp import remembered, runs
from interp.result import Result
from interp.runs import found

COUNT = remembered.MANY + 3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(remembered, "YOUNG", -1)  # files of this test are old enough
    made = tmp_path / "runs"
    first = save(made / "run-0", 0)
    for number in range(1, COUNT):
        shutil.copytree(first, made / f"run-{number}")
    return made


def save(path, value, **made):
    return Result("sinks", pandas.DataFrame({"value": [value]}), made={"model": "m"} | made).save(
        path
    )


@pytest.fixture
def reads(monkeypatch):
    """Names of the runs that are read, from now on."""
    seen, run = [], runs.run
    monkeypatch.setattr(runs, "run", lambda path: seen.append(path.name) or run(path))
    return seen


def test_nothing_is_read_twice(folder, reads):
    first = found(folder)
    assert len(reads) == len(first) == COUNT
    assert found(folder) == first and len(reads) == COUNT
    assert (first[0].rows, first[0].made["model"], first[0].tables) == (1, "m", ("table",))
    assert first[0].size == sum(file.stat().st_size for file in first[0].path.iterdir())


def test_what_has_changed_is_read_again(folder, reads):
    found(folder)
    reads.clear()
    save(folder / "run-1", 1, model="n")  # replaced
    shutil.rmtree(folder / "run-2")
    save(folder / "deep" / "new", 1)
    (folder / "run-3").rename(folder / "moved")
    (folder / "run-4" / "table.parquet").write_bytes(b"PAR1")
    (folder / "run-5" / "manifest.json").unlink()
    told = (folder / "run-6" / "manifest.json").read_text()
    times = os.stat(folder / "run-6" / "manifest.json")
    (folder / "run-6" / "manifest.json").write_text(told.replace('"m"', '"q"'))  # of one size
    os.utime(folder / "run-6" / "manifest.json", ns=(times.st_atime_ns, times.st_mtime_ns))
    again = {one.path.relative_to(folder).as_posix(): one for one in found(folder)}
    assert sorted(reads) == ["moved", "new", "run-1", "run-4", "run-5", "run-6"]
    assert again["run-1"].made["model"] == "n" and again["run-6"].made["model"] == "q"
    assert "run-2" not in again and "run-3" not in again and {"moved", "deep/new"} <= {*again}
    assert "damaged" in again["run-4"].problem and "no manifest" in again["run-5"].problem
    reads.clear()
    assert {one.path.name for one in found(folder) if one.problem} == {"run-4", "run-5"}
    assert sorted(reads) == ["run-4", "run-5"], "broken ones are looked at each time"


def test_files_that_may_still_change_are_not_remembered(folder, reads, monkeypatch):
    monkeypatch.setattr(remembered, "YOUNG", 3600e9)
    found(folder)
    assert len(found(folder)) == COUNT and len(reads) == 2 * COUNT
    assert not remembered.place(folder).exists()


def test_what_is_removed_meanwhile_is_not_listed(folder, monkeypatch):
    """And what is in each other's place time and again is told as what it is."""
    read = runs.read_manifest

    def removed(path):
        if path.name == "run-1":
            shutil.rmtree(path)
        return read(path)

    monkeypatch.setattr(runs, "read_manifest", removed)
    assert len(found(folder)) == COUNT - 1

    def replaced(path):
        save(path, 1)
        return read(path)

    monkeypatch.setattr(runs, "read_manifest", replaced)
    assert "replaced each time" in runs.run(folder / "run-2").problem


DAMAGES = ["", "[]", "{", '{"interp": "0.1.0", "runs": 3}', '{"interp": "0.0.1", "runs": {}}']


@pytest.mark.parametrize("content", DAMAGES)
def test_a_damaged_index_is_made_anew(folder, reads, content):
    first = found(folder)
    remembered.place(folder).write_text(content)
    assert found(folder) == first and len(reads) == 2 * COUNT
    assert found(folder) == first and len(reads) == 2 * COUNT


@pytest.mark.parametrize("entry", [3, [], ["stamp"], {}, [None, {}], "as it was, less a field"])
def test_a_damaged_entry_is_made_anew(folder, reads, entry):
    first = found(folder)
    kept = json.loads(remembered.place(folder).read_text())
    if isinstance(entry, str):
        entry = kept["runs"]["run-7"]
        del entry[1]["rows"]
    kept["runs"]["run-7"] = entry
    remembered.place(folder).write_text(json.dumps(kept))
    reads.clear()
    assert found(folder) == first and reads == ["run-7"]


def test_without_a_place_for_it_runs_are_read(folder, reads, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made in it
    assert len(found(folder)) == len(found(folder)) == COUNT and len(reads) == 2 * COUNT


def test_few_runs_leave_nothing_behind(folder, tmp_path):
    for number in range(10, COUNT):
        shutil.rmtree(folder / f"run-{number}")
    before = sorted(path.name for path in folder.iterdir())
    assert len(found(folder)) == 10 and not (tmp_path / "cache").exists()
    assert sorted(path.name for path in folder.iterdir()) == before


def test_an_index_is_of_one_folder(folder, tmp_path):
    """A copy has its own, by its place; and stamps hold the files' own numbers."""
    found(folder)
    copy = shutil.copytree(folder, tmp_path / "copy")
    save(copy / "run-1", 1, model="other")
    assert next(one for one in found(copy) if one.path.name == "run-1").made["model"] == "other"
    assert all(one.made["model"] == "m" for one in found(folder))
    assert len(found(folder, copy)) == 2 * COUNT and len(found(tmp_path, copy)) == 2 * COUNT


def test_a_stamp_waits_until_a_change_would_show(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    told, now = [file.stat()], time.time_ns()
    assert remembered.stamp(told, ["file"]) is None
    monkeypatch.setattr(remembered.time, "time_ns", lambda: now + int(1e10))
    one = remembered.stamp(told, ["file"])
    assert one is not None and one != remembered.stamp(told, ["other"])
