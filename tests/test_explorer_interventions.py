"""The page Interventions: forms, links, answers side by side, and what is answered with a sentence."""

import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import interp
from analyses import ANALYSES
from app.explorer import shelf, steering, uploads
from app.explorer.results import NOW
from app.explorer.subject import Subject
from app.pages.interventions import Question, steered
from interp import Task

SECONDS = 120
MEND = "VAR(rho=0, mass=0, layers=[1, 2, 3])"
VLM = {"model": "demo-vlm", "fault": "parked-on-sinks", "task": "colour", "record": "3"}
Open = Callable[..., AppTest]


def _script() -> None:
    from app.explorer import state
    from app.explorer.said import kept_up
    from app.pages import PAGES

    state.read_link()
    with kept_up():
        PAGES["interventions"].draw()
    state.write_link()


@pytest.fixture
def show(explorer_folder: Path, open_boxes: None) -> Open:
    """The page under a link; "." of a name is written as "__"."""

    def opening(**link: str) -> AppTest:
        test = AppTest.from_function(_script, default_timeout=SECONDS)
        for name, value in ({"ask.from": NOW} | link).items():
            test.query_params[name.replace("__", ".")] = value
        return checked(test.run())

    return opening


def checked(test: AppTest) -> AppTest:
    assert not test.exception, [one.message for one in test.exception]
    return test


def run(test: AppTest) -> AppTest:
    return checked(test.button(key="run now").click().run())


def link(test: AppTest) -> dict[str, str]:
    given = test.query_params.items()
    return {name: one if isinstance(one, str) else one[0] for name, one in given}


def boxes(test: AppTest) -> dict[str, str]:
    """Each answer's box: its name, and the words in it."""
    found = {}
    for block in test.main.children.values():
        found |= _boxes(block)
    return found


def _boxes(block) -> dict[str, str]:
    found = {}
    if not hasattr(block, "children"):
        return found
    name = str(getattr(block.proto, "id", ""))
    if "answer " in name:
        found[name.partition("answer ")[2]] = _words(block)
        return found
    for child in block.children.values():
        found |= _boxes(child)
    return found


def _words(block) -> str:
    if hasattr(block, "children"):
        return "\n".join(_words(child) for child in block.children.values())
    return str(getattr(block, "value", ""))


def said(test: AppTest) -> str:
    return " ".join(one.value.replace("\\", "") for one in test.error)


def generated(model: interp.Model, task: Task, using=None) -> str:
    prompt = task.encode(model)
    ids = model.generate(prompt, using=using, max_new_tokens=8, do_sample=False)
    return model.decode(ids, prompt)[0].strip()


def test_answers_stand_side_by_side_and_the_link_opens_them_again(show: Open):
    test = show(**VLM, interventions__using=f"{MEND}, PAI(alpha=0.5)")
    assert not boxes(test) and "Run it" in test.info[-1].value
    run(test)
    model = interp.load("demo-vlm", fault="parked-on-sinks")
    task = Task.load("colour", count=4)[3:4]
    using = interp.interventions.VAR(rho=0, mass=0, layers=[1, 2, 3])
    answers = boxes(test)
    assert list(answers) == ["plain", "VAR", "PAI", "together"]
    assert generated(model, task) in answers["plain"].splitlines()
    assert generated(model, task, using) in answers["VAR"].splitlines()
    assert "rows of pattern changed" in " ".join(one.value for one in test.markdown)
    assert len(test.get("plotly_chart")) == 3
    again = show(**link(test))
    assert boxes(again) == answers
    for block in [one.value for one in test.code]:
        lines = block.splitlines()
        assert len(lines) <= 4 and 'ANALYSES["steer"]' in lines[-1] and MEND in lines[-1]


def test_the_lines_beside_a_figure_draw_it(show: Open):
    test = run(show(**VLM, interventions__using="PAI"))
    lines = test.code[0].value.splitlines()
    names: dict = {}
    exec("\n".join([*lines[:-1], f"figure = {lines[-1]}"]), names)  # noqa: S102
    assert names["figure"].data


