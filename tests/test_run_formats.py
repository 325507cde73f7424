"""Runs of other versions open, or say in a sentence why not."""

import json
import shutil
from pathlib import Path

import pandas
import pytest
import torch
from typer.testing import CliRunner

import interp
from app.command import app
from interp.manifest import FORMAT, MANIFEST, READS
from interp.result import Result
from interp.runs import differences, found, run

KEPT = Path(__file__).parent / "runs"  # format-N: a run as a version that wrote format N left it


@pytest.fixture
def old(tmp_path):
    """A copy of the oldest run."""
    return Path(shutil.copytree(KEPT / "format-1", tmp_path / "old"))


def change(path, **told):
    manifest = json.loads((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(json.dumps(manifest | told))


def test_a_run_is_kept_of_every_format():
    assert sorted(path.name for path in KEPT.iterdir()) == [f"format-{one}" for one in READS]
    assert READS[-1] == FORMAT


@pytest.mark.parametrize("number", READS)
def test_runs_of_every_format_open(number):
    result = Result.load(KEPT / f"format-{number}")
    assert (result.analysis, result.made["model"], len(result.table)) == ("sinks", "demo-lm", 32)
    assert list(result.tables) == ["tokens", "massive", "profile", "dims", "rest"]
    assert torch.equal(result.tensors["by hand"], torch.arange(6.0).view(2, 3))
    assert result.made["versions"]["interp"] == "0.1.0" and result.notes
    assert result.figure().data
    assert not run(KEPT / f"format-{number}").problem


def test_what_is_written_is_the_format_it_says(tmp_path):
    """Who changes this changes FORMAT, and keeps a run of the old one in tests/runs."""
    table = pandas.DataFrame({"value": [1.0]})
    made = Result("mine", table, {"more": table}, {"map": torch.eye(2)}, ["a note"], {"own": 1})
    path = made.save(tmp_path / "run")
    files = ["manifest.json", "more.parquet", "table.parquet", "tensors.safetensors"]
    assert sorted(file.name for file in path.iterdir()) == files
    manifest = json.loads((path / MANIFEST).read_text())
    assert manifest == {
        "format": 1, "analysis": "mine", "tables": ["more"], "notes": ["a note"], "made": {"own": 1}
    }  # fmt: skip


def test_a_run_opened_and_saved_again_is_equal(old, tmp_path):
    one = Result.load(old)
    assert differences(one, Result.load(one.save(tmp_path / "again"))).empty


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"format": 2, "made": {"versions": {"interp": "0.9.0"}}},
         f"has format 2, written by interp 0.9.0; this is interp {interp.__version__}, which reads format 1: "
         "open it with the version that wrote it, or a later one"),
        ({"format": 2, "made": []}, "has format 2; this is interp"),
        ({"format": None}, f"has format None, written by interp 0.1.0; this is interp {interp.__version__}, "
                           "which reads format 1"),
        ({"tables": ["../table"]}, "names '../table' as a table, which is no plain name"),
        ({"tables": ["tokens", 3]}, "names 3 as a table"),
    ],
)  # fmt: skip
def test_what_cannot_be_opened_says_why(old, told, reason):
    change(old, **told)
    with pytest.raises(ValueError) as raised:
        Result.load(old)
    assert reason in str(raised.value) and str(old) in str(raised.value)
    assert reason in run(old).problem
    got = CliRunner().invoke(app, ["runs", "ls", str(old)])
    assert got.exit_code == 0 and f"broken: {old}: it {reason.split(';')[0]}" in got.stdout.replace(
        "its manifest.json", "it"
    )
    with pytest.raises(ValueError, match="would be replaced"):
        Result("mine", pandas.DataFrame({"value": [1]})).save(old)


def test_keys_of_later_versions_are_passed_over(old):
    change(old, colour="green", tables=["tokens"])
    result = Result.load(old)
    assert list(result.tables) == ["tokens"] and not found(old)[0].problem


def test_an_analysis_that_is_not_installed(old):
    """A plugin's: all of it is there but the figure."""
    change(old, analysis="of_a_plugin")
    assert len(Result.load(old).table) == 32 and found(old)[0].analysis == "of_a_plugin"
    with pytest.raises(LookupError, match="no figure of 'of_a_plugin'"):
        Result.load(old).figure()
    got = CliRunner().invoke(app, ["runs", "show", str(old)])
    assert got.exit_code == 0 and "of_a_plugin of demo-lm" in got.stdout


@pytest.mark.parametrize(
    ("name", "reason"),
    [("table.parquet", "its table table.parquet is"), ("tensors.safetensors", "safetensors is")],
)
def test_damaged_files_are_named(old, name, reason):
    (old / name).write_bytes(b"PAR1 or not")
    with pytest.raises(ValueError, match=f"{reason} damaged"):
        Result.load(old)
    (old / name).unlink()
    if name == "table.parquet":
        with pytest.raises(ValueError, match=f"{reason} missing"):
            Result.load(old)
