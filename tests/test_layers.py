"""Imports point down the house, files stay small, and rooms have names."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Lower layers first: a file imports from its own layer or below.
LAYERS = [
    ["extras", "manifest", "placing", "progress", "registry", "spelling"],
    ["families", "formats", "gallery", "images", "layouts", "shipped", "sites", "spread"],
    [
        "coupling",
        "credit",
        "edits",
        "metrics",
        "readouts",
        "relevance",
        "remembered",
        "result",
        "statistics",
    ],
    ["structure", "rows", "live"],
    ["collecting", "composing", "eager", "prompt", "shadow", "speaking", "splicing"],
    ["seam", "tokens", "chat", "shown", "processors", "task"],
    ["fitting", "encode", "forward", "parallel", "records", "scoring", "tasks"],
    ["taps", "trace", "asking", "mapping"],
    ["replay", "sweep"],
    ["keeping", "measured"],
    ["model", "points", "faults"],
    ["backends", "wrapping"],
    [
        "batches",
        "loading",
        "looking",
        "making",
        "pairs",
        "plots",
        "propagation",
        "runs",
        "sink_dims",
        "weights",
    ],
    [
        "attribution",
        "backcopy",
        "circuits",
        "direct",
        "dormancy",
        "importance",
        "responses",
        "sink_reading",
        "tracing",
    ],
    ["roles"],
    ["evaluation", "interventions", "steering"],
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted((ROOT / "interp").rglob("*.py"))


def room(path):
    return path.relative_to(ROOT / "interp").parts[0].removesuffix(".py")


def for_types(tree):
    """What only the type checker reads."""
    return {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }


def imported(tree):
    """Rooms imported when the file is."""
    checking = for_types(tree)
    late = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node not in checking and node not in late:
            parts = (node.module or "").split(".")
            if parts[0] == "interp" and len(parts) > 1:
                yield parts[1]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_down(path):
    own = room(path)
    if own == "__init__":
        return
    assert own in HEIGHT, f"{own} has no layer: put it into LAYERS where it belongs"
    for other in imported(ast.parse(path.read_text())):
        assert HEIGHT[other] <= HEIGHT[own], f"{own} imports {other}, which stands above it"


def test_nothing_below_knows_the_questions():
    for path in FILES:
        names = {name for node in ast.walk(ast.parse(path.read_text())) for name in modules(node)}
        assert not names & {"analyses", "app", "tests", "benchmarks", "docs"}, path


def modules(node):
    if isinstance(node, ast.Import):
        return [alias.name.split(".")[0] for alias in node.names]
    return [node.module.split(".")[0]] if isinstance(node, ast.ImportFrom) and node.module else []


def test_plotly_lives_in_plots_alone():
    users = set()
    for path in FILES:
        tree = ast.parse(path.read_text())
        checking = for_types(tree)
        names = {name for node in ast.walk(tree) if node not in checking for name in modules(node)}
        users |= {room(path)} if "plotly" in names else set()
    assert users == {"plots"}


@pytest.mark.parametrize("folder", ["interp", "analyses", "app", "benchmarks", "docs"])
def test_files_stay_small_and_rooms_have_names(folder):
    for path in (ROOT / folder).rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, path
        assert path.stem not in {"utils", "util", "helpers", "common", "base", "core", "manager"}
