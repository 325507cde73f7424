"""Results: saved whole or not at all, opened without a model, and made as they say."""

import json
import os
import re
import subprocess
import sys
import time

import numpy
import pandas
import pytest
import torch

import analyses
import interp
from analyses import ANALYSES
from interp import Result, placing
from interp.making import digest, weights_digest
from interp.runs import run


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


def test_the_table_in_a_notebook(result):
    """Escaped, numbers short, nothing for what is missing, and no colours of its own."""
    result.table = pandas.DataFrame(
        {"token": ["<b>", "x"], "value": [0.123456, 12345.678], "head": [3.0, None]}
    )
    page = result._repr_html_()
    cells = re.findall("<td>(.*?)</td>", page)
    assert cells == ["&lt;b&gt;", "0.123", "3", "x", "12346", ""]
    assert "color" not in page and "background" not in page
    result.table = pandas.DataFrame({"value": range(50)})
    assert (
        result._repr_html_().count("<td>") == 20 and "first 20 of 50 rows" in result._repr_html_()
    )


CELLS = """
import interp, pandas
from interp import Result
Result.load({path!r})
---
Result("mine", pandas.DataFrame({{"value": [0.123456]}}))
---
import sys
sys.modules["plotly"] = sys.modules["plotly.subplots"] = None
sys.modules["plotly.graph_objects"] = None
Result.load({path!r})
"""


def test_a_result_shows_itself_in_a_notebook(tmp_path):
    """Table and figure by themselves; the table alone where there is no figure, or no plotly."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    shares = {"layer": [0, 0], "head": [0, 1], "share": [0.1, -0.2]}
    ends = {"share_low": [0.05, -0.3], "share_high": [0.2, -0.1]}
    drawn = Result(
        "path_patching", pandas.DataFrame(shares | ends), made={"model": "m", "task": "t"}
    )
    cells = CELLS.format(path=str(drawn.save(tmp_path / "run"))).split("---")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(book, timeout=120, kernel_name="python3").execute()
    whole, bare, without = ([one.data for one in cell.outputs] for cell in book.cells)
    assert "<table" in whole[0]["text/html"] and "path_patching of m, t" in whole[0]["text/plain"]
    figure = whole[1]["application/vnd.plotly.v1+json"]
    assert figure["layout"]["title"]["text"].startswith("m on t: paths from heads")
    assert len(whole) == 2 and len(bare) == 1 and "0.123" in bare[0]["text/html"]
    assert "<table" in without[0]["text/html"] and "No figure" in without[1]["text/plain"]


def test_in_a_terminal_nothing_is_drawn(result, monkeypatch):
    """Of IPython too: there plotly would open a browser."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    monkeypatch.setattr(Result, "figure", lambda self: pytest.fail("a figure in a terminal"))
    result._ipython_display_()
    assert [data["text/plain"] for data in shown] == [repr(result)]


def test_saving_again_replaces_and_leaves_nothing_behind(result, tmp_path):
    result.save(tmp_path / "run")
    del result.tables["tokens"]
    result.save(tmp_path / "run")
    assert Result.load(tmp_path / "run").tables == {}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert not (tmp_path / "run" / "tokens.parquet").exists()


def test_a_failed_save_leaves_the_old_one(result, tmp_path):
    result.save(tmp_path / "run")
    result.table = pandas.DataFrame({"value": [object()]})  # parquet has no such thing
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
    with pytest.raises(ValueError, match="has format 99; this is interp"):
        Result.load(path)


def test_what_is_not_the_results_own_is_not_replaced(result, tmp_path):
    path = result.save(tmp_path / "run")
    (path / "mine.html").write_text("a figure")
    with pytest.raises(FileExistsError, match="mine.html with it"):
        result.save(path)
    assert (path / "mine.html").exists() and Result.load(path)
    (path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        Result.load(path)
    with pytest.raises(ValueError, match="what it is cannot be told"):
        result.save(path)


@pytest.mark.parametrize("name", ["table", "../escape", "a/b", ".hidden", ""])
def test_names_of_tables_stay_in_the_folder(result, tmp_path, name):
    result.tables[name] = result.table
    with pytest.raises(ValueError, match="names are plain words"):
        result.save(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_saved_folders_can_be_read_by_others_and_hold_odd_values(result, tmp_path):
    result.made |= {"infinite": float("inf"), "counted": numpy.int64(3), "none": float("nan")}
    result.tensors |= {"whole": torch.ones(4, 4), "part": torch.ones(4, 4)[:2]}
    path = result.save(tmp_path / "run")
    assert path.stat().st_mode & 0o777 == 0o777 & ~umask()
    assert {file.stat().st_mode & 0o777 for file in path.iterdir()} == {0o666 & ~umask()}
    made = Result.load(path).made
    assert (made["infinite"], made["counted"], made["none"]) == ("inf", 3, None)


def umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


SAVES_OFTEN = """
import os, sys
import pandas
from interp.result import Result
table = pandas.DataFrame({"by": [os.getpid()] * 3})
for _ in range(8):
    Result("sinks", table, {"more": table}).save(sys.argv[1])
"""


def test_processes_that_save_to_one_place_leave_one_whole_result(tmp_path):
    command = [sys.executable, "-c", SAVES_OFTEN, str(tmp_path / "run")]
    several = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=300) for process in several] == [0, 0, 0]
    again = Result.load(tmp_path / "run")
    assert again.table["by"].tolist() == again.tables["more"]["by"].tolist()
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


