"""Rhythm: where a response looks far back before it goes on, and which of its tokens are looked back at."""

from typing import Any

from app.explorer import results
from app.explorer.results import Box
from app.pages import PAGES, Page
from interp.result import Result

ANALYSES = ("rhythm",)
SAYS = (
    "Before a response goes on, it looks far back (preplan tokens, peaks of WAAD); some tokens are looked "
    "back at ever after (anchors, peaks of FAI). Both are marked in the text, above their curves."
)
WINDOW = 90  # tokens that the figure shows at once


def _records(result: Result, _: dict[str, Any]) -> list[int]:
    return result.tables["tokens"]["record"].drop_duplicates().tolist()


def _starts(result: Result, given: dict[str, Any]) -> list[int]:
    tokens: Any = result.tables["tokens"]
    record = given.get("record", tokens["record"].iloc[0])
    return list(range(0, int((tokens["record"] == record).sum()), WINDOW))


BOXES = (
    Box("record", "Response", _records),
    Box("start", "From token", _starts),
)


def draw() -> None:
    results.page(ANALYSES, SAYS, {"rhythm": BOXES})


PAGES.add("rhythm", Page("Rhythm", ":material/graphic_eq:", draw, ANALYSES))
