"""Attention: every head as a thumbnail, one large; its text shaded and its image overlaid, for any query."""

import streamlit as st

from app.explorer import beside, results, shaded, shelf, state, subject
from app.explorer.said import as_text, kept_up
from app.pages import PAGES, Page
from interp.looking import Look
from interp.plots import attention_figure
from interp.result import Result

ANALYSES = ("attention",)
LIVE = "a model"
LISTED = 300  # tokens up to which they are offered by name


def draw() -> None:
    runs = {run.name: run for run in shelf.of(ANALYSES)}
    results.told_missing()
    chosen = {"model", "task", "prompt", "image"} & state.view().keys()
    first = LIVE if chosen else next(iter(runs), LIVE)
    source = state.choose("run", "Show", [LIVE, *runs], default=first, show=_label)
    state.put(run=source)
    with kept_up():
        if source == LIVE:
            result, lines = _asked()
        else:
            result = shelf.load(runs[source])
            lines = beside.loading(runs[source])[:2]
        _look(Look.of(result), lines)


def _label(name: str) -> str:
    return "Ask a model now …" if name == LIVE else f"saved: {name}"


def _asked() -> tuple[Result, list[str]]:
    """The result of a live model, and the lines that make it."""
    one = subject.pick()
    stacks = [stack for stack in one.model().stacks if stack != "cross"]
    stack = (
        state.choose("stack", "Stack", stacks, kind="radio", horizontal=True)
        if len(stacks) > 1
        else stacks[0]
    )
    return _answer(one, stack), [
        "from analyses import ANALYSES",
        *one.code(),
        f'result = ANALYSES["attention"](model, task, stack={stack!r})',
    ]


@st.cache_resource(max_entries=64, show_spinner="reading attention")
def _answer(one: subject.Subject, stack: str) -> Result:
    from analyses import ANALYSES

    model = one.model()
    return ANALYSES["attention"](model, one.prompt_of(model), stack=stack)


def _look(look: Look, lines: list[str]) -> None:
    layer, head, query = _places(look)
    st.caption("A click on a thumbnail makes it large. Point at a token or a cell for its number.")
    picked = beside.show(
        attention_figure.sheet(look, layer, head),
        "heads",
        on_select="rerun",
        selection_mode="points",
    )
    _follow(picked, look, layer, head)
    left, right = st.columns([3, 2])
    with left:
        beside.show(
            attention_figure.large(look, layer, head, query, int(0.58 * beside.room())),
            f"head-{layer}.{head}",
            0.58,
        )
    with right:
        token = as_text(look.tokens[query].strip())
        st.markdown(f"**What token {query}, {token}, looks at** in layer {layer}, head {head}")
        shaded.show(look.tokens, look.row(layer, head, query), query, look.on_image)
        over = attention_figure.overlay(look, layer, head, query)
        if over is not None:
            beside.show(over, f"image-{layer}.{head}", 0.38)
        _following(look)
    beside.code(*lines, f"result.figure(layer={layer}, head={head}, query={query})")
    beside.around(look.result, "attention")


def _places(look: Look) -> tuple[int, int, int]:
    first, second, third = st.columns(3)
    layer = state.choose(
        "layer", "Layer", look.layers, default=look.layers[len(look.layers) // 2], where=first
    )
    head = state.choose("head", "Head", list(range(look.heads)), where=second)
    last = len(look.tokens) - 1
    if last < LISTED:
        positions = list(range(last + 1))
        query = state.choose(
            "query",
            "Query token",
            positions,
            default=last,
            show=lambda at: f"{at}: {look.tokens[at]}",
            where=third,
        )
    else:
        query = state.number(
            "query", f"Query token (0 to {last})", 0, last, default=last, where=third
        )
    return layer, head, query


def _follow(picked: object, look: Look, layer: int, head: int) -> None:
    """Make the clicked head the chosen one; a figure remembers its click, which is to count once."""
    points = getattr(getattr(picked, "selection", None), "points", None) or []
    if not points:
        return
    row = look.result.table.iloc[int(points[-1]["point_index"])]
    clicked = (int(row["layer"]), int(row["head"]))
    if clicked != st.session_state.get("clicked"):
        st.session_state["clicked"] = clicked
        if clicked != (layer, head):
            state.put(layer=clicked[0], head=clicked[1])
            st.rerun()


def _following(look: Look) -> None:
    """What comes next, as bars: a grid of cells would cost a page more than its figures do."""
    table = look.result.tables.get("next")
    if table is not None:
        written = look.result.made["stack"] != "vision"
        st.markdown("**Most probable next**" if written else "**Most probable class**")
        shaded.bars(table["token"].tolist(), table["probability"].tolist())


PAGES.add("attention", Page("Attention", ":material/grid_on:", draw, ANALYSES))
