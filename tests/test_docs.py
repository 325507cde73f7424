"""The documentation is true: links lead somewhere, snippets run, tables and messages are the code's."""

import re

import pytest

import analyses
from analyses import ANALYSES
from docs import pages, readme
from interp.tasks import TASKS
from tests import documented
from tests.documented import PAGES, ROOT, snippets

DOCS = ROOT / "docs"
NAMES = [path.stem for path in sorted((DOCS / "analyses").glob("*.md"))]
# Options of the command that are no settings of an analysis.
OWN = {
    "model",
    "task",
    "count",
    "split",
    "out",
    "images",
    "fault",
    "dtype",
    "device",
    "json",
    "seed",
}


def text_of(name):
    return (DOCS / name).read_text(encoding="utf-8")


def told(name):
    """Names in the part of an analysis' page that explains what comes back."""
    part = text_of(f"analyses/{name}.md").split("## What comes back\n")[1].split("\n## ")[0]
    return set(re.findall(r"`([^`]+)`", part))


def unexplained(result):
    """Tables and columns of a result of which its page says nothing."""
    known = told(result.analysis)
    endings = [one[2:] for one in known if one.startswith("..")]

    def explained(column):
        stems = [column.removesuffix(end) for end in endings if column.endswith(end)]
        return column in known or any(stem in known for stem in stems)

    missing = [name for name in result.tables if name not in known]
    for name, table in {"table": result.table, **result.tables}.items():
        missing += [f"{name}.{column}" for column in table.columns if not explained(column)]
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    assert not documented.broken(page)


def test_a_broken_link_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# One `two`, three\n[a](page.md#one-two-three) [b](gone.md) [c](#four) [d](https://x) "
        "[e](https://example.org/f) ![g](gone.png)\n```\n[h](not-a-link)\n```\n"
    )
    assert documented.broken(page) == ["gone.md", "#four", "https://x", "gone.png"]


def test_every_page_is_reached_from_the_index():
    seen, open_ = set(), [DOCS / "index.md"]
    while open_:
        page = open_.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for link in documented.links(page.read_text(encoding="utf-8")):
            target = (page.parent / link.split("#")[0]).resolve()
            if "://" not in link and target.is_file():
                open_.append(target)
    assert not set(DOCS.rglob("*.md")) - seen


def test_each_analysis_has_its_page():
    assert list(ANALYSES) == NAMES
    assert pages.index(text_of("analyses.md")) == text_of("analyses.md"), "python -m docs.pages"


def test_reference_is_current():
    text = text_of("reference.md")
    assert readme.filled(text, readme.REFERENCE) == text, "python -m docs.readme"


@pytest.mark.parametrize("name", NAMES)
def test_a_page_knows_its_settings(name):
    text = text_of(f"analyses/{name}.md")
    assert pages.filled(name, text) == text, "python -m docs.pages"
    parts = ["## Ask it", "## Settings", "## What comes back", "## The figure", "## What it does not say",
             "## What it found"]  # fmt: skip
    assert [text.find(f"\n{part}") > 0 for part in parts] == [True] * len(parts)


def test_a_setting_without_a_meaning_is_refused():
    text = text_of("analyses/sinks.md")
    with pytest.raises(ValueError, match="has a setting 'epsilon' that its page does not explain"):
        pages.filled("sinks", re.sub(r"\| `epsilon` .*\n", "", text))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_runs_and_explains_what_comes_back(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join(snippets(text_of(f"analyses/{name}.md"))), names)
    assert names["result"].analysis == name and len(names["result"].table)
    assert not unexplained(names["result"])


@pytest.mark.parametrize("name", NAMES)
def test_a_page_shows_options_that_there_are(name):
    known = OWN | {one.name for one in pages.settings(ANALYSES[name])}
    for generator in TASKS.values():
        known |= set(generator.draw.__code__.co_varnames)
    shown = "\n".join(snippets(text_of(f"analyses/{name}.md"), "sh"))
    options = re.findall(r" --([\w-]+)", shown)
    assert re.search(rf"interp (run )?{name}\b", shown)
    assert {option.replace("-", "_") for option in options} <= known


