"""The README's tables are generated, its snippets run, and its commands are in the Makefile."""

import re

import interp
from docs.readme import PAGE, filled
from tests.documented import snippets

TEXT = PAGE.read_text(encoding="utf-8")


def test_tables_are_current():
    assert filled(TEXT) == TEXT, "the README is out of date: python -m docs.readme"


def test_every_snippet_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # one of them saves a result
    names = {}
    found = snippets(TEXT)
    assert len(found) == 5
    for snippet in found:
        exec(snippet, names)
    assert names["trace"]["received", 2].shape[:2] == (1, 8)
    assert names["row"][names["seen"].where("image")[0]].sum() > 0.9  # head 1.0 sees the image
    assert type(names["model"]) is interp.Model
    assert type(names["result"]) is interp.Result
    assert (tmp_path / "runs" / "importance").is_dir()
    assert "3 of 3 layers" in str(names["report"])


def test_commands_are_there():
    makefile = (PAGE.parent / "Makefile").read_text()
    commands = re.findall(r"^make (\w+)", TEXT, re.MULTILINE)
    assert commands == ["demo", "test"]
    for command in commands:
        assert re.search(rf"^{command}:", makefile, re.MULTILINE)


def test_the_table_of_models_is_as_long_as_the_readme_says():
    rows = (PAGE.parent / "docs" / "models.md").read_text().splitlines()
    count = sum(row.startswith("| ") for row in rows) - 1
    assert f"[{count} families]" in TEXT
