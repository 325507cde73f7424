"""`interp run NAME` and `python -m analyses NAME`: words become settings, results are saved and told."""

import inspect
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import interp
from analyses import ANALYSES
from analyses.__main__ import main
from app.command import app
from app.command.asking import first_line, names
from app.command.settings import free, typed, words_of
from app.suited import known_tasks, likely_tasks
from interp.interventions import PAI
from interp.steering.written import written

ROOT = Path(__file__).parents[1]


def ask(*words):
    return CliRunner().invoke(app, ["run", *map(str, words)], catch_exceptions=False)


def test_a_line_names_an_intervention():
    assert written("PAI") == PAI() == written(" PAI() ")
    assert written("PAI(alpha=0.5, layers=[1, 2])") == PAI(alpha=0.5, layers=[1, 2])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("PAL", "Did you mean 'PAI'"),
        ("PAI(alfa=1)", "Did you mean 'alpha'"),
        ("PAI(0.5)", "settings go by name"),
        ("PAI(alpha=open('x'))", "a number, a string, a list"),
        ("PAI(", "names no intervention"),
        ("a.b(c=1)", "settings go by name"),
    ],
)
def test_other_lines_are_refused(line, message):
    with pytest.raises((ValueError, LookupError), match=message):
        written(line)


def test_words_belong_to_the_option_before_them():
    line = ["--sites", "z", "mlp_out", "--exact", "--top-edges=None", "--task", "a", "--task=b"]
    found = {"sites": ["z", "mlp_out"], "exact": [], "top_edges": ["None"], "task": ["a", "b"]}
    assert words_of(line) == found
    with pytest.raises(ValueError, match="belongs to no option"):
        words_of(["0.2"])
    assert [free(words) for words in ([], ["0.2"], ["z", "1"])] == [True, 0.2, ["z", 1]]


@pytest.mark.parametrize(
    ("annotation", "words", "value"),
    [
        ("int", ["3"], 3),
        ("float", ["3"], 3),
        ("float | None", ["None"], None),
        ("str | None", ["2024"], "2024"),
        ("str", ["'a b'"], "a b"),
        ("float | str", ["relative"], "relative"),
        ("float | str", ["0.1"], 0.1),
        ("bool", [], True),
        ("bool", ["false"], False),
        ("bool | None", ["None"], None),
        ("collections.abc.Sequence[str] | str", ["z"], "z"),
        ("collections.abc.Sequence[str] | str", ["z", "q"], ["z", "q"]),
        ("collections.abc.Sequence[int] | None", ["2"], [2]),
        ("collections.abc.Sequence[int] | None", ["[2, 3]"], [2, 3]),
        ("Sequence[Any] | None", ["3.1", "2.0"], ["3.1", "2.0"]),  # heads
        ("Sequence[Any] | str", ["(3, 1, 'q')"], [(3, 1, "q")]),
        ("tuple[int, int | None]", ["0", "None"], (0, None)),
        ("Mapping[str, Any] | None", ["{'a': 1}"], {"a": 1}),
        (inspect.Parameter.empty, ["VAR", "PAI(alpha=1)"], ["VAR", "PAI(alpha=1)"]),
        (int, ["3"], 3),
    ],
)  # fmt: skip
def test_a_setting_is_of_the_type_of_its_annotation(annotation, words, value):
    got = typed("name", words, annotation)
    assert got == value and type(got) is type(value)


@pytest.mark.parametrize(
    ("annotation", "words", "message"),
    [
        ("int", ["3.5"], "--least-rows takes a whole number, not '3.5'"),
        ("int", ["True"], "a whole number"),
        ("int", ["1", "2"], "not '1' '2'"),
        ("float", [], "a number, not nothing"),
        ("bool", ["maybe"], "true or false"),
        ("Sequence[int]", ["1", "x"], "several: a whole number each"),
        ("int | None", ["no"], "a whole number or None"),
    ],
)
def test_what_a_setting_does_not_take_is_said(annotation, words, message):
    with pytest.raises(ValueError, match=message):
        typed("least_rows", words, annotation)


def test_analyses_are_listed_without_being_imported():
    assert names() == list(ANALYSES)
    for name in names():
        said = inspect.getdoc(ANALYSES[name]) or ""
        assert first_line(name) == " ".join(said.split("\n\n")[0].split())


@pytest.mark.parametrize("name", list(ANALYSES))
def test_help_lists_exactly_the_settings(name):
    got = ask(name, "--help")
    parameters = inspect.signature(ANALYSES[name]).parameters.values()
    settings = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    options = got.stdout.split("\nOptions:\n")[1].split("\n\n")[0]
    own = [line.split()[0][2:] for line in options.splitlines() if line.startswith("  --")]
    common = ["model", "task", "dtype", "device", "backend", "fault", "images", "out", "on"]
    expected = [one for one in common if one not in {each.name for each in settings}]
    expected += [one.name.replace("_", "-") for one in settings] + ["json", "help"]
    assert got.exit_code == 0 and own == expected
    plain = " ".join(options.split())
    for one in settings:
        if isinstance(one.default, (bool, int, float, str)):
            assert f"[default: {one.default}]" in plain


