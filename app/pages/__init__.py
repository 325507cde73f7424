"""The explorer's pages: one file each, known by name in PAGES, in the order that ORDER gives them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from interp.registry import Registry


@dataclass(frozen=True)
class Page:
    """A page: what draws it, and which analyses' results it shows."""

    title: str
    icon: str
    draw: Callable[[], None]
    analyses: tuple[str, ...] = ()


PAGES: Registry[Page] = Registry("page", "app.pages")
ORDER = (
    "start", "attention", "sinks", "rhythm", "heads", "causal_trace", "circuits", "interventions", "runs",
)  # fmt: skip


def ordered() -> list[str]:
    """Names in the order of the menu; pages that ORDER does not know come last."""
    return sorted(PAGES, key=lambda name: ORDER.index(name) if name in ORDER else len(ORDER))


def menu() -> "dict[str, Any]":
    """Each page as Streamlit knows it, to be listed and linked to."""
    import streamlit as st

    return {
        name: st.Page(
            PAGES[name].draw,
            title=PAGES[name].title,
            icon=PAGES[name].icon,
            url_path=name,
            default=not number,
        )
        for number, name in enumerate(ordered())
    }


def page_of(analysis: str) -> str | None:
    """The page that shows an analysis' results."""
    return next((name for name in ordered() if analysis in PAGES[name].analyses), None)
