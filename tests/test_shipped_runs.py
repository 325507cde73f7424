"""Runs that come along: one for each analysis, which open, draw, and are true of the shipped models."""

import json
import re
from pathlib import Path

import pytest

import interp
from analyses import ANALYSES
from data.record import ASKED
from interp import Result, plots, runs, shipped
from interp.making import weights_digest
from interp.result import MANIFEST

FOLDERS = sorted(path.parent for path in shipped.runs().glob(f"*/{MANIFEST}"))
MEGABYTES = 3
# What begins as a path of somebody's machine would.
PATH = re.compile(r"(?<![\w/.])/[A-Za-z_][\w.-]*/|[A-Za-z]:\\\\|~/")


def test_each_analysis_has_one_and_nothing_else_is_there():
    assert {path.name for path in FOLDERS} == {asked.folder for asked in ASKED}
    assert {asked.analysis for asked in ASKED} == set(ANALYSES)
    assert set(shipped.runs().iterdir()) == set(FOLDERS)


def test_they_are_small():
    files = [file for file in shipped.runs().rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= MEGABYTES * 1_000_000


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_it_opens_whole_and_draws_in_light_and_dark(path: Path):
    assert runs.run(path).problem == ""
    result = Result.load(path)
    figure = result.figure()
    night = plots.dark(figure)
    assert len(figure.data) and len(night.data) == len(figure.data)
    assert night.layout.paper_bgcolor != figure.layout.paper_bgcolor


@pytest.mark.parametrize("path", FOLDERS, ids=lambda path: path.name)
def test_no_path_of_a_machine_is_in_it(path: Path):
    result = Result.load(path)
    words = [(path / MANIFEST).read_text(encoding="utf-8")]
    for table in (result.table, *result.tables.values()):
        for name in table.select_dtypes(exclude="number"):
            words += set(map(str, table[name]))
    assert [word for word in words if PATH.search(word)] == []


def test_the_pattern_finds_paths():
    found = ["/home/me/x", "in /root/", "C:\\\\Users", "~/runs", '"/var/a/b"']
    assert all(PATH.search(json.dumps(one) if "\\" not in one else one) for one in found)
    assert not any(PATH.search(one) for one in ("yes / no", "a/b", "logits/head", "<bos>"))


def test_they_are_of_the_models_as_they_ship():
    made = [json.loads((path / MANIFEST).read_text())["made"] for path in FOLDERS]
    plain = {
        (each["model"], each["weights"])
        for path, each in zip(FOLDERS, made, strict=True)
        if each.get("model") and not _fault(path)
    }
    assert plain == {(name, weights_digest(interp.load(name).hf)) for name, _ in plain}


def _fault(path: Path) -> str | None:
    return next(asked.fault for asked in ASKED if asked.folder == path.name)


@pytest.mark.parametrize("name", ["heads-demo-vit", "path_patching-demo-lm", "sinks-demo-vlm"])
def test_asked_again_the_numbers_are_the_same(name: str):
    again = next(asked for asked in ASKED if asked.folder == name).run()
    kept = Result.load(shipped.runs() / name)
    found = runs.differences(kept, again, tolerance=1e-4)
    assert runs.same(found), found
