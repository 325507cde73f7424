"""Interventions to choose and to set: forms read off their fields, in the link as `VAR(keep=0.2), PAI`."""

import ast
import dataclasses
import inspect
from typing import Any

import streamlit as st

from app.explorer import asking, state
from app.explorer.said import as_text, kept_up
from interp.registry import unknown

LINE, WRONG = "interventions.using", "interventions wrong"
LETTERS, ATONCE = 2000, 8  # of the line
HIDDEN = ("encoder",)  # would load another model
FILES = ("heads", "dims", "rates")  # may name a file, and only folders of the command line are read
MOST = {"max_new_tokens": 256, "tokens": 256}  # tokens that a method may write for itself
Chosen = list[tuple[str, dict[str, Any]]]


def form(kind: str) -> list[str]:
    """Boxes for the interventions of the link, and the lines that name them; those that suit `kind` first."""
    from analyses.steer import offered

    chosen: Chosen = []
    with kept_up():
        chosen = parsed(state.view().get(LINE, ""))
    names = [name for name, _ in chosen]
    if len(set(names)) == len(names):
        _names(list(dict.fromkeys([*offered(kind), *names])), names)
        for name, given in chosen:
            _fields(name, given)
    else:
        st.caption("Two of a kind are set in the line below.")
    st.session_state["box line"] = state.view().get(LINE, "")
    label = "As one line, to edit or to copy"
    st.text_input(
        label,
        key="box line",
        max_chars=LETTERS,
        on_change=_line,
        placeholder="NAME(setting=0.2), OTHER",
    )
    wrong = [said for (name, _), (_, said) in _wrong().items() if name in names]
    if wrong:
        raise ValueError(" ".join(wrong))
    return [checked(name, given) for name, given in chosen]


def parsed(line: str) -> Chosen:
    """Names with their settings, in their order; values are not judged yet."""
    from interp.interventions import INTERVENTIONS

    example = "write them as in NAME(setting=0.2), OTHER."
    if len(line) > LETTERS:
        raise ValueError(f"the line has {len(line)} characters; at most {LETTERS} are read.")
    try:
        tree = ast.parse(f"[{line}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise ValueError(f"{line!r} names no interventions; {example}") from None
    if not isinstance(tree, ast.List) or len(tree.elts) > ATONCE:
        raise ValueError(f"at most {ATONCE} interventions at once; {example}")
    found: Chosen = []
    for each in tree.elts:
        call = each if isinstance(each, ast.Call) else ast.Call(each, [], [])
        if not isinstance(call.func, ast.Name) or call.args:
            raise ValueError(f"{ast.unparse(each)!r} names no intervention; {example}")
        known = _settings(INTERVENTIONS[call.func.id])
        for one in call.keywords:
            if one.arg not in known:
                raise LookupError(unknown(f"setting of {call.func.id}", one.arg, list(known)))
        found.append((call.func.id, {str(one.arg): _value(one) for one in call.keywords}))
    return found


def checked(name: str, given: dict[str, Any]) -> str:
    """The line of one, when it can be made, and nothing in it reaches for what is not offered here."""
    from interp.steering.written import written

    line = spelled(name, given)
    for setting, value in given.items():
        if setting in FILES and isinstance(value, str):
            raise ValueError(
                f"{line}: files are not read here. Give {setting} themselves, such as heads=['3.1', '2.0']."
            )
        most = MOST.get(setting)
        if most is not None and isinstance(value, (int, float)) and value > most:
            raise ValueError(f"{line}: {setting} is at most {most} here.")
    written(line)
    return line


def spelled(name: str, given: dict[str, Any]) -> str:
    return (
        f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})"
        if given
        else name
    )


def _value(one: ast.keyword) -> Any:
    try:
        return ast.literal_eval(one.value)
    except ValueError:
        text = ast.unparse(one.value)
        raise ValueError(
            f"{one.arg} is a number, a text, a list or the like, not {text!r}."
        ) from None


def _settings(kind: Any) -> dict[str, dataclasses.Field[Any]]:
    return {one.name: one for one in dataclasses.fields(kind) if one.name not in HIDDEN}


def _names(options: list[str], names: list[str]) -> None:
    st.session_state["box names"] = names
    label = "Interventions (those that suit this kind of model first; several go left to right)"
    st.multiselect(label, options, key="box names", on_change=_chosen)


def _fields(name: str, given: dict[str, Any]) -> None:
    from interp.interventions import INTERVENTIONS

    kind = INTERVENTIONS[name]
    with st.expander(f"{name}: settings", icon=":material/tune:"):
        about = (inspect.getdoc(kind) or "").partition("\n")[0]
        st.caption(as_text(f"{about} {kind.paper}."))
        columns = st.columns(4)
        for place, one in enumerate(_settings(kind).values()):
            with columns[place % len(columns)]:
                _field(name, one, given.get(one.name, one.default))


def _field(name: str, one: dataclasses.Field[Any], value: Any) -> None:
    """A box that shows the link's value, or what was typed wrong."""
    box = f"box {name}.{one.name}"
    more = {"key": box, "on_change": _typed, "args": (name, one, box)}
    if isinstance(one.default, bool):
        st.session_state[box] = value
        st.checkbox(one.name, **more)
        return
    known = _wrong().get((name, one.name))
    st.session_state[box] = known[0] if known else asking.written(value)
    hint = asking.written(one.default) or ("all, or 3.1, 2.0" if one.name == "heads" else "its own")
    st.text_input(one.name, max_chars=LETTERS, placeholder=hint, **more)


def _wrong() -> dict[tuple[str, str], tuple[str, str]]:
    """What was typed into a box and is no value for it, with the sentence that says so."""
    return st.session_state.setdefault(WRONG, {})


def _typed(name: str, one: dataclasses.Field[Any], box: str) -> None:
    """A box was changed: its value goes into the line, what is wrong stays in the box."""
    text: Any = st.session_state[box]
    _wrong().pop((name, one.name), None)
    try:
        value = text if isinstance(one.default, bool) else _read(one, text.strip())
    except ValueError as mistake:
        _wrong()[name, one.name] = (text, f"{name}: {mistake}")
        return
    chosen = _known()
    for other, given in chosen:
        if other == name:
            given.pop(one.name, None)
            if repr(value) != repr(one.default):
                given[one.name] = value
    _put(chosen)


def _read(one: dataclasses.Field[Any], text: str) -> Any:
    if one.name == "heads" and text and text[0] not in "[({":  # 3.10 is a head, and no number
        return [part.strip().strip("'\"") for part in text.split(",")]
    return asking.read(one.name, text, one.default, one.type)


def _chosen() -> None:
    """Names were added or taken away; what stays keeps its settings."""
    known = dict(_known())
    _put([(name, known.get(name, {})) for name in st.session_state["box names"]])


def _known() -> Chosen:
    """What the line says; a line that says nothing is begun anew."""
    try:
        return parsed(state.view().get(LINE, ""))
    except (ValueError, LookupError):
        return []


def _put(chosen: Chosen) -> None:
    state.put(**{LINE: ", ".join(spelled(name, given) for name, given in chosen)})


def _line() -> None:
    _wrong().clear()
    state.put(**{LINE: st.session_state["box line"].strip()})
