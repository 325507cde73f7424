"""`interp`: what each command prints, its JSON, its exit codes, and what never becomes markup."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas
import pytest
import torch
from typer.testing import CliRunner

import interp
from app.command import app, main
from app.command.saying import shown
from interp.result import Result

ROOT = Path(__file__).parents[1]


def ask(*words):
    got = CliRunner().invoke(app, [str(word) for word in words])
    assert got.exception is None or isinstance(got.exception, SystemExit), got.exception
    return got


def started(*words, **more):
    """The same in a process of its own, from another folder."""
    path = {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    line = [sys.executable, "-m", "app.command", *map(str, words)]
    return subprocess.Popen(line, env={**os.environ, **path}, **given)


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Three results in ./runs, two of them equal, and a broken one."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("one", 1.0), ("same", 1.0), ("other", 2.0)):
        table = pandas.DataFrame({"token": ["[red]", "\x1b[2J"], "value": [value, 0.5]})
        made = {"model": "demo-lm", "settings": {"epsilon": value}, "at": name}
        Result("sinks", table, {"finer": table.head(1)}, notes=["[bold]n"], made=made).save(
            tmp_path / "runs" / name
        )
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "manifest.json").write_text("{")
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def square(tmp_path_factory):
    path = tmp_path_factory.mktemp("images") / "square.png"
    interp.Task.load("existence", count=1, negatives="random")[0].image.save(path)
    return path


def test_help_names_commands_and_exit_codes():
    got = ask("--help")
    said = " ".join(got.stdout.split())
    assert got.exit_code == 0
    for command in ("explore", "run", "generate", "compare", "points", "runs"):
        assert f" {command} " in said and ask(command, "--help").exit_code == 0
    for told in ("0 fine", "1 `interp runs compare` found differences", "2 wrong use", "130"):
        assert told in said
    assert ask("--version").stdout == f"interp {interp.__version__}\n"
    assert ask().stdout == got.stdout


def test_help_imports_nothing_heavy():
    """Of a process: no torch for help and lists, so that they come at once."""
    code = (
        "import sys\nfrom app.command import main\n"
        "for words in (['--help'], ['run', '--help'], ['--version'], ['generate', '--help']):\n"
        "    assert main(words) == 0\n"
        "heavy = {'torch', 'transformers', 'pandas', 'streamlit', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "[]", done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runz"], "Did you mean 'run'"),
        (["generate"], "Missing argument 'prompt'"),
        (["generate", "hi"], "Missing option '--model'"),
        (["generate", "hi", "--model", "demo-lmm"], "Did you mean 'demo-lm'"),
        (["generate", "hi", "--model", "demo-lm", "--using", "VARR"], "Did you mean 'VAR'"),
        (["generate", "hi", "--model", "demo-lm", "--usin", "VAR"], "--using"),
        (["generate", "hi", "--model", "demo-vlm", "--image", "no.png"], "no image 'no.png'"),
        (["generate", "hi", "--model", "demo-vlm", "--image", __file__], "cannot be read as an image"),
        (["generate", "hi", "--model", "demo-vit"], "reads images only"),
        (["generate", "", "--model", "demo-lm", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["points", "--model", "demo-lm", "--dtype", "int8"], "weights cannot be"),
        (["explore", "nowhere"], "no folder 'nowhere'"),
        (["runs", "shwo"], "Did you mean 'show'"),
        (["runs", "show", "on"], "Did you mean 'one'"),
        (["runs", "show", "bad"], "manifest.json cannot be read"),
        (["runs", "show", "one", "--table", "fine"], "Did you mean 'finer'"),
        (["runs", "compare", "one"], "Missing argument"),
        (["runs", "export", "one", "--csv", "all", "--table", "finer"], "--csv all.csv"),
    ],
)  # fmt: skip
def test_wrong_use_ends_with_2_and_a_sentence(runs, words, message):
    got = ask(*words)
    assert got.exit_code == 2 and message in got.stderr and not got.stdout
    assert "Traceback" not in got.stderr and got.stderr.count("\n") == 1


def test_a_fault_of_our_own_shows_where_it_comes_from(monkeypatch):
    def broken(*_, **__):
        raise IndexError("nobody foresaw this")

    monkeypatch.setattr("interp.points.probe", broken)
    got = ask("points", "--model", "demo-lm")
    assert got.exit_code == 3 and "nobody foresaw this" in got.stderr and "Traceback" in got.stderr


def test_main_returns_the_code(runs, capsys):
    assert main(["runs", "compare", "one", "same"]) == 0
    assert main(["runs", "compare", "one", "other"]) == 1
    assert main(["runs", "compare", "one", "none"]) == 2
    assert "Did you mean 'one'" in capsys.readouterr().err


def test_generate_answers(square):
    got = ask("generate", "Then, Mary and John went to the store. John gave a book to",
              "--model", "demo-lm", "--max-new-tokens", 1)  # fmt: skip
    assert (got.exit_code, got.stdout) == (0, "Mary\n")


def test_generate_sets_the_answers_side_by_side(square):
    task = interp.Task.load("colour", count=6)
    task[0].image.save(square.with_name("colour.png"))
    words = [task[0].prompt, "--model", "demo-vlm", "--image", square.with_name("colour.png")]
    words += ["--using", "PAI(alpha=0.5)", "--max-new-tokens", 3]
    told = json.loads(ask("generate", *words, "--json").stdout)
    model = interp.load("demo-vlm")
    prompt = model.encode(task[0].prompt, images=task[0].image.convert("RGB"))
    with torch.no_grad():
        plain = model.decode(model.generate(prompt, max_new_tokens=3, do_sample=False), prompt)[0]
        using = interp.interventions.PAI(alpha=0.5)
        ids = model.generate(prompt, using=using, max_new_tokens=3, do_sample=False)
    assert told["plain"] == plain and told["answer"] == model.decode(ids, prompt)[0]
    assert plain.strip() == task[0].answers[0].strip()
    changed = sum(row["changed"] for row in told["report"])
    assert changed > 0 and f"PAI: {changed} of" in told["touched"][0]
    said = ask("generate", *words).stdout.splitlines()
    assert said[0].split() == ["plain", plain.strip()]
    assert said[1].startswith("PAI(alpha=0.5)  ") and any(line.startswith("* PAI") for line in said)


def test_generate_under_a_fault(square):
    asked = ["generate", "Is there a cross in the image?", "--image", square, "--model", "demo-vlm"]
    told = json.loads(ask(*asked, "--fault", "image-suppressed", "--json").stdout)
    assert told["fault"] == "image-suppressed" and told["answer"].strip() in ("yes", "no")


def test_points_stand_together_where_layers_answer_alike():
    got = ask("points", "--model", "demo-lm")
    first = got.stdout.splitlines()[1].split()
    assert got.exit_code == 0 and first == ["text", "0-3", "resid_pre", "yes", "yes"]
    assert "40 of 40 points can be read, 40 changed" in got.stdout
    told = json.loads(ask("points", "--model", "demo-vlm", "--json").stdout)
    assert len(told["points"]) == 70 and all(
        row["read"] and row["change"] for row in told["points"]
    )


def test_runs_are_listed(runs):
    got = ask("runs")
    assert got.exit_code == 0 and "3 results, 1 broken." in got.stdout
    assert "broken: runs/bad: its manifest.json cannot be read" in got.stdout
    for words in (["ls", runs], [runs]):
        assert ask("runs", *words).stdout.count("demo-lm") == 3
    told = json.loads(ask("runs", "--json").stdout)["runs"]
    assert [row["run"] for row in told] == ["runs/bad", "runs/one", "runs/other", "runs/same"]
    assert told[0]["problem"] and not told[1]["problem"] and told[1]["rows"] == 2


def test_runs_that_come_along_are_listed_without_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = json.loads(ask("runs", "--json").stdout)["runs"]
    assert {"sinks", "circuit"} <= {row["analysis"] for row in told}


def test_a_run_is_shown_as_it_is(runs):
    said = ask("runs", "show", "one").stdout
    assert "[red]" in said and "* [bold]n" in said and 'settings: {"epsilon": 1.0}' in said
    assert "\x1b" not in said and "\\x1b[2J" in said, "control characters are shown, not sent"
    assert ask("runs", "show", runs / "one").stdout == said
    told = json.loads(ask("runs", "show", "one", "--json").stdout)
    assert told["table"][1] == {"token": "\x1b[2J", "value": 0.5} and list(told["tables"]) == [
        "finer"
    ]
    assert len(json.loads(ask("runs", "show", "one", "--table", "finer", "--json").stdout)) == 1


def test_runs_are_compared(runs):
    same = ask("runs", "compare", "one", "same")
    assert (same.exit_code, same.stdout) == (0, "Equal.\n")
    got = ask("runs", "compare", "one", "other", "--json")
    told = json.loads(got.stdout)
    assert got.exit_code == 1 and not told["equal"]
    assert [row["name"] for row in told["differences"]] == [
        "settings.epsilon",
        "finer.value: 1 of 1 rows, most in row 0",
        "table.value: 1 of 2 rows, most in row 0",
    ]
    assert "made settings.epsilon: 1.0 | 2.0" in ask("runs", "compare", "one", "other").stdout


def test_a_run_is_exported(runs, tmp_path):
    assert ask("runs", "export", "one", "--csv", tmp_path / "deep" / "one.csv").exit_code == 0
    read = pandas.read_csv(tmp_path / "deep" / "one.csv")
    assert read["token"].tolist() == ["[red]", "\x1b[2J"] and read["value"].tolist() == [1.0, 0.5]
    told = json.loads(ask("runs", "export", "one", "--csv", tmp_path / "all", "--json").stdout)
    assert [Path(one["file"]).name for one in told["written"]] == ["table.csv", "finer.csv"]
    assert len(pandas.read_csv(tmp_path / "all" / "finer.csv")) == 1


def test_a_wide_and_long_table_is_cut_and_says_so():
    table = pandas.DataFrame(
        [[row] * 20 for row in range(50)], columns=[f"c{n}" for n in range(20)]
    )
    said = shown(table.assign(c3=None))
    assert "... 10 more rows" in said and "... 5 more columns" in said and "c3" not in said


def test_explore_hands_over_what_was_asked(runs, monkeypatch):
    calls = []

    def serve(*given, ready, **more):
        ready()
        calls.append((given, more))

    monkeypatch.setattr("app.serve.serve", serve)
    words = [runs, "--model", "demo-lm", "--model", "demo-vit", "--no-browser", "--port", 9000]
    got = ask("explore", *words, "--json")
    assert got.exit_code == 0 and json.loads(got.stdout)["url"] == "http://127.0.0.1:9000"
    assert calls == [
        (([runs], ["demo-lm", "demo-vit"]), {"host": "127.0.0.1", "port": 9000, "browser": False})
    ]


def test_explore_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "streamlit", None)
    got = ask("explore")
    assert got.exit_code == 2 and "pip install 'interp[app]'" in got.stderr


def test_a_process_keeps_stdout_for_the_document(tmp_path):
    words = ["sinks", "--model", "demo-lm", "--task", "facts", "--count", 4, "--ablate", "none"]
    said, told = started("run", *words, "--json", cwd=tmp_path).communicate(timeout=120)
    assert json.loads(said)["made"]["records"] == 4 and "Traceback" not in told
    assert (tmp_path / "runs" / "sinks" / "manifest.json").is_file()
    assert "Loading weights" not in told, "no bars into files"


def test_an_interrupted_process_ends_with_130(tmp_path):
    words = ["run", "bigram_backcopy", "--steps", 100_000]
    with started(*words, cwd=tmp_path, preexec_fn=_interruptible) as process:
        assert process.stderr is not None
        seen = ""
        while "bigram_backcopy:" not in seen:  # its bar
            seen += (more := process.stderr.read(1))
            assert more, seen
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Interrupted" in told and "Traceback" not in told
    assert not (tmp_path / "runs").exists()


def _interruptible():
    """A shell starts what runs in its background with interrupts ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_a_reader_that_goes_away_is_no_error(runs):
    process = started("runs", "show", "one", cwd=runs.parent)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    with process.stderr:
        said = process.stderr.read()
    assert process.wait(timeout=60) == 0 and not said
