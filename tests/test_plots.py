"""Every figure of the house, light, dark and narrow: its colours, its words, and that nothing is cut."""

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

import data
import interp
from interp import Result, Task, plots
from interp.metrics import logit_diff
from interp.plots.night import COUNTERPARTS
from interp.plots.stacking import domain
from interp.plots.style import COVER, EFFECT, NIGHT, PAPER, contrast, traces

RUNS = sorted(path.parent for path in (Path(data.__file__).parent / "runs").glob("*/manifest.json"))
COLOUR = re.compile(r"#[0-9a-fA-F]{6}\b|rgba?\([^)]*\)")
# On pictures and through the buttons' background; and black words on bright cells.
BOTH = {*(colour for _, colour in COVER), "rgba(0,0,0,0)", NIGHT}
NARROW = 700
CHROMIUM = Path("/usr/bin/chromium")


def _maps():
    model, vlm = interp.load("demo-lm"), interp.load("demo-vlm")
    prompt = model.encode("Then, Mary and John went to the store. John gave a book to")
    trace = model.trace(prompt, "pattern", "resid_pre", keep=["received"])
    yield "head_map", plots.head_map(trace["pattern", 2][0, 3], prompt.tokens[0], "one head")
    yield "head_maps", plots.head_maps(trace)
    yield "metric_map", plots.metric_map(trace, "received")
    other = "Then, Mary and John went to the store. Mary gave a book to"
    metric = logit_diff(" Mary", " John")
    yield "sweep_map", model.sweep(other, "resid_pre", take=trace, metric=metric).figure(row=0)
    scene = Task.load("colour", count=1)[0]
    asked = vlm.encode(scene.prompt, images=scene.image)
    row = vlm.trace(asked, "pattern", layers=[1])["pattern", 1][0, 1, -1]
    yield "image_map", plots.image_map(scene.image, asked.heatmap(row), "where it looks")


@pytest.fixture(scope="module")
def drawn():
    """Every figure at its own width, and the narrow one."""
    found = {}
    for path in RUNS:
        result = Result.load(path)
        found[path.name] = result.figure(), result.figure(width=NARROW)
    for name, figure in _maps():
        found[name] = figure, plots.fit(figure, NARROW)
    return found


def _parts(part, key=""):
    """Each value of a figure with its key; data are left out."""
    if isinstance(part, dict):
        for name, value in part.items():
            yield from _parts(value, name)
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _parts(value, key)
    else:
        yield key, part


def _colours(figure):
    for part in (*traces(figure), figure.layout):
        for key, value in _parts(part.to_plotly_json()):
            if isinstance(value, str):
                if key.endswith(("color", "colorscale", "colorway")):
                    yield value
                elif "color:" in value:
                    yield from COLOUR.findall(value)


def test_runs_hold_every_analysis():
    """Else the tests below would pass over some."""
    own = {Result.load(path).analysis for path in RUNS}
    assert own >= set(plots.RESULTS) - {"attention", "steer"}


def test_every_colour_is_the_houses(drawn):
    light, night = set(COUNTERPARTS) | BOTH, set(COUNTERPARTS.values()) | BOTH
    assert PAPER not in night
    for name, (figure, narrow) in drawn.items():
        for one in (figure, narrow):
            assert set(_colours(one)) <= light, name
            assert set(_colours(plots.dark(one))) <= night, name


def test_words_can_be_read(drawn):
    """WCAG's 4.5 to 1, on the page or on the cell that they are written on."""
    for name, (figure, _) in drawn.items():
        both: list[Any] = [figure, plots.dark(figure)]
        for one in both:
            paper = one.layout.paper_bgcolor
            on_cells = name.startswith("heads-")
            words = [one.layout.font.color, one.layout.hoverlabel.font.color]
            words += [note.font.color for note in one.layout.annotations
                      if note.font.color and not on_cells]  # fmt: skip
            markup = [value for part in (*traces(one), one.layout)
                      for _, value in _parts(part.to_plotly_json()) if isinstance(value, str)]  # fmt: skip
            words += [found for text in markup for found in re.findall(r"color:(#\w{6})", text)]
            assert min(contrast(colour, paper) for colour in words) >= 4.5, (name, paper)
            if on_cells:
                _check_cells(one)


def _check_cells(figure):
    """The type of each head, written on its cell."""
    cells = figure.data[0]
    scale = [colour for _, colour in cells.colorscale[::2]]
    inks = {(note.x, note.y): note.font.color for note in figure.layout.annotations}
    for head, layer, kind in zip(cells.x, cells.y, cells.z, strict=True):
        assert contrast(inks[head, layer], scale[kind]) >= 4.5, (head, layer, scale[kind])


