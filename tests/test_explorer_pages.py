"""The explorer's pages of saved results: what they show, what their links keep, what they refuse."""

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest
from streamlit.testing.v1 import AppTest

from app.explorer import asking, compared, said, shelf
from app.pages import PAGES, page_of
from interp import Result, shipped

SECONDS = 60
Open = Callable[..., AppTest]


def _script() -> None:
    import streamlit as st

    from app.explorer import state
    from app.pages import PAGES

    state.read_link()
    PAGES[st.session_state["page"]].draw()
    state.write_link()


@pytest.fixture
def show(explorer_folder: Path, open_boxes: None) -> Open:
    """A page under a link."""

    def opening(page: str, **link: str) -> AppTest:
        test = AppTest.from_function(_script, default_timeout=SECONDS)
        test.session_state["page"] = page
        for name, value in link.items():
            test.query_params[name.replace("__", ".")] = value
        return checked(test.run())

    return opening


def checked(test: AppTest) -> AppTest:
    assert not test.exception, [one.message for one in test.exception]
    return test


def charts(test: AppTest) -> list[Any]:
    return list(test.get("plotly_chart"))


def code(test: AppTest) -> str:
    return "\n".join(one.value for one in test.code)


def link(test: AppTest) -> dict[str, str]:
    given = test.query_params.items()
    return {name: one if isinstance(one, str) else one[0] for name, one in given}


OF_PAGES = {
    page: [f"shipped/{path.name}" for path in sorted(shipped.runs().iterdir())
           if path.name.split("-")[0] in PAGES[page].analyses]
    for page in ("sinks", "rhythm", "heads", "causal_trace", "circuits")
}  # fmt: skip


@pytest.mark.parametrize("page", OF_PAGES)
def test_every_shipped_run_is_shown_with_its_python(show: Open, page: str):
    assert OF_PAGES[page]
    for name in OF_PAGES[page]:
        test = show(page, run=name)
        assert not test.error, (name, test.error[0].value)
        assert len(charts(test)) == 1, name
        assert ".figure(" in code(test) and name.split("/")[1] in code(test)


def test_each_analysis_of_these_pages_has_a_page():
    assert all(page_of(name) == page for page in OF_PAGES for name in PAGES[page].analyses)


def test_a_box_is_kept_in_the_link_and_the_link_opens_the_same(show: Open):
    test = show("sinks", run="shipped/sinks-demo-lm")
    assert link(test)["run"] == "shipped/sinks-demo-lm"
    box = next(one for one in test.selectbox if one.label == "Texts of")
    checked(box.select("ioi").run())
    box = next(one for one in test.selectbox if one.label == "Text")
    checked(box.select(2).run())
    kept = link(test)
    assert (kept["sinks.domain"], kept["sinks.record"]) == ("ioi", "2")
    assert "domain='ioi'" in code(test) and "record=2" in code(test)
    again = show("sinks", **{name.replace(".", "__"): value for name, value in kept.items()})
    assert code(again) == code(test)


def test_an_option_that_is_the_figures_own_is_no_keyword(show: Open):
    test = show("causal_trace", run="shipped/activation_patching-demo-lm")
    box = next(one for one in test.selectbox if one.label == "Direction")
    assert box.value == "both" and code(test).endswith("result.figure()")
    checked(box.select("noise").run())
    assert code(test).endswith("result.figure(direction='noise')")


def test_a_second_circuit_follows_the_first(show: Open):
    """The last task is second in every pair, so it has no second of its own."""
    test = show(
        "circuits", run="shipped/circuit_reuse-demo-lm", circuit_reuse__first="colored_objects"
    )
    assert "first='colored_objects', second='induction'" in code(test)
    assert not test.error


def test_a_link_to_a_run_that_is_not_here_says_so(show: Open):
    test = show("heads", run="elsewhere/heads")
    assert "elsewhere" in test.info[0].value and len(charts(test)) == 1


def test_a_run_of_other_columns_is_told_and_its_numbers_are_shown(
    show: Open, explorer_folder: Path
):
    Result("heads", pandas.DataFrame({"layer": [0], "weight": [1.0]})).save(explorer_folder / "odd")
    test = show("heads", run="mine/odd")
    assert "mine-odd cannot be drawn" in test.error[0].value.replace("\\", "")
    assert [list(one.value) for one in test.dataframe] == [["layer", "weight"]]


NOW = {"ask__from": "ask a model now"}


