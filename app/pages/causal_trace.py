"""Causal trace: where in a model an answer comes from, by changing runs and by gradients."""

from typing import Any

from app.explorer import results
from app.explorer.results import Box
from app.pages import PAGES, Page
from interp.result import Result

ANALYSES = (
    "causal_tracing", "activation_patching", "path_patching", "attribution", "fcct", "flow",
)  # fmt: skip
SAYS = (
    "Where the answer comes from: what brings it back when put into a corrupted run (by token, layer, head "
    "or path), and what gradients and attention say of the same."
)
BOTH, ALL = "both", "all"  # what the figure shows by itself
PATHS, EDGES = (
    (14, 7, 28, 56),
    (10, 5, 20, 40),
)  # rows that are drawn, the figure's own number first


def _directions(result: Result, _: dict[str, Any]) -> list[Any]:
    return list(dict.fromkeys(result.table["direction"]))


def _both(result: Result, given: dict[str, Any]) -> list[Any]:
    return [BOTH, *_directions(result, given)]


def _traced(result: Result, _: dict[str, Any]) -> list[int]:
    return result.tables["positions"]["record"].drop_duplicates().tolist()


def _places(result: Result, _: dict[str, Any]) -> list[Any]:
    """Where heads were patched: all places together first."""
    places = dict.fromkeys(result.table.loc[result.table["head"].notna(), "place"])
    return sorted(places, key=lambda place: place != ALL)


def _explained(result: Result, _: dict[str, Any]) -> list[int]:
    return list(range(len(result.tables["records"])))


def _counts(known: tuple[int, ...], of: str) -> Any:
    def options(result: Result, _: dict[str, Any]) -> list[int]:
        table = result.table if of == "table" else result.tables.get(of, ())
        return [one for one in known if one == known[0] or one < len(table)]

    return options


def _told(_: Result, direction: str) -> str:
    known = {"denoise": "restoring (denoise)", "noise": "breaking (noise)"}
    return known.get(direction, direction)


def _answered(result: Result, record: int) -> str:
    """A record by what it was answered."""
    said = result.tables["records"]["answer"].iloc[record]
    return f"{record}: {str(said).strip()}"


BOXES = {
    "causal_tracing": (
        Box("direction", "Direction", _directions, _told),
        Box("record", "Record", _traced),
    ),
    "activation_patching": (
        Box("direction", "Direction", _both, _told, BOTH),
        Box("place", "Heads at", _places, none=ALL),
    ),
    "path_patching": (Box("most", "Paths listed", _counts(PATHS, "table")),),
    "attribution": (Box("bars", "Edges listed", _counts(EDGES, "edges")),),
    "flow": (Box("record", "Record", _explained, _answered),),
}


def draw() -> None:
    results.page(ANALYSES, SAYS, BOXES)


PAGES.add("causal_trace", Page("Causal trace", ":material/alt_route:", draw, ANALYSES))
