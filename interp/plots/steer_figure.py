"""The figure of `steer`: what came next, plain and steered, and which heads look elsewhere."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import ATTENTION, EFFECT, INK, SERIES, bar, plain, short, styled, visible
from interp.registry import unknown

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

PLAIN = "plain"
SHOWN = ("both", "tokens", "heads", "looks")
PARTS = {
    "moved": "how much of each head's attention is elsewhere",
    "image": "change of each head's attention to the image",
    "first": "change of each head's attention to the first token",
    "span": "change of each head's attention to the span",
}
NEXT, LOOK = "probability of the next token", "attention of the row that writes the first token"
ACROSS = 4  # maps in a row
MOST, ANSWER = 14, 90  # tokens, and letters of an answer, that are shown
SEEN, LEAST = 0.005, 5  # less likely tokens are left out, but for some
WIDE, LINE, CELL = 980, 22, 26  # pixels of the figure, of a line of dots, and of a layer
LEFT, RIGHT, BARE, GAP = 130, 90, 30, 76  # beside panels with and without a bar, and between
ROOM, LONG = 36, 130  # pixels that a number takes, and of a colour bar
LEGEND = {"orientation": "h", "x": 0, "y": 1, "yanchor": "bottom", "bgcolor": "rgba(0,0,0,0)",
          "itemsizing": "constant"}  # fmt: skip


def figure(
    result: "Result",
    record: int | None = None,
    show: str = "both",
    part: str = "moved",
    intervention: str | None = None,
    head: str | None = None,
) -> "Figure":
    """Of one record (the first): probabilities of the next token, and a map of heads for each intervention.

    `show` is "both", "tokens", "heads", or "looks": the tokens that one `head` ("layer.head"; the most
    moved) under one `intervention` (the first) looks at less or more. `part` of the maps: how much of each
    head's row "moved", or the change of its share on the "image", the "first" token or the "span".
    """
    own = _of(result, record)
    if show not in SHOWN:
        raise ValueError(f"show={show!r}: one of {', '.join(SHOWN)}.")
    if show == "looks":
        return _looks(own, intervention, head)
    names = _steered(own, intervention)
    heads = [] if show == "tokens" else [_changes(own["heads"], name, part) for name in names]
    tokens = None if show == "heads" else _chances(own["tokens"], names)
    grid = _grid(tokens, heads, names)
    if tokens is not None:
        _dots(grid, tokens, NEXT)
        grid.update_xaxes(range=[-0.02, 1.02], row=1, col=1)
    most = _most(heads, part)
    for place, values in enumerate(heads):
        row = place // ACROSS + (1 if tokens is None else 2)
        _map(grid, values, part, most, (row, place % ACROSS + 1), len(heads))
    return _styled(grid, result, own, tokens, heads, part)


def _of(result: "Result", record: int | None) -> dict[str, Any]:
    """The tables of one record, those of the first where none is asked for."""
    known = list(dict.fromkeys(result.table["record"]))
    record = known[0] if record is None else record
    if record not in known:
        raise LookupError(f"record {record} is not in this result; there are {known}.")
    tables: dict[str, Any] = {"table": result.table, **result.tables}
    return {name: table[table["record"] == record] for name, table in tables.items()}


def _steered(own: dict[str, Any], asked: str | None) -> list[str]:
    """Those of which there is something to show, or the one that was asked for."""
    known = list(dict.fromkeys(own["heads"]["intervention"]))
    if not known:
        raise LookupError(
            "no intervention could be run on this record; see `refused` in the table."
        )
    return known if asked is None else [_named(asked, known, "intervention")]


def _named(asked: str | None, known: list[str], noun: str) -> str:
    if asked is not None and asked not in known:
        raise LookupError(unknown(noun, asked, known))
    return known[0] if asked is None else asked


def _changes(heads: Any, name: str, part: str) -> Any:
    """Layers down, heads across."""
    own = heads[heads["intervention"] == name]
    if part not in PARTS:
        raise ValueError(f"part={part!r}: one of {', '.join(PARTS)}.")
    values = own["moved"] if part == "moved" else own[f"{part}_after"] - own[f"{part}_before"]
    if not values.notna().any():
        why = "it changed the prompt's length" if part == "moved" else f"there is no {part} here"
        raise ValueError(f"nothing to map of {name}: {why}; other parts: {', '.join(PARTS)}.")
    return own.assign(value=values).pivot(index="layer", columns="head", values="value")


def _chances(tokens: Any, names: list[str]) -> Any:
    """Tokens down, the likeliest anywhere first; plain and the others across."""
    own = tokens[tokens["intervention"].isin([PLAIN, *names])]
    wide = own.pivot(index="id", columns="intervention", values="probability")[[PLAIN, *names]]
    likely = wide.max(axis=1).sort_values(ascending=False)
    wide = wide.loc[likely.index[: min(MOST, max(LEAST, int((likely >= SEEN).sum())))]]
    spelled = own.drop_duplicates("id").set_index("id")["token"].loc[wide.index]
    labels = [visible(short(token)) for token in spelled]
    twice = {label for label in labels if labels.count(label) > 1}
    wide.index = [f"{label} ({number})" if label in twice else label
                  for label, number in zip(labels, wide.index, strict=True)]  # fmt: skip
    return wide


def _most(heads: list[Any], part: str) -> float:
    """Where the colours end: weight that has moved is a share, and shares may change a little only."""
    if part == "moved":
        return 1.0
    return max([0.1, *(float(values.abs().max().max()) for values in heads)])


def _heights(tokens: Any, heads: list[Any]) -> list[int]:
    """Pixels of each row of panels: tokens, then maps."""
    found = [] if tokens is None else [_tall(tokens)]
    tall = max(110, min(420, CELL * len(heads[0]))) if heads else 0
    return found + [tall] * -(-len(heads) // ACROSS)


def _tall(wide: Any) -> int:
    """Pixels of lines of dots: a line has a dot for each intervention."""
    return 16 + len(wide) * _line(wide)


def _line(wide: Any) -> int:
    return max(LINE, 10 * (wide.shape[1] - 1) + 8)


def _grid(tokens: Any, heads: list[Any], names: list[str]) -> Any:
    from plotly.subplots import make_subplots

    heights = _heights(tokens, heads)
    across = min(ACROSS, len(heads)) or 1
    specs: list[list[Any]] = [[{}] * across for _ in heights]
    if tokens is not None:
        specs[0] = [{"colspan": across}, *[None] * (across - 1)]
    inside = sum(heights) + GAP * (len(heights) - 1)
    titles = ([""] if tokens is not None else []) + [plain(name) for name in names[: len(heads)]]
    grid = make_subplots(
        rows=len(heights), cols=across, specs=specs, row_heights=heights, subplot_titles=titles,
        vertical_spacing=GAP / inside, horizontal_spacing=0.05 if across > 1 else 0.0,
    )  # fmt: skip
    for place in range(len(heads), across * (len(heights) - (tokens is not None))):
        row, column = place // across + (1 if tokens is None else 2), place % across + 1
        grid.update_xaxes(visible=False, row=row, col=column)
        grid.update_yaxes(visible=False, row=row, col=column)
    grid.update_annotations(font={"size": 12, "color": INK})
    return grid


def _dots(grid: Any, wide: Any, title: str) -> None:
    """A stroke where a token was, and from there a line to where each intervention has it."""
    import plotly.graph_objects as go

    places, names = list(range(len(wide))), [name for name in wide if name != PLAIN]
    step = min(0.4, 0.76 / len(names))
    for order, name in enumerate(names):
        colour = SERIES[order % len(SERIES)]
        own = [place + step * (order - (len(names) - 1) / 2) for place in places]
        ends = [end for pair in zip(wide[PLAIN], wide[name], strict=True) for end in (*pair, None)]
        rows = [each for place in own for each in (place, place, None)]
        line = {"color": colour, "width": 1.5}
        drawn = go.Scatter(x=ends, y=rows, mode="lines", line=line, hoverinfo="skip")
        grid.add_trace(drawn.update(showlegend=False), row=1, col=1)
        dots = go.Scatter(x=wide[name], y=own, mode="markers", name=plain(name), text=wide.index)
        grid.add_trace(dots.update(marker={"size": 9, "color": colour}), row=1, col=1)
    stroke = {
        "symbol": "line-ns-open",
        "size": max(16, _line(wide) // 2),
        "color": INK,
        "line": {"width": 2.5},
    }
    was = go.Scatter(x=wide[PLAIN], y=places, mode="markers", name=PLAIN, text=wide.index)
    grid.add_trace(was.update(marker=stroke, legendrank=1), row=1, col=1)
    says = "%{text}: %{x:.3g} (%{fullData.name})<extra></extra>"
    grid.update_traces(hovertemplate=says, selector={"mode": "markers"})
    grid.update_xaxes(title=title, row=1, col=1)
    ends = [len(places) - 0.5, -0.5]
    grid.update_yaxes(tickvals=places, ticktext=list(wide.index), range=ends, row=1, col=1)


def _map(grid: Any, values: Any, part: str, most: float, at: tuple[int, int], count: int) -> None:
    import plotly.graph_objects as go

    moved = part == "moved"
    what = "moved" if moved else "change"
    scale = {"colorscale": ATTENTION if moved else EFFECT, "zmin": 0 if moved else -most}
    beside = bar(what, len=LONG, lenmode="pixels", y=0, yanchor="bottom")
    roomy = ROOM * values.shape[1] * min(ACROSS, count) < WIDE - LEFT - RIGHT
    cell = go.Heatmap(
        z=values.to_numpy(), x=[str(head) for head in values.columns],
        y=[str(layer) for layer in values.index], **scale, zmax=most, colorbar=beside,
        showscale=not any(one.type == "heatmap" for one in grid.data),
        texttemplate="%{z:.2f}" if roomy else None, textfont={"size": 10},
        hovertemplate=f"layer %{{y}}, head %{{x}}: {what} %{{z:.3f}}<extra></extra>",
    )  # fmt: skip
    row, column = at
    grid.add_trace(cell, row=row, col=column)
    grid.update_xaxes(title="head", type="category", row=row, col=column)
    grid.update_yaxes(type="category", autorange="reversed", row=row, col=column)
    if column == 1:
        grid.update_yaxes(title="layer", row=row, col=column)


def _styled(
    grid: Any, result: "Result", own: dict[str, Any], tokens: Any, heads: list[Any], part: str
) -> "Figure":
    heights, table = _heights(tokens, heads), own["table"]
    answer = short(table["answer"].iloc[0].strip() or "nothing", ANSWER)
    model = plain(str(result.made.get("model") or "the model"))
    several = len(set(result.table["record"])) > 1
    title = f"{model} under interventions"
    title += f", record {table['record'].iloc[0]}" if several else ""
    title += (
        f"<br>Plain answer: {plain(answer).rstrip('.')}{f'. Maps: {PARTS[part]}' if heads else ''}"
    )
    height = sum(heights) + GAP * (len(heights) - 1) + 150
    above = 30 if tokens is None else 50
    right = RIGHT if heads else BARE
    styled(grid, title, width=WIDE, height=height, above=above, l=LEFT, r=right)
    return grid.update_layout(legend=LEGEND)


def _looks(own: dict[str, Any], intervention: str | None, head: str | None) -> "Figure":
    """Tokens that one head looks at less or more, in the order of the text."""
    from plotly.subplots import make_subplots

    if "looks" not in own or not len(own["looks"]):
        raise LookupError("no head's look has moved that can be told token by token here.")
    looks = own["looks"]
    name = _named(intervention, list(dict.fromkeys(looks["intervention"])), "intervention")
    looks = looks[looks["intervention"] == name]
    heads = looks["layer"].astype(str) + "." + looks["head"].astype(str)
    chosen = _named(head, list(dict.fromkeys(heads)), "head kept")
    rows = looks[heads == chosen].sort_values("position")
    spelled = zip(rows["token"], rows["position"], strict=True)
    labels = [f"{visible(short(token))} ({position})" for token, position in spelled]
    wide = rows[["before", "after"]].set_axis([PLAIN, name], axis=1).set_axis(labels, axis=0)
    grid = make_subplots(rows=1, cols=1)
    _dots(grid, wide, LOOK)
    grid.update_xaxes(rangemode="tozero")
    title = f"Head {chosen} under {plain(name)}: where it looks"
    title += "<br>The tokens (with their positions) whose attention changed most"
    styled(grid, title, width=WIDE, height=_tall(wide) + 160, above=50, l=LEFT, r=BARE)
    return grid.update_layout(legend=LEGEND)