def test_asking_now_shows_the_answer_and_its_link_opens_it(show: Open):
    test = show("heads", **NOW, ask__analysis="heads", model="demo-lm", task="ioi", ask__count="4")
    assert not charts(test)  # nothing is asked before somebody asks
    checked(test.button(key="ask now").click().run())
    assert not test.error and len(charts(test)) == 1
    assert "interp.Task.load('ioi', count=4)" in code(test)
    named = {"ask.analysis": "heads", "model": "demo-lm", "task": "ioi", "ask.count": "4"}
    assert named.items() <= link(test).items()
    kept = {name.replace(".", "__"): value for name, value in link(test).items()}
    again = show("heads", **kept)
    assert len(charts(again)) == 1 and code(again) == code(test)
    checked(again.text_input(key="box ask.heads.strong").set_value("0.6").run())
    assert not charts(again) and link(again)["ask.heads.strong"] == "0.6"  # another question


def test_the_lines_of_python_give_the_answer_that_is_shown(show: Open):
    test = show("heads", **NOW, ask__analysis="heads", model="demo-vit", task="digits", ask__count="3",
                ask__heads__strong="0.6", ask__heads__pairs="0")  # fmt: skip
    checked(test.button(key="ask now").click().run())
    made = next(json.loads(one.value) for one in test.json)
    lines: dict[str, Any] = {}
    body, last = code(test).rsplit("\n", 1)
    exec(f"{body}\nresult = {last.rsplit('.figure(', 1)[0]}", lines)
    mine = json.loads(json.dumps(lines["result"].made))
    assert {key: mine[key] for key in ("model", "task digest", "settings", "weights")} == {
        key: made[key] for key in ("model", "task digest", "settings", "weights")
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("much", "strong takes a number, not 'much'"),
        ("7", "strong"),
        ("[" * 150, "strong takes a number"),
    ],
)
def test_a_wrong_setting_is_answered_with_a_sentence(show: Open, text: str, says: str):
    test = show("heads", **NOW, ask__analysis="heads", model="demo-lm", task="ioi", ask__count="2",
                ask__heads__strong=text)  # fmt: skip
    if not test.error:
        checked(test.button(key="ask now").click().run())
    assert says in test.error[0].value.replace("\\", "")
    assert test.selectbox  # the page is still there


@pytest.mark.parametrize(
    ("page", "analysis", "model", "offered", "refused"),
    [
        ("causal_trace", "causal_tracing", "demo-lm", "facts", "ioi"),
        ("causal_trace", "fcct", "demo-vlm", "existence", "captions"),
        ("circuits", "repair", "demo-lm", "open_book", "facts"),
        ("heads", "heads", "demo-vit", "digits", "ioi"),
        ("heads", "head_importance", "demo-vlm", "colour", "captions"),
    ],
)
def test_tasks_suit_the_model_and_the_analysis(
    show: Open, page: str, analysis: str, model: str, offered: str, refused: str
):
    test = show(page, **NOW, ask__analysis=analysis, model=model)
    options = next(one for one in test.selectbox if one.label == "Task").options
    assert offered in options and refused not in options


def test_no_task_for_this_model_is_a_sentence(show: Open):
    test = show("causal_trace", **NOW, ask__analysis="fcct", model="demo-lm")
    assert "no task for demo-lm has what fcct reads" in test.error[0].value.replace("\\", "")


def test_circuits_to_compare_are_two_or_more(show: Open):
    test = show("circuits", **NOW, ask__analysis="circuit_reuse", model="demo-lm", ask__tasks="ioi")
    assert "choose 2 or more" in test.error[0].value


def test_checkpoints_are_chosen_among_the_models_that_are_open(show: Open):
    test = show("heads", **NOW, ask__analysis="emergent_heads", model="demo-lm")
    box = next(one for one in test.multiselect if "checkpoints" in one.label)
    assert "demo-lm-before-induction" in box.options and "demo-lm" not in box.options
    assert not any(one.label == "before" for one in test.text_input)


def test_runs_lists_all_and_says_which_are_broken(show: Open, explorer_folder: Path):
    shutil.copytree(shipped.runs() / "heads-demo-vit", explorer_folder / "cut")
    (explorer_folder / "cut" / "table.parquet").write_bytes(b"PAR1 no more")
    test = show("runs", run="mine/cut")
    listed = test.dataframe[0].value
    assert set(listed["run"]) == {"mine/cut"} | {
        f"shipped/{path.name}" for path in shipped.runs().iterdir()
    }
    assert listed.set_index("run")["problem"].notna().sum() == 1
    assert "cannot be opened" in test.error[0].value
    assert any("table.parquet" in one.value.replace("\\", "") for one in test.error[1:])


