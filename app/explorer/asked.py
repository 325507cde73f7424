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
from app.explorer.subject import tasks_for

if TYPE_CHECKING:
    from interp.result import Result

# Those that take several tasks: what is offered first, and so many at least.
SEVERAL = {"circuit_reuse": ("ioi", "colored_objects"), "emergent_heads": ("induction",),
           "sinks": ("facts",)}  # fmt: skip
# These read one token of an answer.
ONE_WORD = ("activation_patching", "attribution", "circuit", "circuit_reuse", "emergent_heads",
            "head_importance")  # fmt: skip
ALONE = ("bigram_backcopy",)  # trains a model of its own, on texts of its own
COUNTS = {"circuit": 60, "circuit_reuse": 60, "emergent_heads": 40, "repair": 200}
LIKELY = ("ioi", "facts", "open_book", "colour", "existence", "digits")  # offered first
NONE = "none"
TALL = 420  # pixels of what an analysis says of its settings
COUNT, MOST = 16, 500  # records, where nothing else is said
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
    known = tasks_for(loaded.model(model).kind) or tasks_for("text")
    known = [name for name in known if suits(analysis, name)]
    if not known:
        raise ValueError(f"no task for {model} has what {analysis} reads; choose another model.")
    if analysis not in SEVERAL:
        likely = next((name for name in LIKELY if name in known), known[0])
        return [state.choose("task", "Task", known, likely, where=row)]
    first = SEVERAL[analysis]
    likely = first if set(first) <= set(known) else known[: len(first)]
    chosen = asking.several("ask.tasks", "Tasks", known, likely)
    if len(chosen) < len(first):
        raise ValueError(f"{analysis} compares tasks: choose {len(first)} or more.")
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


def suits(analysis: str, task: str) -> bool:
    """Whether the task's records have what the analysis reads of them."""
    record = records(task, 1)[0]
    word = all(" " not in one.strip() for one in record.answers)
    needs = {
        "causal_tracing": "subject" in record.spans,
        "fcct": word and record.image is not None and "shape" in record.spans,
        "path_patching": word and bool(record.prompt),
        "repair": word and any(one.strip() in record.prompt for one in record.wrong),
        "rhythm": bool(record.prompt),
    }
    return needs.get(analysis, word or analysis not in ONE_WORD)


@st.cache_resource(max_entries=128, show_spinner=False)
def records(task: str, count: int) -> Any:
    """A task's first records on its test split; nobody changes them."""
    import interp

    return interp.Task.load(task, count=count)


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
