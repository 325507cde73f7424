"""What is being looked at, kept in the link: whoever opens the link sees the same.

Streamlit empties a link's query when the page changes, so what was in it is kept for the session and
written again. A link that somebody opened, or went back to, comes before what was kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import streamlit as st

from app.explorer.opened import LINK

SHOWN = {
    "run", "model", "fault", "of", "task", "record", "prompt", "image", "layer", "head", "query", "stack",
    "ask", "count",
}  # fmt: skip
_KEPT, _WRITTEN = "view", "written"


def view() -> dict[str, str]:
    """Name -> value, as text."""
    return st.session_state.setdefault(_KEPT, {})


def put(**values: Any) -> None:
    """Keep values; None or "" forgets one."""
    kept = view()
    for name, value in values.items():
        kept.pop(name, None)
        if value not in (None, ""):
            kept[name] = str(value)


def read_link() -> None:
    """At the start of a page: what the link says, if it is not what this session wrote there."""
    link = dict(st.query_params.items())
    if link and link != st.session_state.get(_WRITTEN):
        st.session_state[_KEPT] = {
            name: link[name] for name in link if name in SHOWN or "." in name
        }


def write_link() -> None:
    """At the end of a page."""
    link = dict(view())
    if len(link.get("prompt", "")) > LINK:
        del link["prompt"]
    if link != dict(st.query_params.items()):
        st.query_params.from_dict(link)
    st.session_state[_WRITTEN] = link


def chosen(name: str, options: Sequence[Any], default: Any = None) -> Any:
    """The option that the view names, else the default, else the first."""
    kept = view().get(name)
    for option in options:
        if str(option) == kept:
            return option
    return default if default in options else options[0]


def choose(
    name: str,
    label: str,
    options: Sequence[Any],
    default: Any = None,
    show: Callable[[Any], str] = str,
    where: Any = st,
    kind: str = "selectbox",
    **more: Any,
) -> Any:
    """A box to choose from, bound to the view and so to the link."""
    key = f"box {name}"
    st.session_state[key] = chosen(name, options, default)
    box = getattr(where, kind)
    return box(label, options, key=key, format_func=show, on_change=_copy, args=(name, key), **more)


def _copy(name: str, key: str) -> None:
    put(**{name: st.session_state[key]})


def number(name: str, label: str, low: int, high: int, default: int = 0, where: Any = st) -> int:
    """A whole number, bound to the view."""
    key = f"box {name}"
    try:
        value = int(view().get(name, default))
    except ValueError:
        value = default
    st.session_state[key] = min(max(value, low), high)
    return int(where.number_input(label, low, high, key=key, on_change=_copy, args=(name, key)))


def text(name: str, label: str, default: str, where: Any = st, **more: Any) -> str:
    """Typed words, bound to the view."""
    key = f"box {name}"
    st.session_state[key] = view().get(name, default)
    return where.text_area(label, key=key, on_change=_copy, args=(name, key), **more)