def test_two_runs_are_shown_beside_each_other_with_what_differs(show: Open, explorer_folder: Path):
    result = Result.load(shipped.runs() / "heads-demo-lm")
    result.table.loc[5, "sink"] += 0.25
    result.made["settings"]["strong"] = 0.75
    result.save(explorer_folder / "changed")
    test = show("runs", run="shipped/heads-demo-lm", runs__with="mine/changed", runs__value="sink")
    assert len(charts(test)) == 2
    differing = test.dataframe[1].value
    assert set(differing["name"]) == {"settings.strong", "table.sink: 1 of 32 rows, most in row 5"}
    rows = test.dataframe[2].value
    assert (
        rows["difference"].iloc[0] == pytest.approx(0.25) and not rows["difference"].iloc[1:].any()
    )
    assert list(rows.iloc[0][["layer", "head"]]) == [0, 5]


@pytest.mark.parametrize("name", [path.name for path in sorted(shipped.runs().iterdir())])
def test_every_table_of_numbers_can_be_set_beside_itself(name: str):
    """Whatever its columns are called."""
    result = Result.load(shipped.runs() / name)
    assert compared.shared_tables(result, result)
    for table in compared.tables(result).values():
        known = compared.keys(table, table)
        for value in compared.values(table, table, known) if known else ():
            rows = compared.side_by_side(table, table, known, value)
            assert len(rows) == len(table) and not rows[compared.APART].dropna().any()


def test_a_run_travels_whole_as_a_zip(explorer_folder: Path):
    run = shelf.named("shipped/heads-demo-vit")
    with zipfile.ZipFile(io.BytesIO(shelf.zipped(run))) as packed:
        packed.extractall(explorer_folder)
    again, kept = Result.load(explorer_folder / "heads-demo-vit"), shelf.load(run)
    pandas.testing.assert_frame_equal(again.table, kept.table)


@pytest.mark.parametrize("name", ["../secret", "mine/../../secret", "/etc", "shipped/../models"])
def test_no_name_leads_out_of_the_folders(explorer_folder: Path, name: str):
    Result("heads", pandas.DataFrame({"layer": [0]})).save(explorer_folder.parent / "secret")
    with pytest.raises(LookupError, match="no run"):
        shelf.named(name)


def test_rows_are_told_apart_by_the_first_columns_that_do():
    one = pandas.DataFrame({"layer": [0, 0, 1], "head": [0, 1, 0], "score": [1.0, 2.0, 3.0]})
    other = pandas.DataFrame({"layer": [1, 0], "head": [0, 0], "score": [2.5, 1.0]})
    known = compared.keys(one, other)
    assert known == ["layer", "head"]
    rows = compared.side_by_side(one, other, known, "score")
    assert rows.to_dict("list") == {
        "layer": [1, 0], "head": [0, 0], "in the first": [3.0, 1.0], "in the second": [2.5, 1.0],
        "difference": [-0.5, 0.0],
    }  # fmt: skip
    assert compared.keys(one[["layer", "score"]], other[["head", "score"]]) == []
    lists = one.assign(which=[[0], [1], [2]])[["which", "layer", "head", "score"]]
    assert compared.keys(lists, lists) == ["layer", "head"]  # lists tell no rows apart
    alike = pandas.DataFrame({"layer": [0, 0], "score": [1.0, 1.0]})
    assert compared.keys(alike, alike) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("`sink` falls", "`sink` falls"),
        ("*a* `b*c` <d>", "\\*a\\* `b*c` \\<d\\>"),
        ("`one is left", "\\`one is left"),
        ("`a\n* b` [c](d)", "`a * b` \\[c\\]\\(d\\)"),
    ],
)
def test_notes_show_code_and_nothing_else_of_markup(text: str, shown: str):
    assert said.with_code(text) == shown


@pytest.mark.parametrize(
    ("text", "default", "annotation", "value"),
    [
        ("3", None, "int | None", 3),
        ("", 0.5, float, 0.5),
        ("0.5, 2", (0.5, 1.3), "Sequence[float] | float", (0.5, 2)),
        ("z, mlp_out", ("z",), "Sequence[str] | str", ("z", "mlp_out")),
        ("[(2, 1, 'k')]", "logits", "str | Sequence[Any]", [(2, 1, "k")]),
        ("S2", "last", Any, "S2"),
        ("None", "template", "str | None", None),
    ],
)
def test_a_text_becomes_a_value_of_the_setting(
    text: str, default: Any, annotation: Any, value: Any
):
    assert asking.read("name", text, default, annotation) == value
