"""Sinks: heads that rest, and the tokens that they rest on."""

from typing import Any

from app.explorer import results
from app.explorer.results import Box
from app.pages import PAGES, Page
from interp.result import Result

ANALYSES = ("sinks", "bigram_backcopy")
SAYS = (
    "Heads that have nothing to do rest on a token that writes nothing: where that is, what marks it, "
    "and what silencing such a head costs."
)


def _domains(result: Result, _: dict[str, Any]) -> list[Any]:
    return list(dict.fromkeys(result.tables["tokens"]["domain"]))


def _stacks(result: Result, given: dict[str, Any]) -> list[Any]:
    stacks = list(dict.fromkeys(_of(result, given)["stack"]))
    return sorted(stacks, key=lambda name: name != "text")  # the figure prefers it


def _records(result: Result, given: dict[str, Any]) -> list[int]:
    return _of(result, given)["record"].drop_duplicates().tolist()


def _of(result: Result, given: dict[str, Any]) -> Any:
    """Tokens of what was chosen; where there was no choice, all are of one kind."""
    tokens: Any = result.tables["tokens"]
    for name in ("domain", "stack"):
        if name in given:
            tokens = tokens[tokens[name] == given[name]]
    return tokens


BOXES = (
    Box("domain", "Texts of", _domains),
    Box("stack", "Stack", _stacks),
    Box("record", "Text", _records),
)


def draw() -> None:
    results.page(ANALYSES, SAYS, {"sinks": BOXES})


PAGES.add("sinks", Page("Sinks", ":material/water_drop:", draw, ANALYSES))
