"""Asking a model now: a form whose every box is in the link, and an answer that all browsers share."""

import hashlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.explorer import asking, loaded, state
from app.explorer.opened import opened
from app.explorer.said import hint, kept_up, with_code
from app.suited import COUNT, COUNTS, SEVERAL, known_tasks, likely_tasks, records

if TYPE_CHECKING:
    from interp.result import Result

ALONE = ("bigram_backcopy",)  # trains a model of its own, on texts of its own
NONE = "none"
TALL = 420  # pixels of what an analysis says of its settings
MOST = 500  # records
Show = Callable[["Result", Sequence[str]], None]


@dataclass(frozen=True)
class Question:
    """What is asked, as values that a link can hold."""

    analysis: str
    model: str | None
    fault: str | None
    tasks: tuple[str, ...]
    count: int
    settings: tuple[tuple[str, Any], ...]

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()[:10]

    def link(self) -> dict[str, Any]:
        """What opens the same question; its settings are in the link from where they were typed."""
        own = {"ask.analysis": self.analysis, "ask.asked": self.digest, "model": self.model}
        own |= {"fault": self.fault or NONE, "ask.count": self.count or None}
        if self.analysis in SEVERAL:
            return own | {"ask.tasks": ",".join(self.tasks)}
        return own | {"task": self.tasks[0] if self.tasks else None}

    def __str__(self) -> str:
        of = f" of {self.model}{f' with {self.fault}' if self.fault else ''}" if self.model else ""
        on = f" on {self.count} records of {' and '.join(self.tasks)}" if self.tasks else ""
        return f"{self.analysis}{of}{on}"

    def code(self) -> list[str]:
        """The same in Python."""
        lines = ["import interp; from analyses import ANALYSES"]
        given = [f"{name}={value!r}" for name, value in self.settings]
        if self.model:
            each = {name: f"interp.Task.load({name!r}, count={self.count})" for name in self.tasks}
            whole = ", ".join(f"{name!r}: {one}" for name, one in each.items())
            whole = f"{{{whole}}}" if self.analysis in SEVERAL else each[self.tasks[0]]
            fault = f", fault={self.fault!r}" if self.fault else ""
            lines.append(f"model = interp.load({self.model!r}{fault}); task = {whole}")
            given = ["model", "task", *given]
        return [*lines, f"ANALYSES[{self.analysis!r}]({', '.join(given)})"]


def page(analyses: Sequence[str], show: Show) -> None:
    """The form; below it the answer, once this very question was asked, here or by who sent the link."""
    question = None
    with st.container(border=True), kept_up():
        question = _form(analyses)
        if st.button("Ask", type="primary", icon=":material/play_arrow:", key="ask now"):
            state.put(run=None, **question.link())
    if question is None:
        return
    if state.view().get("ask.asked") != question.digest:
        hint("Choose what to ask, and ask. Answers are kept while this server runs.")
        return
    with kept_up():
        show(answer(question), question.code())


def _form(analyses: Sequence[str]) -> Question:
    """Boxes, each bound to the link."""
    row = st.container(horizontal=True, vertical_alignment="bottom")
    name = state.choose("ask.analysis", "Analysis", analyses, where=row)
    model, fault, tasks, count = None, None, [], 0
    if name not in ALONE:
        model = state.choose("model", "Model", list(opened().models), where=row)
        fault = _fault(model, row)
        tasks = _tasks(name, model, row)
        count = state.number("ask.count", "Records", 1, MOST, COUNTS.get(name, COUNT), where=row)
    with st.expander("Settings", icon=":material/tune:"):
        boxes, about = st.columns([3, 2], gap="medium")
        about.container(height=TALL, border=False).markdown(_told(_analysis(name)))
        with boxes:
            more = _before(name, model)
            given = asking.settings(_analysis(name), f"ask.{name}", without=more)
    settings = tuple(sorted((given | more).items(), key=lambda pair: pair[0]))
    return Question(name, model, fault, tuple(tasks), count, settings)


def _told(function: Callable[..., Any]) -> str:
    """What an analysis says of itself, its lines put together again."""
    parts = (inspect.getdoc(function) or "").split("\n\n")
    return "\n\n".join(with_code(" ".join(part.split())) for part in parts)


def _fault(model: str, row: Any) -> str | None:
    known = loaded.faults(model)
    fault = state.choose("fault", "Planted fault", [NONE, *known], where=row) if known else NONE
    return None if fault == NONE else fault


def _tasks(analysis: str, model: str, row: Any) -> list[str]:
    """Tasks that suit the kind of model and what the analysis needs of a record."""
    kind = loaded.model(model).kind
    known, likely = known_tasks(analysis, kind), likely_tasks(analysis, kind)
    if not known:
        raise ValueError(f"no task for {model} has what {analysis} reads; choose another model.")
    if analysis not in SEVERAL:
        return [state.choose("task", "Task", known, likely[0], where=row)]
    least = len(SEVERAL[analysis])
    chosen = asking.several("ask.tasks", "Tasks", known, likely)
    if len(chosen) < least:
        raise ValueError(f"{analysis} compares tasks: choose {least} or more.")
    return chosen


def _before(analysis: str, model: str | None) -> dict[str, Any]:
    """Earlier checkpoints are chosen among the models that are open here: no path is typed in."""
    if analysis != "emergent_heads":
        return {}
    others = [one for one in opened().models if one != model]
    likely = [one for one in others if one.startswith(str(model).split("-after")[0])]
    chosen = asking.several("ask.before", "Earlier checkpoints (before)", others, likely[:1])
    if not chosen:
        raise ValueError("emergent_heads compares checkpoints: choose one or more earlier ones.")
    return {"before": chosen}


def answer(question: Question) -> "Result":
    """Worked out once for everybody who asks the same."""
    with st.spinner(str(question), show_time=True):
        return _answer(question.digest, question)


@st.cache_resource(max_entries=64, show_spinner=False)
def _answer(digest: str, _question: Question) -> "Result":
    """Hooks belong to the thread that asks, so models are shared."""
    given = dict(_question.settings)
    if _question.model is None:
        return _analysis(_question.analysis)(**given)
    tasks = {name: records(name, _question.count) for name in _question.tasks}
    task = tasks if _question.analysis in SEVERAL else next(iter(tasks.values()))
    model = loaded.model(_question.model, _question.fault)
    return _analysis(_question.analysis)(model, task, **given)


def _analysis(name: str) -> Callable[..., "Result"]:
    from analyses import ANALYSES

    return ANALYSES[name]