def test_messages_are_the_ones_that_are_raised():
    messages = re.findall(r"^### `(.+)`$", text_of("troubleshooting.md"), re.MULTILINE)
    source = documented.sentences()
    assert len(messages) > 40
    assert not [one for one in messages if not any(one in sentence for sentence in source)]


def run(name, tmp_path, monkeypatch):
    """The names that a page's snippets leave behind."""
    monkeypatch.chdir(tmp_path)
    # Some add an analysis of their own, which is gone again after the test.
    monkeypatch.setattr(analyses.ANALYSES, "_entries", dict(analyses.ANALYSES._entries))
    names = {}
    for snippet in snippets(text_of(name)):
        exec(snippet, names)
    return names


def test_getting_started(tmp_path, monkeypatch):
    names = run("getting_started.md", tmp_path, monkeypatch)
    model, prompt, trace = (names[name] for name in ("model", "prompt", "trace"))
    assert model.decode(trace.logits[:, -1:].argmax(-1)) == ["Mary"]
    head = trace["pattern", 3][0, 5, -1].detach()
    assert prompt.tokens[0][int(head.argmax())] == " John" and round(float(head.max()), 2) == 0.96
    first = names["result"].table.nlargest(3, "mean")
    assert list(zip(first["layer"], first["head"], strict=True)) == [(2, 1), (0, 1), (1, 5)]
    assert "3 of 3 layers" in str(names["report"])
    assert (tmp_path / "runs" / "importance" / "manifest.json").is_file()


def test_reference(tmp_path, monkeypatch):
    names = run("reference.md", tmp_path, monkeypatch)
    assert names["grid"].shape == (1, 4, 16) and names["grid"].path == "positions"
    assert names["batch"].where("S2").sum() == 8
    assert names["found"].circuit.heads and names["both"].keys() == {"near", "far"}


def test_recipes(tmp_path, monkeypatch):
    """The numbers that the text tells, as it tells them."""
    names = run("recipes.md", tmp_path, monkeypatch)
    assert len(snippets(text_of("recipes.md"))) == 13
    # 1. "Without them 15 % ..., of 100 %; without four other heads, drawn ten times, 92 %."
    assert names["heads"] == [(0, 1), (2, 1), (1, 5), (1, 3)]
    assert (names["plain"], round(names["silenced"], 2)) == (1.0, 0.15)
    assert round(sum(names["chance"]) / 10, 3) == 0.915
    # 2. "Eight heads ... in more than 90 % ..., head 1.0 in all of them. Without the eight 73 %"
    assert len(names["lookers"]) == 8 and float(names["hits"][1, 0]) == 1.0
    assert round(names["without"], 2) == 0.73 and names["as_many"] == [1.0] * 5
    # 3. "layers 0 to 2 hold 99 % or more each; of MLPs there, layer 0 brings back 78 % and layer 2 53 %"
    shares, both = names["shares"], names["both"]
    assert shares["resid_post"][:3].min() >= 0.99
    assert shares["mlp_out"].round(2)[[0, 2]].tolist() == [0.78, 0.53]
    assert both["denoise"].round(2)[[0, 2]].tolist() == [0.41, 0.15]
    assert both["noise"].round(2)[[0, 2]].tolist() == [0.58, 0.19]
    # 4. "from no to yes"; "from 75 % to 90 %, of 98 % ... The control reaches 92 %"
    assert (names["before"], names["after"]) == (" no", " yes")
    compared = names["compared"].table.set_index("name")
    assert compared["value"].round(2)[["plain", "VAR", "whole", "yes bias"]].tolist() == [
        0.75, 0.9, 0.98, 0.92]  # fmt: skip
    assert compared["diff_low"]["VAR"] > 0
    against = names["compared"].tables["against"].set_index("name")
    assert against["verdict"]["VAR"] == "not told from it"
    # 5. "from 12.5 % to 56 % with the key sentence louder, and to 22.5 % with the question louder"
    pressed = names["pressed"].table.set_index("name")["value"].round(3)
    assert pressed[["plain", "the key sentence", "the question"]].tolist() == [0.125, 0.562, 0.225]
    assert names["focused"].analysis == "focus_by_head" and len(names["focused"].table) == 32
