"""The figure of `activation_patching`: a map of every site, for each direction."""

from typing import TYPE_CHECKING, Any

from interp.plots.stacking import ROW
from interp.plots.style import EFFECT, INK, bar, plain, short, styled, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

SAYS = {
    "denoise": "denoise: clean values put into the corrupted run; 1: all of the answer is back",
    "noise": "noise: corrupted values put into the clean run; 1: all of the answer is lost",
}
ALL = "all"
CELL, NARROW, LEAST_WIDE, LINE, LEAST_TALL = 34, 23, 210, 26, 130  # pixels of cells and panels
NUMBERED, COLUMNS, LABELLED = 10, 26, 8  # cells across with numbers, with labels, with long ones
SEEN = 0.005  # shares below it are written as nothing
LEAST = 0.05  # the colours reach this far, so that next to nothing looks like it
GAP = 130  # pixels between the two directions


def figure(result: "Result", place: str | None = None, direction: str | None = None) -> "Figure":
    """Layers down; places across for sites without heads, heads across for the others.

    Maps of heads are of all places together, or of one `place`. `direction` picks one of two. Numbers
    stand where the 95 % interval holds no 0. One scale for all; it ends at the largest share.
    """
    from plotly.subplots import make_subplots

    table = _chosen(result.table, place, direction)
    directions, sites = (list(dict.fromkeys(table[name])) for name in ("direction", "site"))
    maps = {
        (row, column): table[(table["direction"] == one) & (table["site"] == site)]
        for row, one in enumerate(directions, start=1)
        for column, site in enumerate(sites, start=1)
    }
    across = [_across(maps[1, column + 1]) for column in range(len(sites))]
    cells = [CELL if len(own) <= NUMBERED else NARROW for own in across]
    widths = [max(LEAST_WIDE, one * len(own)) for one, own in zip(cells, across, strict=True)]
    tall = max(LEAST_TALL, LINE * table["layer"].nunique())
    titles = [f"<b>{site}</b>" for site in sites] + [""] * len(sites) * (len(directions) - 1)
    total = len(directions) * tall + (len(directions) - 1) * GAP
    grid = make_subplots(
        rows=len(directions), cols=len(sites), column_widths=widths, subplot_titles=titles,
        horizontal_spacing=46 / (sum(widths) + 46 * (len(widths) - 1)),
        vertical_spacing=GAP / total if len(directions) > 1 else 0.0,
    )  # fmt: skip
    largest = max(LEAST, float(table["share"].abs().max()))
    words = _words(result)
    for (row, column), own in maps.items():
        _map(grid, own, row, column, largest, words)
    grid.update_annotations(font={"size": 12, "color": INK})
    for row, name in enumerate(directions, start=1):
        _heading(grid, SAYS[name], row)
    at = "" if place is None else f"; heads at {plain(repr(place))}"
    metric = (result.made.get("settings") or {}).get("metric", "the metric")
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    title = (
        f"Activation patching of {of or 'the model'}: share of the change of {metric}{at}"
        "<br>A number stands where the 95 % interval holds no 0."
    )
    wide = sum(widths) + 46 * (len(widths) - 1) + 180
    return styled(grid, title, height=total + 190, width=wide, above=58, b=90, l=60, r=90)


def _chosen(table: Any, place: str | None, direction: str | None) -> Any:
    """Sites without heads at every place; heads at all places, or at the one asked for."""
    for noun, asked, column in (("direction", direction, "direction"), ("place", place, "place")):
        known = list(dict.fromkeys(table[column]))
        if asked is not None and asked not in known:
            raise LookupError(f"no {noun} {asked!r} in this result. There are: {', '.join(known)}.")
    if direction is not None:
        table = table[table["direction"] == direction]
    with_heads = table["head"].notna()
    if place not in (None, ALL) and not (with_heads & (table["place"] == place)).any():
        raise LookupError(
            f"no site was patched head by head at {place!r}; head_places=True patches heads at each place."
        )
    return table[~with_heads | (table["place"] == (place or ALL))]


def _across(own: Any) -> list[Any]:
    return list(dict.fromkeys(own["head"] if own["head"].notna().all() else own["place"]))


def _words(result: "Result") -> dict[str, str]:
    """What stands at a position, to label it with; spans have their names."""
    places = result.tables.get("places")
    if places is None or not len(places) or not places["place"].str.isdigit().all():
        return {}
    return {
        place: f"{place} {visible(short(word, LABELLED))}"
        for place, word in zip(places["place"], places["example"], strict=True)
    }


def _map(grid: Any, own: Any, row: int, column: int, largest: float, words: dict[str, str]) -> None:
    import plotly.graph_objects as go

    heads = bool(own["head"].notna().all())
    axis = "head" if heads else "place"
    order = _across(own)
    layers = list(dict.fromkeys(own["layer"]))
    share, low, high = (
        own.pivot(index="layer", columns=axis, values=name).loc[layers, order]
        for name in ("share", "share_low", "share_high")
    )
    sure = ((low > 0) | (high < 0)).to_numpy()
    labels = [words.get(one, plain(short(str(one)))) for one in order]
    text = [
        [_said(value) if known else "" for value, known in zip(*line, strict=True)]
        for line in zip(share.to_numpy(), sure, strict=True)
    ]
    cell = go.Heatmap(
        z=share.to_numpy(), x=list(range(len(order))), y=[str(layer) for layer in layers],
        colorscale=EFFECT, zmin=-largest, zmid=0, zmax=largest, xgap=1, ygap=1,
        text=text, texttemplate="%{text}" if len(order) <= NUMBERED else None, textfont={"size": 10},
        showscale=(row, column) == (1, 1), colorbar=bar("", x=1.01, xanchor="left"),
        customdata=[[f"{name}<br>95 %: {a:+.3f} to {b:+.3f}"
                     for name, a, b in zip(labels, *ends, strict=True)]
                    for ends in zip(low.to_numpy(), high.to_numpy(), strict=True)],
        hovertemplate=f"layer %{{y}}, {axis} %{{customdata}}<br>share %{{z:+.3f}}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=row, col=column)
    step = -(-len(order) // COLUMNS)
    grid.update_xaxes(
        tickvals=list(range(0, len(order), step)), ticktext=labels[::step], tickangle=0 if heads else -50,
        title={"text": "head" if heads else "", "standoff": 4, "font": {"size": 12}},
        row=row, col=column,
    )  # fmt: skip
    grid.update_yaxes(
        title={"text": "layer" if column == 1 else "", "standoff": 2, "font": {"size": 12}},
        type="category", autorange="reversed", row=row, col=column,
    )  # fmt: skip


def _said(value: float) -> str:
    return "" if abs(value) < SEEN else f"{value:+.2f}".replace("0.", ".")


def _heading(grid: Any, text: str, row: int) -> None:
    """Above a row of panels and their names."""
    top = grid.get_subplot(row, 1).yaxis.domain[1]
    grid.add_annotation(
        text=text, x=0, y=top, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
        yshift=24, showarrow=False, name=ROW, font={"size": 12, "color": INK},
    )  # fmt: skip
