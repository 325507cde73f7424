"""The README's tables are generated, its snippets run, and its commands are in the Makefile."""

import re
from pathlib import Path

import interp
from docs.readme import PAGE, filled

TEXT = PAGE.read_text(encoding="utf-8")


def test_tables_are_current():
    assert filled(TEXT) == TEXT, "the README is out of date: python -m docs.readme"


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them saves a result
    snippets = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    assert len(snippets) == 12
    # The image's snippet comes second, and leaves its own prompt behind.
    snippets[1], snippets[0] = snippets[0], snippets[1]
    names = {"interp": interp}
    for snippet in snippets:
        exec(snippet, names)
    assert names["trace"]["received", 2].shape[:2] == (1, 8)
    assert names["prompt"].where("S2").sum() == 8
    assert names["grid"].shape == (1, 4, 16) and names["grid"].path == "positions"
    assert type(names["model"]) is interp.Model
    assert type(names["result"]) is interp.Result and (tmp_path / "runs" / "sinks").is_dir()


def test_commands_and_counts():
    makefile = (PAGE.parent / "Makefile").read_text()
    for command in re.findall(r"^make (\w+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)
    rows = (PAGE.parent / "docs" / "models.md").read_text().splitlines()
    count = sum(row.startswith("| ") for row in rows) - 1
    assert f"[{count} families]" in TEXT
    for link in re.findall(r"\]\(([\w/.]+)\)", TEXT):
        assert (Path(PAGE.parent) / link).exists(), link


def test_demo_writes_a_report(tmp_path):
    from app.demo import report

    said = report(tmp_path / "deep" / "report.html")
    page = (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")
    assert "40 of 40 sites can be read, 40 changed" in said
    assert "sinks: facts, text stack: " in said and "flow: " in said and "circuits: ioi and" in said
    assert "patched runs, exact; the metric goes from -" in said
    assert page.count("plotly-graph-div") == 11 and "which is right" in page
    assert "cdn" not in page[:2000] and "<script src=" not in page
