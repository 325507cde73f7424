"""A look at one text or image: all heads as thumbnails, one head large, one query over the image."""

from typing import TYPE_CHECKING

import numpy as np

from interp.looking import Look
from interp.plots.style import ATTENTION, SERIES, bar, plain, short, styled, ticks, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

THUMBNAIL = 32  # cells a side
GAP = 2  # empty cells between thumbnails
SIDES = 150  # pixels beside the thumbnails
LABELS = 40  # tokens that an axis has room for
CHOSEN = SERIES[1]  # the head and the query that are large


def figure(
    result: "Result", layer: int | None = None, head: int | None = None, query: int = -1
) -> "Figure":
    """All heads as thumbnails; with a layer and a head that head large, the row of `query` framed."""
    look = Look.of(result)
    if layer is None and head is None:
        return sheet(look)
    return large(look, look.layers[0] if layer is None else layer, head or 0, query)


def sheet(
    look: Look, layer: int | None = None, head: int | None = None, width: int = 1100
) -> "Figure":
    """Layers down, heads across; the chosen head framed. A click on a head gives its [layer, head]."""
    import plotly.graph_objects as go

    heads, layers = range(look.heads), range(len(look.layers))
    thumbs = [
        [_thumbnail(look.map(one, head_), look.whole) for head_ in heads] for one in look.layers
    ]
    side = thumbs[0][0].shape[0] + GAP
    picture = np.full((side * len(thumbs) - GAP, side * look.heads - GAP), np.nan, np.float32)
    for down, row in enumerate(thumbs):
        for across, map_ in enumerate(row):
            own = (
                slice(down * side, down * side + len(map_)),
                slice(across * side, across * side + len(map_)),
            )
            picture[own] = map_
    figure = go.Figure(
        go.Heatmap(
            z=picture,
            colorscale=ATTENTION,
            zmin=0,
            zmax=1,
            hoverinfo="skip",
            colorbar=bar("share of a row" if look.whole else "of the map's largest"),
        )  # fmt: skip
    )
    _targets(figure, look, side)
    if layer is not None and head is not None:
        x, y = head * side, look.layers.index(layer) * side
        frame = {"color": CHOSEN, "width": 3}
        figure.add_shape(
            type="rect", x0=x - 1, x1=x + side - GAP, y0=y - 1, y1=y + side - GAP, line=frame
        )
    middle = (side - GAP - 1) / 2
    step = -(-look.heads // 32)
    figure.update_xaxes(
        tickvals=[one * side + middle for one in heads][::step], ticktext=[str(one) for one in heads][::step],
        title={"text": "head", "standoff": 6}, side="top", showgrid=False, zeroline=False, constrain="domain",
    )  # fmt: skip
    figure.update_yaxes(
        tickvals=[row * side + middle for row in layers], ticktext=[str(layer) for layer in look.layers],
        title="layer", autorange="reversed", scaleanchor="x", showgrid=False, zeroline=False,
        constrain="domain",
    )  # fmt: skip
    cell = min(260.0, (width - SIDES) / look.heads)  # pixels of a thumbnail
    height = min(2400, int(cell * len(look.layers)) + 130)
    title = "Every head: rows are queries, columns keys"
    return styled(figure, title, width=width, height=height, above=56, b=16)


def _targets(figure: "Figure", look: Look, side: int) -> None:
    """Points that can be pointed at and clicked, one a head: a map of cells cannot."""
    import plotly.graph_objects as go

    table = look.result.table
    middle = (side - GAP - 1) / 2
    said = [
        f"head {row['layer']:.0f}.{row['head']:.0f}<br>entropy {row['entropy']:.2f} nats<br>"
        f"on the first token {row['first']:.2f}"
        for row in table.to_dict("records")
    ]
    places = [look.layers.index(int(layer)) for layer in table["layer"]]
    figure.add_trace(
        go.Scatter(
            x=table["head"] * side + middle, y=np.array(places) * side + middle, mode="markers",
            marker={"size": 40, "color": "rgba(0,0,0,0)", "symbol": "square"}, showlegend=False,
            customdata=table[["layer", "head"]].to_numpy(), text=said, hovertemplate="%{text}<extra></extra>",
        )
    )  # fmt: skip


def large(look: Look, layer: int, head: int, query: int = -1, width: int = 720) -> "Figure":
    """One head's map, the chosen query's row framed."""
    import plotly.graph_objects as go

    map_ = look.map(layer, head)
    labels = _names(look, len(map_))
    most = 1.0 if look.whole else float(map_.max())
    pairs = _pairs(labels) if len(map_) <= 64 else None
    said = "%{customdata}" if pairs else "row %{y}, column %{x}"
    cell = go.Heatmap(
        z=map_, colorscale=ATTENTION, zmin=0, zmax=most, colorbar=bar("attention"),
        customdata=pairs, hovertemplate=f"{said}: %{{z:.3f}}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure(cell)
    row = (query % len(look.tokens)) // look.stretch
    frame = {"color": CHOSEN, "width": 1.5}
    figure.add_shape(
        type="rect", x0=-0.5, x1=len(map_) - 0.5, y0=row - 0.5, y1=row + 0.5, line=frame
    )
    places, words = _labels(look, labels)
    own = "token" if look.whole else f"stretch of {look.stretch} tokens"
    figure.update_xaxes(
        tickvals=places, ticktext=words, title=f"key: {own}", tickangle=-60, constrain="domain"
    )
    figure.update_yaxes(tickvals=places, ticktext=words, title=f"query: {own}", autorange="reversed",
                        scaleanchor="x", constrain="domain")  # fmt: skip
    return styled(figure, f"Layer {layer}, head {head}", width=width, height=width - 40)


def overlay(look: Look, layer: int, head: int, query: int = -1) -> "Figure | None":
    """What one query sees on the image; None where there is no image."""
    import plotly.graph_objects as go

    heat = look.heat(layer, head, query)
    if heat is None or look.image is None:
        return None
    cover = [[0.0, "rgba(255,140,0,0.0)"], [1.0, "rgba(255,140,0,0.85)"]]
    cell = go.Heatmap(
        z=heat, colorscale=cover, zmin=0, colorbar=bar("share a patch"),
        hovertemplate="%{z:.3f}<extra></extra>",
    )  # fmt: skip
    figure = go.Figure([go.Image(z=np.asarray(look.image), hoverinfo="skip"), cell])
    figure.update_xaxes(showticklabels=False, constrain="domain", showgrid=False)
    figure.update_yaxes(showticklabels=False, scaleanchor="x", autorange="reversed", showgrid=False)
    share = float(look.row(layer, head, query)[look.on_image].sum())
    title = f"{share:.0%} of it is on the image"
    return styled(figure, title, width=460, height=430, above=10, l=10, r=80, b=10)


def _thumbnail(map_: np.ndarray, whole: bool) -> np.ndarray:
    """At most THUMBNAIL cells a side: each the largest of those that it stands for.

    Stretches of a long text are compared with the map's own largest: their shares are small.
    """
    side = max(map_.shape)
    block = -(-side // THUMBNAIL)
    padded = np.zeros((-(-side // block) * block,) * 2, np.float32)
    padded[: map_.shape[0], : map_.shape[1]] = map_
    shrunk = padded.reshape(len(padded) // block, block, -1, block).max((1, 3))
    return shrunk if whole else shrunk / max(float(shrunk.max()), 1e-9)


def _labels(look: Look, labels: list[str]) -> tuple[list[int], list[str]]:
    """Ticks for tokens where there is room; of the image's tokens one, with how many they are."""
    if not look.whole or not look.on_image.any():
        return ticks(labels, LABELS)
    run = np.flatnonzero(look.on_image)
    named = {place: label for place, label in enumerate(labels) if not look.on_image[place]}
    named[int(run[len(run) // 2])] = f"▦ {len(run)}"
    room = -(-len(labels) // LABELS)  # cells that a label needs
    shown: list[int] = []
    for place in sorted(named):
        if not shown or place - shown[-1] >= room:
            shown.append(place)
    return shown, [visible(short(named[place])) for place in shown]


def _names(look: Look, count: int) -> list[str]:
    if look.whole:
        return look.tokens
    return [str(cell * look.stretch) for cell in range(count)]


def _pairs(labels: list[str]) -> list[list[str]]:
    names = [plain(short(label, 20)) for label in labels]
    return [[f"{query} looks at {key}" for key in names] for query in names]
