"""The core alone: it imports and works where no extra is installed, and names the one that is asked for."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from interp.extras import EXTRAS, need

ROOT = Path(__file__).parents[1]
# Extras, and what only developers or notebooks have.
HIDDEN = [*EXTRAS, "playwright", "IPython", "ipykernel", "ipywidgets", "nbclient", "nbformat", "beartype",
          "pytest", "uvicorn", "starlette", "sentence_transformers"]  # fmt: skip

HIDES = f"""
import sys
from importlib.machinery import PathFinder

class Without:
    '''Finds what is installed, but for some packages: as if these were not.'''
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {HIDDEN} else PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        found = PathFinder.find_distributions(context)
        return (one for one in found if one.name.lower().replace("-", "_") not in {HIDDEN})

sys.meta_path = [Without() if one is PathFinder else one for one in sys.meta_path]
"""

WORKS = """
import contextlib, io, json, pathlib
import interp, analyses, app
from analyses import ANALYSES
from app.command import main
from interp.interventions import PASTA

def line(*words):
    told, noted = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(noted):
        code = main([str(word) for word in words])
    return {"code": code, "out": told.getvalue(), "err": noted.getvalue()}

def refused(function):
    try:
        function()
    except ImportError as problem:
        return str(problem)

seen = {}
model, task = interp.load("demo-lm"), interp.Task.load("facts", count=2)
seen["trace"] = list(model.trace(task[0].prompt, "pattern")["pattern", 0].shape)
plain, pressed = (model.logits(task[0].prompt, using=using) for using in ((), PASTA("first", heads=[(0, 0)])))
seen["edit"] = not bool((plain == pressed).all())
result = ANALYSES["sinks"](model, task, ablate="none")
seen["figure"] = len(result.figure().data)
again = interp.Result.load(result.save("saved"))
seen["saved"] = again.table.equals(result.table)
seen["analyses"] = len(ANALYSES)
asked = ["run", "sinks", "--model", "demo-lm", "--task", "facts", "--count", 2, "--ablate", "none"]
one_token = ["--model", "demo-lm", "--max-new-tokens", 1]
lines = {
    "run": asked, "help": ["--help"], "help of run": ["run", "sinks", "--help"], "ls": ["runs", "ls"],
    "show": ["runs", "show", "sinks"], "generate": ["generate", "w", *one_token],
    "points": ["points", "--model", "demo-lm"], "explore": ["explore"], "on ray": [*asked, "--on", "ray"],
}
seen["lines"] = {name: line(*words) for name, words in lines.items()}
for name in ("lens", "nnsight"):
    seen[name] = refused(lambda: interp.load("demo-lm", backend=name))
seen["ray"] = refused(lambda: ANALYSES["sinks"](model, task, on="ray"))
print("\\n" + json.dumps(seen))
"""


def python(code, cwd):
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300, cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    return python(HIDES + WORKS, tmp_path_factory.mktemp("core"))


def test_the_core_works(seen):
    assert seen["trace"][0] == 1 and seen["edit"] and seen["figure"] and seen["saved"]
    assert seen["analyses"] > 10
    for name in ("run", "help", "help of run", "ls", "show", "generate", "points"):
        assert seen["lines"][name]["code"] == 0 and seen["lines"][name]["out"], (
            name,
            seen["lines"],
        )
    assert "1 result." in seen["lines"]["ls"]["out"]


@pytest.mark.parametrize(
    ("what", "extra", "asked"),
    [
        ("lens", "lens", "transformer-lens"),
        ("nnsight", "nnsight", "nnsight"),
        ("ray", "ray", "ray"),
    ],
)
def test_a_missing_extra_is_named(seen, what, extra, asked):
    assert f"needs {asked}, which is not installed: pip install 'interp[{extra}]'." in seen[what]


@pytest.mark.parametrize(("line", "extra"), [("explore", "app"), ("on ray", "ray")])
def test_a_command_names_the_missing_extra(seen, line, extra):
    got = seen["lines"][line]
    assert got["code"] == 2 and f"pip install 'interp[{extra}]'" in got["err"]


IMPORTS = f"""
import sys, json
import interp, analyses, app, app.command, interp.extras
from analyses import ANALYSES
from interp.interventions import INTERVENTIONS
from interp.metrics import METRICS
list(ANALYSES), list(INTERVENTIONS), list(METRICS)
model = interp.load("demo-lm")
print(json.dumps([name for name in {HIDDEN} if name in sys.modules]))
"""


def test_nothing_imports_an_extra_by_itself(tmp_path):
    """Where they are installed too."""
    assert python(IMPORTS, tmp_path) == []


def test_an_extra_that_is_installed_and_broken_speaks_for_itself(tmp_path, monkeypatch):
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "__init__.py").write_text("import what_ray_needs")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "ray"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="what_ray_needs"):
        need("ray", "this test")
    assert need("json", "this test") is json
