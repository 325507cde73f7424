"""Interventions: one answer, plain and steered, side by side; a model asked now, or a saved run."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.explorer import beside, loaded, results, shelf, state, steering, subject
from app.explorer.results import BOX, NOW, SAVED, Box
from app.explorer.said import as_text, hint, kept_up, notes
from app.pages import PAGES, Page

if TYPE_CHECKING:
    from interp.result import Result

ANALYSES = ("steer", "compare")
SAYS = (
    "What interventions do to an answer: what is said, which token comes next, where heads look, how much "
    "was touched and what it cost. A comparison judges them on many records, beside controls."
)
ASKED, TOKENS, MOST = "interventions.asked", "interventions.tokens", 64
ACROSS = 3  # answers in a row
PARTS = {
    "moved": "attention that is elsewhere",
    "image": "change of attention to the image",
    "first": "change of attention to the first token",
    "span": "change of attention to the highlight",
}
Code = Callable[..., list[str]]  # keywords of the figure -> lines of Python


def draw() -> None:
    st.caption(SAYS)
    found = shelf.of(ANALYSES)
    row = st.container(horizontal=True, vertical_alignment="bottom")
    ways = [SAVED, NOW] if found else [NOW]
    if state.choose("ask.from", "Show", ways, where=row, width=BOX) == NOW:
        _now()
        return
    labels = {run.name: f"{results.label(run)}  ({run.name})" for run in found}
    results.told_missing()
    name = state.choose("run", "Run", list(labels), show=lambda one: labels[one], where=row)
    state.put(run=name)
    run = next(run for run in found if run.name == name)
    with kept_up():
        result = shelf.load(run)
        if result.analysis == "compare":
            results.draw(
                result, row, {"compare": (Box("recovered", "Draw", _recovered, _what),)}, run
            )
            return
        _steered(result, name.replace("/", "-"), lambda **given: beside.loading(run, **given))


def _recovered(result: "Result", given: dict[str, Any]) -> list[bool]:
    return [False, True] if "recovered" in result.table else [False]


def _what(result: "Result", recovered: bool) -> str:
    return "share of the fault mended" if recovered else "difference to plain"


@dataclass(frozen=True)
class Question:
    """What is asked now, as values that a link can hold."""

    of: subject.Subject
    lines: tuple[str, ...]
    count: int

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]

    def code(self, **given: Any) -> list[str]:
        """The same in Python, drawn with these keywords."""
        told = ", ".join(f"{name}={value!r}" for name, value in given.items())
        call = f"interventions={list(self.lines)!r}, max_new_tokens={self.count}"
        opening = ["from analyses import ANALYSES", *self.of.code()]
        return [*opening, f'ANALYSES["steer"](model, task, {call}).figure({told})']


def _now() -> None:
    """The form; below it the answers, once this very question was asked, here or by who sent the link."""
    question = None
    with st.container(border=True), kept_up():
        question = _form()
        more = {"icon": ":material/play_arrow:", "disabled": not question.lines}
        if st.button("Run", type="primary", key="run now", **more):
            state.put(**{ASKED: question.digest})
    if question is None or not question.lines:
        return
    if state.view().get(ASKED) != question.digest:
        hint("Run it. Answers are kept while this server runs.")
        return
    with kept_up():
        with st.spinner("plain and steered", show_time=True):
            result = steered(question.digest, question)
        _steered(result, f"now-steer-{question.digest}", question.code, told=True)


def _form() -> Question:
    of = subject.pick(kinds=("text", "vlm"))
    _hint_of_fault(of.fault)
    lines: list[str] | None = None
    with kept_up():
        lines = steering.form(loaded.model(of.model_name).kind)
    count = state.number(TOKENS, "New tokens, at most", 1, MOST, 8, where=st.columns(4)[0])
    if lines == []:
        hint("Choose one intervention or several.")
    return Question(of, tuple(lines or ()), count)


def _hint_of_fault(fault: str | None) -> None:
    if fault is not None:
        from interp.faults import FAULTS

        known = FAULTS[fault]
        st.caption(as_text(f"{known.about} Said to mend it: {', '.join(known.repairs)}."))


@st.cache_resource(max_entries=64, show_spinner=False)
def steered(digest: str, _question: Question) -> "Result":
    """Worked out once for everybody who asks the same; what is live is this thread's alone."""
    from analyses import ANALYSES as KNOWN

    of, model = _question.of, _question.of.model()
    of.prompt_of(model)  # refuses what is too long, before anything runs
    settings = {"interventions": list(_question.lines), "max_new_tokens": _question.count}
    return KNOWN["steer"](model, of.as_record(), **settings)


