"""A sweep as a heat map: by how much each change moves the metric."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import EFFECT, bar, plain, short, styled, ticks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.sweep import Grid


def sweep_map(grid: "Grid", row: int | None = None, title: str = "") -> "Figure":
    """Two axes of a sweep (one alone as a line of cells); a third is shown panel by panel.

    `row` is one row of the prompt, with its tokens along positions; without it, the mean over rows.
    """
    from plotly.subplots import make_subplots

    effect = grid.effect
    if effect.ndim > len(grid.axes):
        raise ValueError(
            f"the metric gave {effect.shape[-1]} numbers a cell; draw one: a grid of one number each."
        )
    if row is not None and not 0 <= row < len(effect):
        raise IndexError(f"row {row} is out of range: the sweep has rows 0 to {len(effect) - 1}.")
    names = list(grid.axes[1:])
    own = effect.mean(0) if row is None else effect[row]
    if len(names) == 1:
        own, names = own[None], ["", *names]
    panels = [None] if len(names) == 2 else list(range(own.shape[-1]))
    if len(panels) > 16:
        raise ValueError(
            f"{len(panels)} panels, one for each {names[2]}; restrict them to 16 or fewer."
        )
    across = min(len(panels), 4)
    down = -(-len(panels) // across)
    heads = [f"{names[2]} {grid.labels[names[2]][panel]}" for panel in panels if panel is not None]
    figure = make_subplots(rows=down, cols=across, subplot_titles=heads or None)
    largest = max(1e-6, float(own.abs().max()))
    for number, panel in enumerate(panels):
        values = own if panel is None else own[..., panel]
        place = (number // across + 1, number % across + 1)
        _panel(figure, grid, values, names, row, largest, place, len(panels) > 1)
    said = title or f"{grid.site}: change of the metric{'' if row is None else f', row {row}'}"
    return styled(figure, plain(said), height=160 + 260 * down, width=880)


def _panel(
    figure: "Figure",
    grid: "Grid",
    values: Any,
    names: list[str],
    row: int | None,
    largest: float,
    place: tuple[int, int],
    crowded: bool,
) -> None:
    import plotly.graph_objects as go

    labels = _labels(grid, names[1], row)
    side = [str(label) for label in grid.labels[names[0]]] if names[0] else [""]
    cell = go.Heatmap(
        z=values.numpy(), y=side, colorscale=EFFECT, zmin=-largest, zmax=largest, zmid=0,
        showscale=place == (1, 1), colorbar=bar("effect"), customdata=[labels] * len(side),
        hovertemplate=f"{names[0]} %{{y}}, {names[1]} %{{customdata}}: %{{z:+.3f}}<extra></extra>",
    )  # fmt: skip
    at: dict[str, Any] = {"row": place[0], "col": place[1]}
    figure.add_trace(cell, **at)
    places, shown = ticks([short(label) for label in labels], most=8 if crowded else 60)
    turned = -60 if max(map(len, shown)) > 3 else 0
    figure.update_xaxes(tickvals=places, ticktext=shown, tickangle=turned, **at)
    figure.update_xaxes(title="" if crowded else names[1], **at)
    side_title = names[0] if place[1] == 1 else ""
    figure.update_yaxes(title=side_title, type="category", autorange="reversed", **at)


def _labels(grid: "Grid", name: str, row: int | None) -> list[str]:
    """Positions are named by the tokens that stand there, where all shown rows have the same."""
    own = grid.labels[name]
    rows = grid.tokens if row is None else grid.tokens[row : row + 1]
    if name != "position" or not rows:
        return [str(label) for label in own]
    return [
        rows[0][place] if all(tokens[place] == rows[0][place] for tokens in rows) else str(place)
        for place in own
    ]
