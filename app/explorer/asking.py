"""Forms read off signatures: an analysis' settings, an intervention's fields, a task's options."""

import inspect
from collections.abc import Callable, Collection, Sequence
from typing import Any

import streamlit as st

from app.explorer import state

# Settings that say where files go or how a machine is used, not what is asked.
HIDDEN = {"save", "budget", "progress", "batch", "device"}
EMPTY = inspect.Parameter.empty
LETTERS = 200  # of a setting


def settings(
    function: Callable[..., Any], name: str, without: Collection[str] = ()
) -> dict[str, Any]:
    """Boxes for keyword settings, bound to the link; what differs from the defaults.

    All boxes are drawn before what is wrong in some of them is said.
    """
    parameters = inspect.signature(function).parameters.values()
    asked = [one for one in parameters if one.kind is one.KEYWORD_ONLY]
    asked = [one for one in asked if one.name not in HIDDEN and one.name not in without]
    columns = st.columns(3)
    given, wrong = {}, []
    for number, one in enumerate(asked):
        with columns[number % len(columns)]:
            try:
                value = field(one.name, one.default, f"{name}.{one.name}", one.annotation)
            except ValueError as mistake:
                wrong.append(str(mistake))
                continue
        if value != one.default:
            given[one.name] = value
    if wrong:
        raise ValueError(" ".join(wrong))
    return given


def field(label: str, default: Any, key: str, annotation: Any = EMPTY) -> Any:
    """A box for one value, bound to the link as `key` (which has a dot); emptied, it is the default."""
    if isinstance(default, bool):
        shown = "yes" if default else "no"
        return state.choose(key, label, ["yes", "no"], shown) == "yes"
    plain = written(default)
    box = f"box {key}"
    st.session_state[box] = state.view().get(key, plain)
    text = st.text_input(
        label, key=box, max_chars=LETTERS, on_change=_copy, args=(key, box, plain),
        placeholder=plain or "none",
    )  # fmt: skip
    return read(label, text.strip(), default, annotation)


def written(value: Any) -> str:
    """A default as a box shows it: several values with commas between them."""
    if value is None or value is EMPTY:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, (tuple, list)):
        return ", ".join(str(part) for part in value)
    return repr(sorted(value)) if isinstance(value, frozenset) else repr(value)


def read(label: str, text: str, default: Any, annotation: Any = EMPTY) -> Any:
    """The value that a text stands for, of the type that is asked for."""
    from app.command.settings import kinds_of, told, typed

    if text in ("", written(default)):
        return default
    kind = type(default) if annotation is EMPTY and _plain(default) else annotation
    bracketed = text[0] in "[({" or "," not in text
    words = [text] if bracketed else [part.strip() for part in text.split(",")]
    try:
        value = typed(label, words, kind)
    except (ValueError, RecursionError, MemoryError):
        raise ValueError(f"{label} takes {told(kinds_of(kind))}, not {text!r}.") from None
    return tuple(value) if isinstance(default, tuple) and isinstance(value, list) else value


def several(
    name: str, label: str, options: Sequence[str], default: Sequence[str], where: Any = st
) -> list[str]:
    """Some of the options, in the order they were chosen in; bound to the link, with commas."""
    box = f"box {name}"
    kept = [one for one in state.view().get(name, "").split(",") if one in options]
    st.session_state[box] = kept or [one for one in default if one in options]
    return where.multiselect(label, options, key=box, on_change=_join, args=(name, box))


def _plain(default: Any) -> bool:
    return isinstance(default, (int, float, str))


def _copy(name: str, box: str, default: str) -> None:
    text = st.session_state[box].strip()
    state.put(**{name: None if text == default else text})


def _join(name: str, box: str) -> None:
    state.put(**{name: ",".join(st.session_state[box])})