def test_a_result_is_saved_and_said(tmp_path, capsys):
    out = str(tmp_path / "sinks")
    asked = ["sinks", "--model", "demo-lm", "--task", "facts", "--count", "4", "--ablate", "none"]
    assert main([*asked, "--out", out]) == 0
    said = capsys.readouterr().out
    assert "Saved in" in said and (tmp_path / "sinks.html").is_file() and "* facts, text" in said
    made = interp.Result.load(out).made
    assert made["records"] == 4 and made["settings"]["ablate"] == "none"


def test_without_a_task_one_that_suits_is_taken_and_said(tmp_path):
    done = ask("sinks", "--model", "demo-lm", "--ablate", "none", "--out", tmp_path / "sinks")
    assert done.exit_code == 0, done.output
    assert "No --task was given: sinks is asked of 16 records of facts." in done.stderr
    assert interp.Result.load(tmp_path / "sinks").made["records"] == 16


@pytest.mark.parametrize("kind", ["text", "vlm", "vision"])
@pytest.mark.parametrize("name", sorted(ANALYSES))
def test_what_is_asked_where_nobody_says_suits_the_analysis(name, kind):
    found = likely_tasks(name, kind)
    assert len(found) == len(set(found)) and set(found) <= set(known_tasks(name, kind))
    assert found or not known_tasks(name, kind)


def test_json_is_one_document(tmp_path):
    asked = ["sinks", "--model", "demo-lm", "--task", "facts", "--count", 4, "--ablate", "none"]
    got = ask(*asked, "--json", "--out", tmp_path / "sinks")
    told, kept = json.loads(got.stdout), interp.Result.load(tmp_path / "sinks")
    assert got.exit_code == 0 and told["saved"] == str(tmp_path / "sinks")
    assert len(told["table"]) == len(kept.table) == 32 and told["notes"] == kept.notes
    assert told["table"][5]["alpha_first"] == kept.table["alpha_first"][5]
    assert told["made"]["settings"]["epsilon"] == 0.3 and set(told["tables"]) == set(kept.tables)


def test_models_and_tasks_in_settings_are_opened(tmp_path):
    asked = ["compare", "--model", "demo-vlm", "--fault", "image-suppressed", "--task", "existence"]
    more = [
        "--count",
        16,
        "--interventions",
        "PAI(alpha=0.2)",
        "--whole",
        "demo-vlm",
        "--draws",
        20,
    ]
    tuned = [
        "--choose",
        "{'chosen': ['PAI(alpha=0.5)', 'PAI(alpha=0.9)']}",
        "--validation",
        "existence",
    ]
    got = ask(*asked, *more, *tuned, "--json", "--out", tmp_path / "compare")
    assert got.exit_code == 0, got.stderr
    rows = json.loads(got.stdout)["table"]
    assert [row["name"] for row in rows] == ["plain", "whole", "PAI", "chosen"]
    assert rows[1]["value"] > rows[0]["value"]


def test_the_commands_of_the_docs_run(tmp_path, capsys):
    """Those about circuits, with fewer records; circuit_reuse has a test of its own."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    lines = [line.split() for page in pages for line in page.read_text().splitlines()]
    asked = [line[2:] for line in lines if line[:2] == ["interp", "run"]]
    some = {words[0]: words for words in asked if words[:1] in (["repair"], ["emergent_heads"])}
    assert len(some) == 2
    for words in some.values():
        if "--count" in words:
            del words[words.index("--count") : words.index("--count") + 2]
        assert (
            main([*words, "--count", "24", "--draws", "2", "--out", str(tmp_path / words[0])]) == 0
        )
        assert interp.Result.load(tmp_path / words[0]).made["records"] == 24
    assert "Of 12 records" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["circuit", "--model", "demo-lm", "--task", "ioi", "facts", "--count", "9"], "one task"),
        (["emergent_heads", "--model", "demo-lm", "--task", "ioi", "--count", "9"], "before="),
        (["sink"], "Did you mean 'sinks'"),
        (["sinks"], "--model is missing"),
        (["sinks", "--model", "demo-lm", "--task", "factz"], "facts"),
        (["sinks", "--model", "demo-lm", "--task", "facts", "--epsilon", "7"], "epsilon"),
        (["sinks", "--model", "demo-lm", "--task", "facts", "--epsilo", "7"], "mean '--epsilon'"),
        (["sinks", "--model", "demo-lm", "--task", "facts", "--cuont", "7"], "mean '--count'"),
        (
            ["sinks", "--model", "demo-lm", "--epsilom", "7"],
            "which is given no task, has no option",
        ),
        (["sinks", "--model", "a", "b"], "--model takes one value"),
        (["sinks", "--json", "yes", "--model", "demo-lm"], "--json takes no value"),
        (["sinks", "demo-lm"], "belongs to no option"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(asked, message, capsys):
    assert main(asked) == 2
    said = capsys.readouterr()
    assert message in said.err and "Traceback" not in said.err and not said.out