def _steered(result: "Result", name: str, code: Code, told: bool = False) -> None:
    """Answers, next tokens, heads, one head, and what was touched."""
    record = _record(result, told)
    rows = _of(result, "table", record).to_dict("records")
    _answers(rows)
    shown = {"record": record} if len(result.tables["records"]) > 1 else {}
    heads = _of(result, "heads", record)
    if len(heads):
        _figure(result, f"{name}-tokens", code, **shown, show="tokens")
        parts = [one for one in PARTS if one == "moved" or heads[f"{one}_after"].notna().any()]
        part = state.choose(
            "steer.part", "Of each head", parts, show=lambda one: PARTS[one], width=2 * BOX
        )
        _figure(result, f"{name}-heads", code, **shown, show="heads", part=part)
        _looks(result, name, code, shown, record)
    _touched(rows)
    beside.around(result, name)


def _of(result: "Result", table: str, record: int) -> Any:
    """The rows of one record."""
    whole: Any = result.table if table == "table" else result.tables[table]
    return whole[whole["record"] == record]


def _record(result: "Result", told: bool) -> int:
    """The record to show, chosen where there are several; what was asked, where it is not `told` above."""
    records = result.tables["records"]
    known = [int(one) for one in records["record"]]
    record = known[0]
    if len(known) > 1:
        record = state.choose("steer.record", "Record", known, width=BOX)
    own = _of(result, "records", record).iloc[0]
    answers = ", ".join(one.strip() for one in own["answers"])
    if not told:
        st.text(_shortened(f"{'(an image) ' if own['image'] else ''}{own['prompt']}"))
    if answers:
        st.caption(as_text(f"Right would be: {_shortened(answers, 200)}"))
    return record


def _shortened(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[: most // 2]} … {text[-most // 2 :]}"


def _answers(rows: list[dict[str, Any]]) -> None:
    for start in range(0, len(rows), ACROSS):
        columns = st.columns(ACROSS)
        for column, row in zip(columns, rows[start : start + ACROSS], strict=False):
            with column:
                _answer(row, rows[0])


def _answer(row: dict[str, Any], plain: dict[str, Any]) -> None:
    name = row["intervention"]
    with st.container(border=True, height="stretch", key=f"answer {name}"):
        st.markdown(f"**{as_text(name)}** {_badges(row)}")
        if row["refused"]:
            st.warning(as_text(row["refused"]), icon=":material/block:")
            return
        st.text(row["answer"].strip() or "(nothing)")
        said = [f"next token: {row['first'].strip()}, {row['probability']:.3g}"]
        if row is not plain:
            said += [f"{row['token_moved']:.3g} of the next token's probability moved"]
            said += [f"{row['look_moved']:.3g} of attention moved (mean of heads)"]
            said += [f"{row['times']:.3g} times the plain time"]
        said += [f"{row['seconds']:.3g} s (one timing)"]
        st.caption("  \n".join(as_text(one) for one in said))
        if row is not plain and row["settings"] not in (name, f"{name}()"):
            st.caption(as_text(row["settings"]))


def _badges(row: dict[str, Any]) -> str:
    found = []
    if row["right"] is True:
        found.append(":green-badge[right]")
    if row["right"] is False:
        found.append(":red-badge[not right]")
    if row["inert"] is True:
        found.append(":orange-badge[changed nothing]")
    return " ".join(found)


def _looks(result: "Result", name: str, code: Code, shown: dict[str, Any], record: int) -> None:
    """Token by token, for one of the heads that moved most."""
    if "looks" not in result.tables:
        return
    looks = _of(result, "looks", record)
    if not len(looks):
        return
    row = st.container(horizontal=True, vertical_alignment="bottom")
    names = list(dict.fromkeys(looks["intervention"]))
    chosen = state.choose("steer.intervention", "Under", names, where=row, width=BOX)
    own = looks[looks["intervention"] == chosen]
    heads = [f"{layer}.{head}" for layer, head in zip(own["layer"], own["head"], strict=True)]
    head = state.choose(
        "steer.head", "Head, most moved first", list(dict.fromkeys(heads)), where=row, width=BOX
    )
    _figure(result, f"{name}-looks", code, **shown, show="looks", intervention=chosen, head=head)


def _figure(result: "Result", name: str, code: Code, **given: Any) -> None:
    with kept_up():
        beside.show(result.figure(width=beside.room(), **given), name)
        beside.code(*code(**given))


def _touched(rows: list[dict[str, Any]]) -> None:
    st.markdown("**How much was touched**")
    told = [(row["intervention"], line) for row in rows for line in row["report"].splitlines()]
    notes([f"together: {line}" if name == "together" else line for name, line in told])


PAGES.add("interventions", Page("Interventions", ":material/tune:", draw, ANALYSES))
