"""The index over folders of saved results: what is listed, what is broken, what differs."""

import json

import numpy
import pandas
import pytest
import torch

from interp.result import Result
from interp.runs import differences, found, run, same

VALUES = [0.5, float("nan"), float("inf")]


def result(values=VALUES, **made):
    table = pandas.DataFrame({"head": [0, 1, 2], "value": values, "label": ["a", None, "c"]})
    finer = pandas.DataFrame({"seconds": [1.0], "heads": [[1, 2]]})
    told = {"model": "m", "settings": {"epsilon": 0.3}, "versions": {"torch": "1"}, "device": "cpu",
            "seconds": 1.0, "at": "now"} | made  # fmt: skip
    return Result("sinks", table, {"finer": finer}, {"map": torch.arange(4.0)}, ["a note"], told)


@pytest.fixture
def folder(tmp_path):
    result().save(tmp_path / "one")
    result().save(tmp_path / "deeper" / "two")
    (tmp_path / ".hidden" / "three").mkdir(parents=True)
    (tmp_path / ".hidden" / "three" / "manifest.json").write_text("{}")
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_runs_are_found_by_their_manifests(folder):
    listed = found(folder)
    assert [one.path.relative_to(folder).as_posix() for one in listed] == ["deeper/two", "one"]
    assert {(one.analysis, one.rows, one.tables, one.problem) for one in listed} == {
        ("sinks", 3, ("table", "finer"), "")
    }
    assert listed[1].row()["model"] == "m" and listed[1].load().notes == ["a note"]
    assert [one.path for one in found(folder / "one")] == [folder / "one"]
    assert len(found(folder, folder / "one")) == 2, "a run in two folders is one run"
    with pytest.raises(NotADirectoryError, match="no folder"):
        found(folder / "nowhere")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: (path / "manifest.json").unlink(), "holds no manifest.json"),
        (lambda path: (path / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda path: (path / "manifest.json").write_text("[]"), "no JSON object"),
        (lambda path: (path / "manifest.json").write_text('{"format": 9}'), "format 9"),
        (lambda path: (path / "manifest.json").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda path: (path / "manifest.json").write_text('{"format": 1}'), "no analysis and no"),
        (lambda path: (path / "table.parquet").unlink(), "table.parquet is missing"),
        (lambda path: (path / "finer.parquet").write_bytes(b"PAR1"), "finer.parquet is damaged"),
        (lambda path: (path / "tensors.safetensors").write_bytes(b"x"), "tensors is damaged"),
    ],
)
def test_a_broken_run_is_listed_with_its_reason(folder, damage, reason):
    damage(folder / "one")
    whole, broken = found(folder)
    assert not whole.problem and reason in broken.problem and "\n" not in broken.problem
    assert run(folder / "one").row()["problem"] == broken.problem


def test_a_manifest_that_names_another_place_is_broken(folder):
    path = folder / "one" / "manifest.json"
    manifest = json.loads(path.read_text()) | {"tables": ["nowhere"]}
    path.write_text(json.dumps(manifest))
    assert "nowhere.parquet is missing" in run(folder / "one").problem


def test_equal_results_have_no_differences(folder):
    one, other = (Result.load(one.path) for one in found(folder))
    assert differences(one, other).empty
    later = result(at="later", seconds=9.0)
    later.tables["finer"]["seconds"] = 7.0
    later.notes = ["took 9 s"]
    assert differences(one, later).empty


def names(one, other, **settings):
    return differences(one, other, **settings)["name"].tolist()


def test_each_difference_is_named():
    assert names(result(), result(settings={"epsilon": 0.2})) == ["settings.epsilon"]
    assert names(result(), result(records=4)) == ["records"]
    told = differences(result(), result([0.5, 1.0, float("inf")]))
    assert told["name"].tolist() == ["table.value: 1 of 3 rows, most in row 1"]
    assert numpy.isnan(told["first"][0]) and told["second"][0] == 1.0 and not same(told)
    other = result()
    other.table["label"] = ["a", "b", "c"]
    assert names(result(), other) == ["table.label: 1 of 3 rows, first in row 1"]
    other = result()
    other.table = other.table.head(2)
    assert differences(result(), other)[["first", "second"]].values.tolist() == [
        ["3 rows", "2 rows"]
    ]
    other = result()
    del other.tables["finer"], other.table["label"]
    other.tensors["map"] = torch.arange(4.0) * 2
    assert names(result(), other) == ["finer", "table.label", "map: 3 of 4 values, most in value 3"]
    other = result()
    other.tables["finer"]["heads"] = [[1, 3]]
    assert names(result(), other) == ["finer.heads: 1 of 1 rows, first in row 0"]


def test_where_it_ran_is_told_and_changes_nothing():
    table = differences(result(), result(device="cuda:0", versions={"torch": "2"}))
    assert table["name"].tolist() == ["versions.torch", "device"] and same(table)


def test_where_chunks_were_kept_changes_nothing():
    one, other = (result(settings={"epsilon": 0.3, "save": place}) for place in ("a", None))
    table = differences(one, other)
    assert table["name"].tolist() == ["settings.save"] and same(table)


def test_a_tolerance_is_of_numbers():
    near = result([0.5 + 1e-4, float("nan"), float("inf")])
    assert names(result(), near) and not names(result(), near, tolerance=1e-3)
    assert names(result(), result([0.5, 0.5, float("inf")]), tolerance=1e9), "nan is near no number"
