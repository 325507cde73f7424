"""`python -m analyses NAME`, and interventions written as a line of text."""

import pytest

import interp
from analyses.__main__ import main, settings_of
from interp.interventions import PAI
from interp.steering.written import written


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


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["sink"], "Did you mean 'sinks'"),
        (["sinks", "--model", "demo-lm", "--task", "factz"], "facts"),
        (["sinks", "--model", "demo-lm", "--task", "facts", "--epsilon", "7"], "epsilon"),
    ],
)
def test_what_is_wrong_is_said_without_a_traceback(asked, message, capsys):
    assert main(asked) == 2
    assert message in capsys.readouterr().err
