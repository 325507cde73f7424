"""Results: saved whole or not at all, opened without a model, and made as they say."""

import json

import pandas
import pytest
import torch

import analyses
import interp
from analyses import ANALYSES
from interp import Result
from interp.making import weights_digest


@pytest.fixture
def result():
    table = pandas.DataFrame({"layer": [0, 1], "head": [2, 3], "value": [0.5, float("nan")]})
    tokens = pandas.DataFrame({"token": ["<bos>", "a"], "sink": [True, False]})
    return Result(
        "sinks", table, {"tokens": tokens}, {"map": torch.eye(3)}, ["a note"], {"model": "m"}
    )


def test_a_saved_result_is_the_same_when_opened(result, tmp_path):
    again = Result.load(result.save(tmp_path / "deep" / "run"))
    pandas.testing.assert_frame_equal(again.table, result.table)
    pandas.testing.assert_frame_equal(again.tables["tokens"], result.tables["tokens"])
    assert torch.equal(again.tensors["map"], torch.eye(3))
    assert (again.notes, again.made, again.analysis) == (["a note"], {"model": "m"}, "sinks")
    assert "sinks of m: 2 rows; tokens" in repr(again) and "<table" in again._repr_html_()


def test_saving_again_replaces_and_leaves_nothing_behind(result, tmp_path):
    result.save(tmp_path / "run")
    del result.tables["tokens"]
    result.save(tmp_path / "run")
    assert Result.load(tmp_path / "run").tables == {}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "tokens.parquet").exists()


def test_a_failed_save_leaves_the_old_one(result, tmp_path):
    result.save(tmp_path / "run")
    result.made["broken"] = float("nan")  # JSON has none
    with pytest.raises(ValueError):
        result.save(tmp_path / "run")
    assert Result.load(tmp_path / "run").made == {"model": "m"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_no_result_is_refused(result, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is no result"):
        result.save(tmp_path)
    with pytest.raises(FileNotFoundError, match="no manifest.json"):
        Result.load(tmp_path)
    path = result.save(tmp_path / "run")
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"format": 99}))
    with pytest.raises(ValueError, match="format 99; this version reads 1"):
        Result.load(path)


def test_an_analysis_says_how_it_was_made(monkeypatch):
    monkeypatch.setattr(ANALYSES, "_entries", dict(ANALYSES._entries))

    @analyses.analysis
    def counting(model, task, *, least=2):
        return Result("counting", pandas.DataFrame({"value": [least]}), made={"own": 1})

    model, task = interp.load("demo-vit"), interp.Task.load("digits", count=2)
    made = ANALYSES["counting"](model, task, least=3).made
    assert made["settings"] == {"least": 3} and made["own"] == 1
    assert (made["model"], made["task"], made["records"]) == ("demo-vit", "digits", 2)
    assert made["task digest"] == task.digest and made["weights"] == weights_digest(model.hf)
    assert made["versions"]["interp"].startswith(interp.__version__)
    with pytest.raises(TypeError, match="Did you mean 'least'"):
        ANALYSES["counting"](model, task, last=3)
    with torch.no_grad():
        next(model.hf.parameters()).add_(1)
    assert made["weights"] != weights_digest(model.hf)