def test_settings_go_from_boxes_into_the_link(show: Open):
    test = show(**VLM, interventions__using="VAR")
    checked(test.text_input(key="box VAR.keep").set_value("0.2").run())
    checked(test.text_input(key="box VAR.layers").set_value("1, 2").run())
    checked(test.checkbox(key="box VAR.text_sinks").check().run())
    assert link(test)["interventions.using"] == "VAR(keep=0.2, layers=[1, 2], text_sinks=True)"
    assert test.text_input(key="box line").value == "VAR(keep=0.2, layers=[1, 2], text_sinks=True)"
    checked(test.text_input(key="box VAR.keep").set_value("").run())
    assert link(test)["interventions.using"] == "VAR(layers=[1, 2], text_sinks=True)"
    checked(test.multiselect(key="box names").set_value(["VAR", "VHR"]).run())
    assert link(test)["interventions.using"] == "VAR(layers=[1, 2], text_sinks=True), VHR"


def test_heads_are_named_by_layer_and_head(show: Open):
    test = show(model="demo-lm", task="open_book", interventions__using="PASTA")
    checked(test.text_input(key="box PASTA.heads").set_value("3.1, 2.10").run())
    assert link(test)["interventions.using"] == "PASTA(heads=['3.1', '2.10'])"


def test_a_wrong_value_is_answered_with_a_sentence_and_stays_in_its_box(show: Open):
    test = show(**VLM, interventions__using="VAR")
    checked(test.text_input(key="box VAR.keep").set_value("much").run())
    assert "VAR: keep takes" in said(test) and test.text_input(key="box VAR.keep").value == "much"
    assert link(test)["interventions.using"] == "VAR"
    checked(test.text_input(key="box VAR.keep").set_value("7").run())
    assert "keep is a number from 0 to 1" in said(test)
    assert "0.4" not in said(checked(test.text_input(key="box VAR.keep").set_value("0.3").run()))
    assert not test.error and not boxes(test)
    assert "VAR" in boxes(run(test))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("VAR(", "names no interventions"),
        ("PAL", "Did you mean 'PAI'"),
        ("VAR(0.2)", "names no intervention; write them"),
        ("VAR(kep=0.2)", "Did you mean 'keep'"),
        ("VAR(keep=__import__('os'))", "is a number, a text"),
        ("VAR(keep=2)", "keep is a number from 0 to 1"),
        ("PASTA(heads='/etc/heads.json')", "files are not read here"),
        ("VAR(dims='dims.json')", "files are not read here"),
        ("AutoPASTA(encoder='some/model')", "no setting of AutoPASTA 'encoder'"),
        ("AutoPASTA(max_new_tokens=100000)", "at most 256 here"),
        ("PAI, " * 500, "at most 2000 are read"),
        ("PAI, " * 9, "at most 8 interventions"),
    ],
)
def test_a_wrong_line_is_answered_with_a_sentence(show: Open, line: str, message: str):
    test = show(**VLM, interventions__using=line)
    assert message in said(test)
    assert (
        test.button(key="run now").disabled and test.selectbox(key="box model").value == "demo-vlm"
    )
    checked(test.text_input(key="box line").set_value("PAI").run())
    assert not test.error and test.multiselect(key="box names").value == ["PAI"]


def test_a_wrong_line_can_be_begun_anew(show: Open):
    test = show(**VLM, interventions__using="VAR(")
    checked(test.multiselect(key="box names").set_value(["VHR"]).run())
    assert link(test)["interventions.using"] == "VHR" and not test.error


def test_two_of_a_kind_are_set_in_the_line(show: Open):
    test = run(show(**VLM, interventions__using="PAI(alpha=0.2), PAI(alpha=0.6)"))
    assert {"plain", "together"} < set(boxes(test)) and len(boxes(test)) == 4


