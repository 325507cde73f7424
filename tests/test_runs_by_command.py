"""`interp runs`: filters, order, zip files; `interp run`: one figure, going on; the page about them."""

import json
import shlex
import zipfile
from pathlib import Path

import pandas
import pytest
from typer.testing import CliRunner

from analyses import ANALYSES
from app.command import app, ending
from interp.result import Result
from interp.runs import differences
from tests.documented import snippets

PAGE = (Path(__file__).parents[1] / "docs" / "runs.md").read_text(encoding="utf-8")


def ask(*words):
    got = CliRunner().invoke(app, [str(word) for word in words])
    assert got.exception is None or isinstance(got.exception, SystemExit), got.exception
    return got


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = [
        ("a", "sinks", "demo-lm", "facts", "2026-01-01", 2.0),
        ("b", "circuit", "demo-lm", "ioi", "2026-01-03", 10.0),
        ("c", "sinks", "demo-vlm", "colour", "2026-01-02", 1.0),
    ]
    for name, analysis, model, task, at, seconds in made:
        told = {"model": model, "task": task, "at": at, "seconds": seconds}
        table = pandas.DataFrame({"value": [1.0]})
        Result(analysis, table, {"finer": table}, made=told).save(f"runs/{name}")
    Result("sinks", pandas.DataFrame({"value": [1.0]})).save("runs/untold")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "manifest.json").write_text("{")
    return tmp_path / "runs"


def listed(*words):
    told = json.loads(ask("runs", "ls", *words, "--json").stdout)["runs"]
    return [row["run"].removeprefix("runs/") for row in told]


def test_runs_are_chosen(runs):
    assert listed("--analysis", "sinks") == ["a", "c", "untold"]
    assert listed("--analysis", "sinks", "--model", "demo-*") == ["a", "c"]
    assert listed("--model", "demo-lm", "--task", "ioi") == ["b"]
    said = ask("runs", "ls", "--task", "facts").stdout
    assert said.endswith("1 result, of 5 that are there.\n") and "broken" not in said
    for words, told in (
        (["--model", "demo-ml"], "no result here of the model 'demo-ml'. Did you mean 'demo-lm'?"),
        (["--model", "demo-vlm", "--task", "ioi"], "There are: colour."),
    ):
        got = ask("runs", "ls", *words)
        assert got.exit_code == 2 and told in got.stderr and not got.stdout


def test_runs_are_sorted(runs):
    assert listed() == ["a", "b", "bad", "c", "untold"]
    assert listed("--sort", "time") == ["b", "c", "a", "bad", "untold"]
    assert listed(runs, "--sort", "seconds")[0].endswith("b")
    assert ask("runs", "--sort", "size").exit_code == 2


def test_a_run_is_packed_and_unpacked(runs, tmp_path):
    got = ask("runs", "export", "a", "--zip", tmp_path / "deep" / "a.zip")
    assert got.exit_code == 0 and got.stdout == f"{tmp_path / 'deep' / 'a.zip'}\n"
    with zipfile.ZipFile(tmp_path / "deep" / "a.zip") as packed:
        packed.extractall(tmp_path / "elsewhere")
    assert differences(Result.load(tmp_path / "elsewhere" / "a"), Result.load(runs / "a")).empty
    both = ["--zip", tmp_path / "b.zip", "--csv", tmp_path / "b.csv", "--table", "finer", "--json"]
    told = json.loads(ask("runs", "export", "b", *both).stdout)["written"]
    assert told == [{"file": str(tmp_path / "b.csv"), "rows": 1}, {"file": str(tmp_path / "b.zip")}]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "say what to write: --csv FILE.csv, --csv FOLDER or --zip FILE.zip."),
        (["--zip", "folder"], "--zip folder.zip."),
        (["--zip", "a.zip", "--table", "finer"], "--table goes into a CSV file"),
    ],
)
def test_what_cannot_be_exported(runs, tmp_path, words, told):
    got = ask("runs", "export", "a", *words)
    assert got.exit_code == 2 and told in got.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    assert ask("runs", "export", "bad", "--zip", "bad.zip").exit_code == 2


def test_the_same_line_gives_the_same_figure(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = [
        "run",
        "sinks",
        "--model",
        "demo-lm",
        "--task",
        "facts",
        "--count",
        2,
        "--ablate",
        "none",
    ]
    figures = []
    for _ in range(2):
        assert ask(*line).exit_code == 0
        figures.append((tmp_path / "runs" / "sinks.html").read_bytes())
    assert figures[0] == figures[1] and figures[0].rstrip().endswith(b"</html>")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["sinks", "sinks.html"]


@pytest.mark.parametrize(
    ("words", "told"),
    [(["--save", "chunks"], ending.RESUMES), (["--save=chunks"], ending.RESUMES),
     ([], "nothing was saved.")],
)  # fmt: skip
def test_an_interrupted_run_says_what_is_kept(monkeypatch, words, told):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("app.command.asking.asked", interrupted)
    got = ask("run", "activation_patching", *words)
    assert got.exit_code == 130 and got.stderr == f"Interrupted; {told}\n"


def test_the_page_about_runs(tmp_path, monkeypatch, capsys):
    """Its snippets and its lines run as they stand."""
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in snippets(PAGE):
        exec(snippet, names)
    assert names["same"](names["table"]) and "runs/sinks sinks 32" in capsys.readouterr().out
    lines = [line for fence in snippets(PAGE, "sh") for line in fence.splitlines()]
    asked = [shlex.split(line.split(">")[0], comments=True)[1:] for line in lines]
    told = [words for words in asked if words[0] == "runs"]
    assert len(told) == 6
    for words in told:
        assert ask(*words).exit_code == 0, words
    assert len(list((tmp_path / "folder").iterdir())) > 3


def test_the_page_about_runs_names_what_goes_on_after_a_kill():
    import inspect

    saves = [name for name in ANALYSES if "save" in inspect.signature(ANALYSES[name]).parameters]
    assert f"| {', '.join(f'`{name}`' for name in saves)} | a folder |" in PAGE
