"""`python -m analyses NAME`, and interventions written as a line of text."""

from pathlib import Path

import pytest

import interp
from analyses.__main__ import main, settings_of
from interp.interventions import PAI
from interp.steering.written import written

README = Path(__file__).parents[1] / "README.md"


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


def test_options_become_settings():
    rest = ["--epsilon", "0.2", "--sites", "z", "mlp_out", "--exact", "--top-edges", "None"]
    settings = {"epsilon": 0.2, "sites": ["z", "mlp_out"], "exact": True, "top_edges": None}
    assert settings_of(rest) == settings
    with pytest.raises(ValueError, match="belongs to no option"):
        settings_of(["0.2"])


def test_a_result_is_saved_and_said(tmp_path, capsys):
    out = str(tmp_path / "sinks")
    asked = ["sinks", "--model", "demo-lm", "--task", "facts", "--count", "4", "--ablate", "none"]
    assert main([*asked, "--out", out]) == 0
    assert "Saved in" in capsys.readouterr().out
    made = interp.Result.load(out).made
    assert made["records"] == 4 and made["settings"]["ablate"] == "none"


def test_the_commands_of_the_readme_run(tmp_path, capsys):
    """Those about circuits, with fewer records; circuit_reuse has a test of its own."""
    lines = [
        line.split()
        for line in README.read_text().splitlines()
        if line.startswith("python -m analyses ")
    ]
    some = [words[3:] for words in lines if words[3] in ("repair", "emergent_heads")]
    assert len(some) == 2
    for words in some:
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
        (["circuit", "--model", "demo-lm"], "--task ioi"),
        (["emergent_heads", "--model", "demo-lm", "--task", "ioi", "--count", "9"], "before="),
        (["sink"], "Did you mean 'sinks'"),
        (["sinks", "--model", "demo-lm", "--task", "factz"], "facts"),
        (["sinks", "--model", "demo-lm", "--task", "facts", "--epsilon", "7"], "epsilon"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(asked, message, capsys):
    assert main(asked) == 2
    assert message in capsys.readouterr().err