@pytest.mark.parametrize(
    ("prompt", "message"),
    [(" ", "the prompt is empty"), ("word " * 10_000, "has 50,000 characters")],
)
def test_a_prompt_that_cannot_be_asked(show: Open, prompt: str, message: str):
    test = show(model="demo-lm", of="your own", interventions__using="ACT(layers=[1, 2])")
    checked(test.text_area[0].set_value(prompt).run())
    assert message in said(run(test)) and not boxes(test)
    assert test.multiselect(key="box names").value == ["ACT"]


def test_one_that_does_not_apply_is_told(show: Open):
    own = {"model": "demo-lm", "of": "your own", "prompt": "Mary and John went to the"}
    assert "reads text only" in said(run(show(**own, interventions__using="VAR")))
    test = run(show(**own, interventions__using="VAR, ACT(layers=[1, 2])"))
    answers = boxes(test)
    assert not test.error and "reads text only" in answers["VAR"].replace("\\", "")
    assert "VAR cannot be run" in answers["together"] and "next token" in answers["ACT"]


def test_an_image_of_ones_own(show: Open):
    record = Task.load("colour", count=1)[0]
    own = {"model": "demo-vlm", "of": "your own", "prompt": record.prompt}
    content = io.BytesIO()
    record.image.save(content, "png")
    digest = uploads.take("scene.png", content.getvalue())
    answers = boxes(run(show(**own, image=digest, interventions__using="PAI")))
    model = interp.load("demo-vlm")
    assert generated(model, Task("one", (record,))) in answers["plain"].splitlines()
    gone = run(show(**own, image="0" * 16, interventions__using="PAI"))
    assert "no longer held here" in said(gone)


def test_a_classifier_writes_nothing(show: Open):
    assert "this page takes text or vlm" in said(show(model="demo-vit"))


def test_saved_runs_are_shown_without_a_model(show: Open, explorer_folder: Path, monkeypatch):
    model = interp.load("demo-vlm")
    task = Task.load("colour", count=2)
    ANALYSES["steer"](model, task, interventions=["PAI", "PASTA"], max_new_tokens=2).save(
        explorer_folder / "two"
    )
    shelf._found.clear()
    monkeypatch.setattr(interp, "load", lambda *given, **more: pytest.fail("a model was loaded"))
    test = show(ask__from="saved runs", run="mine/two", steer__record="1")
    assert not test.error and list(boxes(test)) == ["plain", "PAI", "PASTA", "together"]
    assert len(test.get("plotly_chart")) == 3
    assert "figure(record=1, show='tokens')" in test.code[0].value
    checked(test.selectbox(key="box steer.part").select("image").run())
    assert link(test)["steer.part"] == "image" and "part='image'" in test.code[1].value


def test_what_one_asks_does_not_touch_what_others_get(explorer_folder: Path):
    """Several at once on the same model: each gets what it gets alone."""
    of = Subject("demo-vlm", "parked-on-sinks", "", None, "colour", 3)
    asked = [Question(of, (line,), 3 + n) for n in range(3) for line in (MEND, "PAI(alpha=4.0)")]
    alone = {one.digest: steered(one.digest, one).table["answer"].tolist() for one in asked}
    steered.clear()
    with ThreadPoolExecutor(4) as many:
        found = list(many.map(lambda one: steered(one.digest, one).table["answer"].tolist(), asked))
    assert found == [alone[one.digest] for one in asked]


def test_lines_and_settings_are_the_same():
    line = "VAR(keep=0.2, layers=[1, 2]), PASTA(highlight='a, b')"
    chosen = steering.parsed(line)
    assert chosen == [("VAR", {"keep": 0.2, "layers": [1, 2]}), ("PASTA", {"highlight": "a, b"})]
    assert ", ".join(steering.spelled(*one) for one in chosen) == line
    assert steering.parsed("") == []
