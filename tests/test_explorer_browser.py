"""The explorer as a person meets it: in Chromium, every page, with good and bad input."""

import io
import json
import time

import browser
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

import interp
from app.pages import PAGES, ordered
from interp import shipped

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)
TITLES = [PAGES[name].title for name in ordered()]
LONG = 4096


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder with a broken run and one that looks like code, and a model for long texts."""
    folder = tmp_path_factory.mktemp("runs")
    broken = folder / "half-written"
    broken.mkdir()
    (broken / "manifest.json").write_text('{"format": 1, "analysis": "sinks", "tables"')
    later = folder / "from-the-future"
    later.mkdir()
    (later / "manifest.json").write_text(
        json.dumps({"format": 99, "analysis": "sinks", "made": {}})
    )
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=2000, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=LONG, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    model = folder.parent / "long-model"
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer = interp.load("demo-lm").tokenizer
    tokenizer.model_max_length = LONG
    tokenizer.save_pretrained(model)
    return folder, model


@pytest.fixture(scope="module")
def address(places):
    folder, model = places
    with browser.served(folder, models=[model]) as address:
        yield address


@pytest.fixture(scope="module")
def chromium():
    with browser.launched() as chromium:
        yield chromium


@pytest.fixture
def visit(chromium, address):
    one = browser.Visit(chromium, address)
    yield one
    one.context.close()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_page_by_the_menu(chromium, address, dark):
    one = browser.Visit(chromium, address, dark=dark).open()
    for title in TITLES:
        one.go(title)
        if title not in ("Start", "Runs"):
            assert one.drawn(), f"no figure on {title}"
        assert "The same in Python" in one.text() or title == "Runs"
        one.keep(f"{title.lower().replace(' ', '-')}-{'dark' if dark else 'light'}")
        one.fine()
    one.context.close()


@pytest.mark.parametrize("name", ordered()[1:])
def test_every_page_by_its_address(visit, name):
    visit.open(name)
    assert visit.page.locator("h1").inner_text() == PAGES[name].title
    visit.fine()


def test_another_head_is_in_the_link_and_the_link_opens_it(visit, chromium, address):
    visit.open("attention?run=shipped/attention-demo-lm").drawn()
    visit.choose("Layer", "3").choose("Head", "5").drawn()
    assert "layer 3, head 5" in visit.text()
    assert "layer=3" in visit.page.url and "head=5" in visit.page.url
    other = browser.Visit(chromium, address).open(visit.page.url.removeprefix(address + "/"))
    other.drawn()
    assert "layer 3, head 5" in other.text()
    other.fine()
    other.context.close()
    visit.fine()


POINT = """(row) => {
    const figure = document.querySelector('.js-plotly-plot'), box = figure.getBoundingClientRect()
    const {xaxis, yaxis} = figure._fullLayout, {x, y} = figure._fullData[1]
    return [box.x + xaxis._offset + xaxis.c2p(x[row]), box.y + yaxis._offset + yaxis.c2p(y[row])]
}"""


def test_a_click_on_a_thumbnail_makes_it_large(visit):
    visit.open("attention?run=shipped/attention-demo-lm&layer=0&head=0").drawn()
    visit.page.wait_for_timeout(500)
    x, y = visit.page.evaluate(POINT, 10)
    visit.page.mouse.move(x - 3, y - 3)
    visit.page.mouse.move(x, y)
    visit.page.wait_for_timeout(300)
    visit.page.mouse.click(x, y)
    visit.page.wait_for_function("document.body.innerText.includes('in layer 1, head 2')")
    visit.rest().fine()


def test_the_lines_of_python_are_there_once_their_box_is_opened(visit):
    visit.open("sinks?run=shipped/sinks-demo-lm").drawn()
    for label in ("The same in Python", "The numbers", "How it was made"):
        visit.page.get_by_text(label).first.click()
        visit.rest()
    visit.page.get_by_test_id("stCode").get_by_text("interp.Result.load").wait_for()
    visit.page.get_by_test_id("stDataFrame").first.wait_for()
    visit.page.get_by_test_id("stJson").first.wait_for()
    visit.keep("opened")
    visit.fine()


def test_another_page_keeps_the_model_and_the_prompt(visit):
    visit.open("?model=demo-lm&task=facts&record=3").go("Attention")
    assert "model=demo-lm" in visit.page.url and "record=3" in visit.page.url
    visit.fine()


def test_an_image_is_uploaded_and_looked_at(visit):
    visit.open("attention?run=a model&model=demo-vlm&of=your own&prompt=What colour is the circle?")
    picture = np.full((96, 96, 3), 110, np.uint8)
    picture[30:50, 30:50] = (220, 40, 40)
    visit.upload("mine.png", _png(Image.fromarray(picture)))
    visit.page.wait_for_url("**image=*")
    visit.rest()
    assert visit.drawn() >= 3 and "image tokens" in visit.text()
    visit.keep("upload")
    visit.fine()


def _png(image):
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("words.png", b"this is no picture at all", "no image that can be read"),
        ("cut.png", _png(Image.new("RGB", (64, 64)))[:60], "no image that can be read"),
        ("huge.png", None, "100 million"),
        ("bomb.png", "bomb", "more than 20 million"),
    ],
    ids=["words", "cut", "huge", "bomb"],
)
def test_what_is_no_image_is_answered_with_a_sentence(visit, name, content, says):
    side = {None: 10_000, "bomb": 20_000}.get(content if not isinstance(content, bytes) else "", 0)
    buffer = _png(Image.new("L", (side, side))) if side else content
    visit.open("attention?run=a model&model=demo-vlm&of=your own&prompt=What colour is the circle?")
    visit.upload(name, buffer)
    visit.page.wait_for_function("says => document.body.innerText.includes(says)", arg=says)
    visit.rest()
    assert not visit.exceptions()
    visit.go("Sinks").drawn()  # the page stays up
    visit.fine()


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ("   ", "the prompt is empty"),
        ("word " * 10_000, "50,000 characters"),
        ("zebra " * 300, "positions for 256"),
    ],
    ids=["empty", "long", "many tokens"],
)
def test_a_prompt_that_cannot_be_asked_is_answered_with_a_sentence(visit, prompt, says):
    visit.open("attention?run=a model&model=demo-lm&of=your own")
    box = visit.page.get_by_role("textbox", name="Prompt")
    box.fill(prompt)
    box.press("Control+Enter")
    visit.page.wait_for_function("says => document.body.innerText.includes(says)", arg=says)
    visit.rest()
    assert any(says in each for each in visit.problems())
    box.fill("Then, Mary and John went to the store. John gave a book to")
    box.press("Control+Enter")
    assert visit.rest().drawn()
    visit.fine()


def test_text_is_shown_as_text(visit):
    evil = '<img src=x onerror="alert(1)"><script>alert(2)</script> **bold** :smile: $x$'
    visit.open("attention?run=a model&model=demo-lm&of=your own")
    box = visit.page.get_by_role("textbox", name="Prompt")
    box.fill(evil)
    box.press("Control+Enter")
    visit.rest().drawn()
    visit.go("Start")
    assert visit.page.locator("img[src=x]").count() == 0
    visit.fine()


def test_a_broken_run_is_named_with_its_reason(visit):
    visit.open("runs")
    text = visit.text()
    assert "half-written" in text and "from-the-future" in text
    visit.fine()


@pytest.mark.parametrize(
    "place",
    [
        "sinks?run=../../etc",
        "attention?model=/etc/passwd&run=a model",
        "attention?layer=99&head=x&query=-5",
        "attention?run=a model&model=demo-vlm&of=your own&image=0123456789abcdef&prompt=hello",
        "heads?run=shipped/nothing", "start?task=none&record=abc",
    ],
)  # fmt: skip
def test_a_link_that_leads_nowhere_is_no_exception(visit, place):
    visit.open(place)
    assert not visit.exceptions()
    assert "root:" not in visit.text() and "not offered" in visit.text() or "passwd" not in place


def test_a_long_text_stays_usable(visit, places):
    """4,096 tokens: what travels is what can be seen, and another head is a moment."""
    tokenizer = interp.load("demo-lm").tokenizer
    words = [word.strip("▁") for word in tokenizer.get_vocab()]
    short = [word for word in words if word.isalpha() and len(word) < 7]
    text = " ".join((short * 40)[: LONG - 20])
    sizes = []
    visit.page.on(
        "websocket",
        lambda socket: socket.on("framereceived", lambda frame: sizes.append(len(frame))),
    )
    visit.open(f"attention?run=a model&model={places[1]}&of=your own")
    box = visit.page.get_by_role("textbox", name="Prompt")
    box.fill(text)
    box.press("Control+Enter")
    visit.page.wait_for_function("document.body.innerText.includes('What token')")
    visit.rest().drawn()
    sizes.clear()
    visit.choose("Layer", "0").choose("Head", "3").drawn()
    assert sum(sizes) < 3_000_000, f"{sum(sizes):,} bytes travelled for two other heads"
    assert "tokens …" in visit.text()
    visit.keep("long")
    visit.fine()


def test_how_long_it_takes(chromium, address, record_property):
    """Reported, not asserted: another process may be using the machine."""
    browser.Visit(chromium, address).open("sinks").drawn()
    one = browser.Visit(chromium, address)
    started = time.perf_counter()
    one.page.goto(f"{address}/attention?run=shipped/attention-demo-lm")
    one.drawn()
    first = time.perf_counter() - started
    one.rest()
    changes = []
    for title in [title for title in TITLES if title not in ("Start", "Runs", "Attention")] * 2:
        started = time.perf_counter()
        one.page.get_by_test_id("stSidebarNav").get_by_role("link", name=title, exact=True).click()
        one.page.wait_for_function(
            "name => document.querySelector('h1')?.innerText === name", arg=title
        )
        one.drawn()
        changes.append(time.perf_counter() - started)
        one.rest()
    record_property(
        "explorer",
        f"first paint of a saved run {first:.2f} s, page changes {max(changes):.2f} s at most",
    )
    one.fine()
    assert shipped.runs().is_dir()
