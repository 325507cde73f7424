"""Circuits: the heads that do a task, what two tasks share, and what mending a few of them does."""

from typing import Any

from app.explorer import results
from app.explorer.results import Box
from app.pages import PAGES, Page
from interp.result import Result

ANALYSES = ("circuit_reuse", "circuit", "repair")
SAYS = (
    "The few heads that do a task, judged on records that they were not found on; whether two tasks share "
    "theirs, beside what chance would; and what turning some of them down mends."
)


def _first(result: Result, _: dict[str, Any]) -> list[Any]:
    """Tasks that stand first in some pair of the table."""
    return list(dict.fromkeys(result.table["first"]))


def _second(result: Result, given: dict[str, Any]) -> list[Any]:
    """Those that the first one was compared with."""
    table: Any = result.table
    first = given.get("first", table["first"].iloc[0])
    return list(dict.fromkeys(table.loc[table["first"] == first, "second"]))


BOXES = {
    "circuit_reuse": (
        Box("first", "First circuit", _first),
        Box("second", "Second circuit", _second),
    ),
}


def draw() -> None:
    results.page(ANALYSES, SAYS, BOXES)


PAGES.add("circuits", Page("Circuits", ":material/hub:", draw, ANALYSES))
