"""Heads: what each one does, how much it matters, and which of them came with an ability."""

from typing import Any

from app.explorer import results
from app.explorer.results import Box
from app.pages import PAGES, Page
from interp.result import Result

ANALYSES = ("heads", "head_importance", "emergent_heads")
SAYS = (
    "What each head does (its type, by what it looks at and writes), how much the answer depends on it, "
    "and which heads came with an ability between two checkpoints."
)
MOST, OTHERS = 40, (10, 20, 80)  # heads with a line of their own: as the figure has it, or else


def _most(result: Result, _: dict[str, Any]) -> list[int]:
    return [MOST, *(one for one in OTHERS if one < len(result.table))]


def _listed(result: Result, most: int) -> str:
    return f"the {most} strongest" if most < len(result.table) else "all"


def _sizes(result: Result, _: dict[str, Any]) -> list[bool]:
    return [False, True] if any(name.endswith("_size") for name in result.table) else [False]


def _signed(_: Result, sizes: bool) -> str:
    return "their sizes" if sizes else "with their signs"


BOXES = {
    "heads": (Box("most", "Heads listed", _most, _listed),),
    "head_importance": (Box("sizes", "Means of effects", _sizes, _signed),),
}


def draw() -> None:
    results.page(ANALYSES, SAYS, BOXES)


PAGES.add("heads", Page("Heads", ":material/apps:", draw, ANALYSES))
