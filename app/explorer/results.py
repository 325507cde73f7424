"""A page of results: choose a saved run or ask now, then the figure, its lines of Python, its numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.explorer import asked, beside, shelf, state
from app.explorer.said import MISTAKES, hint, kept_up, problem, sentence

if TYPE_CHECKING:
    from interp.result import Result

SAVED, NOW = "saved runs", "ask a model now"
BOX = 190  # pixels


@dataclass(frozen=True)
class Box:
    """A keyword of a figure, to be chosen. `options` of a result, given what was chosen before it.

    `none` is the option that leaves the keyword out.
    """

    keyword: str
    label: str
    options: Callable[["Result", dict[str, Any]], Sequence[Any]]
    show: Callable[["Result", Any], str] = lambda _, value: str(value)
    none: str = ""


# Analysis -> the boxes of its figure, in order.
Boxes = Mapping[str, Sequence[Box]]


def page(analyses: Sequence[str], says: str, boxes: Boxes | None = None) -> None:
    """`analyses` in the order of their runs in the list."""
    st.caption(says)
    found = shelf.of(analyses)
    told_missing()
    row = st.container(horizontal=True, vertical_alignment="bottom")
    ways = [SAVED, NOW] if found else [NOW]
    way = state.choose("ask.from", "Show", ways, where=row, width=BOX)
    if way == NOW:
        asked.page(analyses, lambda result, lines: draw(result, row, boxes or {}, None, lines))
        return
    names = [run.name for run in found]
    labels = {run.name: f"{label(run)}  ({run.name})" for run in found}
    name = state.choose("run", "Run", names, show=lambda one: labels[one], where=row)
    state.put(run=name)
    run = found[names.index(name)]
    with kept_up():
        draw(shelf.load(run), row, boxes or {}, run)


def label(run: shelf.Run) -> str:
    """What was asked of what."""
    return f"{run.analysis}: {run.model or 'a model of its own'}{f' on {run.task}' if run.task else ''}"


def draw(
    result: "Result", row: Any, boxes: Boxes, run: shelf.Run | None, lines: Sequence[str] = ()
) -> None:
    """The figure with its boxes and everything around it."""
    name = (run.name if run else f"now/{result.analysis}").replace("/", "-")
    given: dict[str, Any] = {}
    with drawable(name):
        given = chosen(result, row, boxes.get(result.analysis, ()))
        beside.show(result.figure(width=beside.room(), **given), name)
    beside.code(*(beside.loading(run, **given) if run else _with(lines, given)))
    beside.around(result, name)


@contextmanager
def drawable(name: str) -> Iterator[None]:
    """Tables that are not what a figure takes (of another version, say) become a sentence."""
    try:
        yield
    except (*MISTAKES, AttributeError) as mistake:
        problem(f"{name} cannot be drawn: {sentence(mistake).rstrip('.')}. Its numbers are below.")


def chosen(result: "Result", row: Any, boxes: Sequence[Box]) -> dict[str, Any]:
    """A box in the row for each keyword that leaves a choice; a lone option needs none."""
    given: dict[str, Any] = {}
    for box in boxes:
        options = list(box.options(result, given))
        if len(options) < 2:
            given |= {box.keyword: options[0]} if options else {}
            continue
        value = state.choose(
            f"{result.analysis}.{box.keyword}", box.label, options, where=row, width=BOX,
            show=lambda value, box=box: box.show(result, value),
        )  # fmt: skip
        given[box.keyword] = None if value == box.none else value
    return given


def _with(lines: Sequence[str], given: dict[str, Any]) -> list[str]:
    """The last line draws the figure."""
    told = ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)
    return [*lines[:-1], f"{lines[-1]}.figure({told})"] if lines else []


def told_missing() -> None:
    """A link may name a run that is not on these folders."""
    name = state.view().get("run")
    if name and "/" in name and all(run.name != name for run in shelf.runs()):
        hint(f"The link names the run {name}, which is not in the folders that are open here.")