def test_scales_of_effects_are_centred(drawn):
    """At nothing; ratios (what a token writes, others = 1) at one."""
    seen = 0
    for name, (figure, _) in drawn.items():
        maps = [one for one in figure.data if one.type == "heatmap"]
        scales = [(one.colorscale, one.zmin, one.zmax, one.zmid) for one in maps if one.colorscale]
        axis = figure.layout.coloraxis
        scales += [(axis.colorscale, axis.cmin, axis.cmax, axis.cmid)] if axis.colorscale else []
        for scale, low, high, middle in scales:
            if [list(stop) for stop in scale] == EFFECT:
                seen += 1
                centre = 1 if name.startswith("sinks-") and middle == 1 else 0
                assert low + high == 2 * centre and middle in (None, centre), name
    assert seen > 20


def test_the_dark_figure_is_the_same_figure(drawn):
    figure = drawn["head_maps"][0]
    before = figure.to_json()
    night: Any = plots.dark(figure)
    assert figure.to_json() == before and night.layout.paper_bgcolor == NIGHT
    assert all(
        (one.z == other.z).all() for one, other in zip(traces(figure), traces(night), strict=True)
    )
    token = plots.head_map(interp_pattern(), ["#ffffff", "<span style='color:#1f2933'>"], "two")
    turned: Any = plots.dark(token)
    ticks = turned.layout.xaxis.ticktext
    assert ticks == ("#ffffff", "‹span·style='color:#1f2933'›")  # a token is no colour


def interp_pattern():
    import torch

    return torch.eye(2)


def _rectangles(figure):
    across = {one["anchor"] or "y": domain(one) for one in figure.select_xaxes()}
    for letter, (left, right) in across.items():
        low, high = domain(figure.layout[f"yaxis{letter[1:]}"])
        yield letter, left, right, low, high


def test_panels_do_not_lie_on_each_other(drawn):
    for name, pair in drawn.items():
        for figure in pair:
            for one, other in combinations(_rectangles(figure), 2):
                apart_x = one[2] <= other[1] + 1e-6 or other[2] <= one[1] + 1e-6
                apart_y = one[4] <= other[3] + 1e-6 or other[4] <= one[3] + 1e-6
                assert apart_x or apart_y, (name, figure.layout.width, one, other)
    with pytest.raises(ValueError, match="300 pixels"):
        plots.fit(drawn["head_map"][0], 200)


DRAW = """one => { document.body.innerHTML = "<div id='figure'></div>";
  return Plotly.newPlot("figure", one.data, one.layout, {displayModeBar: false}).then(() => true); }"""
WORDS = """() => {
  const page = document.querySelector('.main-svg').getBoundingClientRect();
  const texts = [...document.querySelectorAll('.main-svg text')].filter(one => one.textContent.trim());
  const box = one => { const r = one.getBoundingClientRect();
    return [one.textContent, r.left - page.left, r.top - page.top, r.right - page.left,
            r.bottom - page.top]; };
  return {page: [page.width, page.height], texts: texts.map(box),
          titles: texts.filter(one => one.classList.contains('gtitle')).map(box),
          notes: texts.filter(one => one.classList.contains('annotation-text')).map(box)};
}"""


@pytest.mark.skipif(
    not CHROMIUM.exists(), reason="Chromium is not installed: words are not measured"
)
def test_no_word_is_cut_and_titles_are_clear(drawn):
    """Measured in a browser: every word lies within its figure, and below the title is nothing of it."""
    import plotly
    from playwright.sync_api import sync_playwright

    script = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    faults = []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1900, "height": 1000})
        page.set_content("<div id='figure'></div>")
        page.add_script_tag(path=script)
        for name, pair in drawn.items():
            for figure in pair:
                page.evaluate(DRAW, json.loads(figure.to_json()))
                told = page.evaluate(WORDS)
                wide, tall = told["page"]
                assert wide == pytest.approx(figure.layout.width, abs=1)
                for text, left, top, right, bottom in told["texts"]:
                    if left < -1 or top < -1 or right > wide + 1 or bottom > tall + 1:
                        faults.append((name, wide, "cut", text[:30], left, top, right, bottom))
                foot = told["titles"][0][4]
                faults += [(name, wide, "under the title", note[0][:30])
                           for note in told["notes"] if note[2] < foot - 2]  # fmt: skip
        browser.close()
    assert not faults, "\n".join(map(str, faults))