SAVES_BY_TURNS = """
import sys, time
import pandas, torch
from interp.result import Result
for turn in range(40):
    time.sleep(0.05)  # longer than reading takes, as a rule
    table = pandas.DataFrame({"turn": [turn] * 3})
    tables = {name: table for name in ("more", "less")[: 1 + turn % 2]}
    Result("sinks", table, tables, {"map": torch.full((2,), turn)}, made={"turn": turn}).save(sys.argv[1])
"""


def test_what_is_replaced_while_it_is_read_is_one_of_the_two(tmp_path):
    with subprocess.Popen([sys.executable, "-c", SAVES_BY_TURNS, str(tmp_path / "run")]) as saving:
        seen = []
        while saving.poll() is None:
            if (tmp_path / "run").exists():
                assert not run(tmp_path / "run").problem
                one = Result.load(tmp_path / "run")
                parts = [one.table["turn"][0], one.made["turn"], int(one.tensors["map"][0])]
                parts += [table["turn"][0] for table in one.tables.values()]
                assert len(set(parts)) == 1 and len(one.tables) == 1 + parts[0] % 2, parts
                seen.append(parts[0])
        assert saving.wait(timeout=300) == 0
    assert len(set(seen)) > 3 and Result.load(tmp_path / "run").made == {"turn": 39}


def test_without_an_exchange_in_one_step_it_is_replaced_too(result, tmp_path, monkeypatch):
    """Where the system cannot let two folders change places; what fails then brings the old one back."""
    monkeypatch.setattr(placing, "_exchanged", lambda one, other: False)
    result.save(tmp_path / "run")
    result.made = {"model": "other"}
    result.save(tmp_path / "run")
    assert Result.load(tmp_path / "run").made == {"model": "other"}
    rename = type(tmp_path).rename

    def failing(one, other):
        if one.name.startswith(".run-") and other.name == "run":
            raise OSError("no")
        return rename(one, other)

    monkeypatch.setattr(type(tmp_path), "rename", failing)
    with pytest.raises(OSError, match="no"):
        result.save(tmp_path / "run")
    monkeypatch.setattr(type(tmp_path), "rename", rename)
    assert Result.load(tmp_path / "run").made == {"model": "other"}
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_killed_saves_left_is_removed_and_nothing_else(result, tmp_path):
    hour = time.time() - placing.LEFT - 60
    left = [".run-abcdefgh.saving", ".run-old-abcdefgh.saving"]
    kept = [".run-2-abcdefgh.saving", ".runs.saving", ".run-abcdefgh", "other"]
    for name in (*left, *kept, young := ".run-ijklmnop.saving"):
        (tmp_path / name).mkdir()
        if name != young:
            os.utime(tmp_path / name, (hour, hour))
    result.save(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, young, "run"])


def test_digests_tell_apart(tmp_path):
    model = interp.load("demo-lm")
    one, other = model.encode([[1, 5, 6, 7]]), model.encode([[1, 5], [6, 7]])
    assert digest(one) != digest(other)
    marked = model.encode([[1, 5, 6, 7]])
    marked.spans["response"] = torch.tensor([[False, False, True, True]])
    assert digest(one) != digest(marked) and digest(one) == digest(model.encode([[1, 5, 6, 7]]))
    record = interp.Task.load("colour", count=1)[0]
    same = interp.Task.load("colour", count=1)[0]
    assert digest(record) == digest(same) and record.image is not same.image
    before = weights_digest(model.hf)
    next(model.hf.parameters()).data.mul_(2)  # which no version counts
    assert weights_digest(model.hf) != before


def test_calls_that_are_often_wrong_are_told_how():
    model, task = interp.load("demo-lm"), interp.Task.load("facts", count=1)
    run = ANALYSES["sinks"]
    for call, message in (
        (lambda: run(task, model), "model and task are swapped"),
        (lambda: run(model.hf, task), "interp.wrap"),
        (lambda: run("demo-lm", task), "interp.load"),
        (lambda: run(model, task, 0.3), "settings by name, such as stack=0.3"),
        (lambda: run(model, [[1, 2], [3]]), "a list of list"),
        (lambda: run(model, []), "an empty list"),
    ):
        with pytest.raises(TypeError, match=message):
            call()
    with pytest.raises(LookupError, match="no figure of 'mine'"):
        Result("mine", pandas.DataFrame()).figure()


def test_mode_and_what_is_live_are_said():
    model, task = interp.load("demo-lm"), interp.Task.load("facts", count=2)
    model.hf.train()
    plain = ANALYSES["sinks"](model, task, ablate="none")
    assert model.hf.training and any("in training mode" in note for note in plain.notes)
    model.hf.eval()
    assert plain.made["using"] == []
    with model.using(interp.Hook("scores", lambda scores, at: scores * 0)):
        changed = ANALYSES["sinks"](model, task, ablate="none")
    assert changed.made["using"] == ["<lambda> at scores of the text stack"]
    assert any("inside model.using" in note for note in changed.notes)
    assert not changed.table.equals(plain.table)


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
