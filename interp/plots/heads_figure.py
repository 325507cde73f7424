"""The figure of `heads`: each head's type in its cell, and beside it the scores that made it so."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import (
    ATTENTION,
    BAND,
    CONTROL,
    EFFECT,
    INK,
    NIGHT,
    PAPER,
    QUIET,
    SERIES,
    WASH,
    bar,
    contrast,
    pale,
    plain,
    styled,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

# In the order in which heads are shown where there are too many; looks that say little come last.
COLOURS = {
    "induction": SERIES[1],
    "previous token": SERIES[0],
    "duplicate token": SERIES[5],
    "mover": SERIES[2],
    "negative mover": SERIES[6],
    "visual": SERIES[4],
    "neighbours": SERIES[0],
    "class token": SERIES[4],
    "retrieval": SERIES[3],
    "sink": CONTROL,
    "positional": SERIES[7],
    "local": BAND,
    "global": WASH,
    "other": PAPER,
}
STRONG = {*SERIES, CONTROL}
WEAK, LOOKS = " (weak)", ("local", "global", "other")
# Shares, from 0 to 1; and sizes, each coloured from its least to its largest.
SHARES = (
    "previous", "duplicate", "induction", "sink", "nearer", "to_class", "confidence", "answer",
    "name_copy", "negative_copy", "retrieval", "image",
)  # fmt: skip
SIZES = {"span": "span, tokens", "distance": "distance, patches", "vhd": "vhd"}
MOST = 40  # heads whose scores are shown
LINE, COLUMN = 17, 40  # pixels: a head's line of scores, a score's column
LEFT, RIGHT, BETWEEN = 70, 110, 75
Row = dict[str, Any]


def figure(result: "Result", most: int = MOST) -> "Figure":
    """Layers down and heads across; on the right a line for each of the `most` strongest heads."""
    import plotly.graph_objects as go

    rows: list[Row] = [dict(row) for row in result.table.to_dict("records")]
    across, down = (len({row[name] for row in rows}) for name in ("head", "layer"))
    shown = _strongest(rows, most)
    names = [name for name in (*SHARES, *SIZES) if name in rows[0]]
    grid = across * max(28, min(66, 620 // across))
    signed = COLUMN + 20 if "copying" in rows[0] else 0
    inside = grid + BETWEEN + COLUMN * len(names) + signed
    tall = min(88, max(34, LINE * len(shown) // down))  # a head's cell
    height = max(tall * down, LINE * len(shown))
    drawn = go.Figure()
    _types(drawn, rows, across, tall)
    _scores(drawn, shown, names)
    ends = ((grid + BETWEEN) / inside, 1 - signed / inside)
    drawn.update_layout(
        xaxis={"domain": (0, grid / inside), "anchor": "y", "dtick": 1, "title": "head"},
        yaxis={"domain": (max(0.0, 1 - tall * down / height), 1), "anchor": "x", "dtick": 1,
               "title": "layer", "autorange": "reversed"},
        xaxis2={"domain": ends, "anchor": "y2", "side": "top", "tickangle": -45},
        yaxis2={"anchor": "x2", "autorange": "reversed", "type": "category", "title": "layer.head"},
    )  # fmt: skip
    if signed:
        _copying(drawn, shown, (ends[1] + 14 / inside, 1.0))
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    cut = f", and scores of the {len(shown)} strongest" if len(shown) < len(rows) else ""
    styled(drawn, f"What each head of {of or 'the model'} is for (pale: weakly){cut}", above=90,
           height=height + 190, width=LEFT + inside + RIGHT, l=LEFT, r=RIGHT)  # fmt: skip
    drawn.update_yaxes(tickfont={"size": 10}, selector={"anchor": "x2"})
    return drawn


def _strongest(rows: list[Row], most: int) -> list[Row]:
    """The rows of the heads with the strongest types, in the order of the table."""
    order = list(COLOURS)

    def rank(row: Row) -> tuple[bool, bool, int]:
        name = _bare(row["type"])
        return name in LOOKS, row["type"].endswith(WEAK), order.index(name)

    kept = {id(row) for row in sorted(rows, key=rank)[:most]}
    return [row for row in rows if id(row) in kept]


def _bare(name: str) -> str:
    return name.removesuffix(WEAK)


def _types(drawn: "Figure", rows: list[Row], across: int, tall: int) -> None:
    """A cell for each head in its type's colour, the type's name in it."""
    import plotly.graph_objects as go

    names = sorted({row["type"] for row in rows})
    scale = []
    for number, name in enumerate(names):
        scale += [[edge / len(names), _colour(name)] for edge in (number, number + 1)]
    drawn.add_trace(
        go.Heatmap(
            z=[names.index(row["type"]) for row in rows],
            x=[row["head"] for row in rows],
            y=[row["layer"] for row in rows],
            colorscale=scale,
            zmin=-0.5,
            zmax=len(names) - 0.5,
            xgap=2,
            ygap=2,
            showscale=False,
            customdata=[row["types"] or "no label" for row in rows],
            hovertemplate="layer %{y}, head %{x}: %{customdata}<extra></extra>",
        )
    )
    size = 11 if across <= 10 else 9 if across <= 16 else 7
    for row in rows:
        ink = QUIET if row["type"] == "other" else _ink(_colour(row["type"]))
        drawn.add_annotation(
            x=row["head"], y=row["layer"], text=_said(row, across, tall), showarrow=False,
            font={"size": size, "color": ink},
        )  # fmt: skip


def _said(row: Row, across: int, tall: int) -> str:
    """The type; below it, where there is room, what else the head does."""
    name = _bare(row["type"])
    if across > 16:
        return name[:4]
    text = name.replace(" ", "<br>")
    others = [label for label in row["types"].split(", ")[1:] if _bare(label) not in LOOKS]
    if across > 10 or tall < 60 or not others:
        return text
    small = "<br>".join(_bare(label) for label in others[:3])
    return f"<b>{text}</b><br><span style='font-size:9px'>{small}</span>"


def _colour(name: str) -> str:
    """The type's colour; of a weak one, a third of it."""
    colour = COLOURS[_bare(name)]
    if not name.endswith(WEAK):
        return colour
    return pale(colour)


def _ink(colour: str) -> str:
    """Words on a cell: on pale ones as on paper; on others black or white, whichever is told apart."""
    if colour not in STRONG:
        return INK
    return max(PAPER, NIGHT, key=lambda ink: contrast(ink, colour))


def _scores(drawn: "Figure", rows: list[Row], names: list[str]) -> None:
    import plotly.graph_objects as go

    columns = [_scaled(name, [row[name] for row in rows]) for name in names]
    drawn.add_trace(
        go.Heatmap(
            z=[list(line) for line in zip(*columns, strict=True)],
            x=[SIZES.get(name, name.replace("_", " ")) for name in names],
            y=_heads(rows),
            xaxis="x2",
            yaxis="y2",
            colorscale=ATTENTION,
            zmin=0,
            zmax=1,
            xgap=1,
            colorbar=bar("share", x=1.01, xanchor="left", len=0.5, y=1, yanchor="top",
                         tickvals=[0, 0.5, 1]),
            text=[[_number(row[name], name) for name in names] for row in rows],
            texttemplate="%{text}",
            textfont={"size": 9},
            customdata=[[row[name] for name in names] for row in rows],
            hovertemplate="%{y}, %{x}: %{customdata:.3f}<extra></extra>",
        )
    )  # fmt: skip


def _scaled(name: str, values: list[float]) -> list[float]:
    """A size from the least to the largest of its column; paler than shares, which mean themselves."""
    if name not in SIZES:
        return values
    least, largest = min(values), max(values)
    return [0.6 * (value - least) / ((largest - least) or 1.0) for value in values]


def _copying(drawn: "Figure", rows: list[Row], domain: tuple[float, float]) -> None:
    """Eigenvalues of OV have a sign, and so a scale of their own, which the numbers tell."""
    import plotly.graph_objects as go

    values = [[row["copying"]] for row in rows]
    drawn.add_trace(
        go.Heatmap(
            z=values,
            x=["copying (OV)"],
            y=_heads(rows),
            xaxis="x3",
            yaxis="y3",
            colorscale=EFFECT,
            zmin=-1,
            zmax=1,
            showscale=False,
            text=[[_number(value, "copying") for value in line] for line in values],
            texttemplate="%{text}",
            textfont={"size": 9},
            hovertemplate="%{y}, copying: %{z:.3f}<extra></extra>",
        )
    )
    side = {"anchor": "x3", "autorange": "reversed", "type": "category", "showticklabels": False}
    top = {"domain": domain, "anchor": "y3", "side": "top", "tickangle": -45}
    drawn.update_layout(xaxis3=top, yaxis3=side)


def _heads(rows: list[Row]) -> list[str]:
    return [f"{row['layer']}.{row['head']}" for row in rows]


def _number(value: float, name: str) -> str:
    """As a cell has room for it; what is near nothing stays empty."""
    if name in SIZES:
        return f"{value:.1f}"
    return f"{value:.2f}".replace("0.", ".") if abs(value) >= 0.1 else ""
