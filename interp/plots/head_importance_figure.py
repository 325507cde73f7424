"""The figure of `head_importance`: a map of all heads for each measure, and how alike the measures rank."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import ATTENTION, EFFECT, INK, bar, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

# What the table calls it, its title, its unit, whether it has a sign.
MAPS = (
    ("zero", "zero ablation", "fall of {metric}", True),
    ("mean", "mean ablation", "fall of {metric}", True),
    ("resample", "resample ablation", "fall of {metric}", True),
    ("direct", "direct effect", "added to {metric}", True),
    ("gradient", "gradient, by token", "estimate", False),
    ("mask", "gradient, by mask", "estimate", False),
    ("vhd", "without the image (VHD)", "distance of z", False),
)
ABLATIONS = ("zero", "mean", "resample")
ACROSS = 4  # panels in a row
NUMBERED = 10  # heads in a layer beyond which numbers do not fit into their cells
GAP, SPACE = 0.085, 0.2  # between panels, across and down, as shares of the page


def figure(result: "Result", sizes: bool = False) -> "Figure":
    """Layers down and heads across, for each measure. In maps of ablations only heads whose 95 % interval
    holds no 0 have a number. `sizes` shows means of absolute values where there are such.
    """
    from plotly.subplots import make_subplots

    table = result.table
    shown = [panel for panel in MAPS if panel[0] in table]
    ranks = result.tables.get("correlation")
    count = len(shown) + (ranks is not None)
    across = min(ACROSS, count)
    down = -(-count // across)
    metric = str(result.made.get("settings", {}).get("metric", "metric"))
    titles = [f"{title}<br><sub>{unit.format(metric=metric)}</sub>" for _, title, unit, _ in shown]
    titles += (
        ["rank correlation over heads<br><sub>Spearman of sizes</sub>"] if ranks is not None else []
    )
    grid = make_subplots(
        rows=down, cols=across, subplot_titles=titles, horizontal_spacing=GAP,
        vertical_spacing=SPACE if down > 1 else 0.0,
    )  # fmt: skip
    limits = _limits(table, sizes)
    for place, (name, _, _, signed) in enumerate(shown):
        _map(grid, table, name, signed and not sizes, sizes, limits, divmod(place, across))
    if ranks is not None:
        _ranks(grid, ranks, [name for name, *_ in shown], divmod(count - 1, across))
    grid.update_annotations(font={"size": 12, "color": INK})
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    stack = table["stack"].iloc[0]
    title = f"What {metric} owes to each head of {of or 'the model'}, {stack} stack"
    if not sizes and any(name in table for name in ABLATIONS):
        title += "<br>ablations: a number where the 95 % interval holds no 0"
    wide = min(1240, 150 + 330 * across)
    return styled(grid, title, height=120 + 290 * down, width=wide, above=48)


def _limits(table: Any, sizes: bool) -> float:
    """One scale for all ablations, so that they can be compared."""
    names = [_column(name, table, sizes) for name in ABLATIONS if name in table]
    return float(table[names].abs().max().max()) or 1.0 if names else 1.0


def _column(name: str, table: Any, sizes: bool) -> str:
    return f"{name}_size" if sizes and f"{name}_size" in table else name


def _map(
    grid: "Figure",
    table: Any,
    name: str,
    signed: bool,
    sizes: bool,
    shared: float,
    at: tuple[int, int],
) -> None:
    import plotly.graph_objects as go

    row, column = at[0] + 1, at[1] + 1
    values = table.pivot(index="layer", columns="head", values=_column(name, table, sizes))
    largest = shared if name in ABLATIONS else float(values.abs().max().max()) or 1.0
    sure = values.notna()
    if name in ABLATIONS and not sizes:
        low, high = (
            table.pivot(index="layer", columns="head", values=f"{name}_{end}")
            for end in ("low", "high")
        )
        sure = (low > 0) | (high < 0)
    text = [
        [_number(value, signed) if certain else "" for value, certain in zip(*line, strict=True)]
        for line in zip(values.to_numpy(), sure.to_numpy(), strict=True)
    ]
    spot: Any = grid.get_subplot(row, column)
    across, up = spot.xaxis.domain, spot.yaxis.domain
    cell = go.Heatmap(
        z=values.to_numpy(), x=[str(head) for head in values.columns],
        y=[str(layer) for layer in values.index], xgap=1, ygap=1,
        colorscale=EFFECT if signed else ATTENTION, zmin=-largest if signed else 0, zmax=largest,
        text=text, texttemplate="%{text}" if values.shape[1] <= NUMBERED else None,
        textfont={"size": 9},
        colorbar=bar("", thickness=7, x=across[1] + 0.004, len=up[1] - up[0], y=up[0], yanchor="bottom",
                     tickfont={"size": 9}, nticks=5),
        hovertemplate=f"layer %{{y}}, head %{{x}}: {name} %{{z:.3f}}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=row, col=column)
    title = {"standoff": 2, "font": {"size": 11}}
    grid.update_xaxes(title={"text": "head", **title}, type="category", row=row, col=column)
    grid.update_yaxes(title={"text": "layer", **title}, type="category", autorange="reversed",
                      row=row, col=column)  # fmt: skip


def _number(value: float, signed: bool) -> str:
    if abs(value) < 0.005:
        return ""
    written = f"{value:.1f}" if abs(value) >= 1 else f"{value:.2f}".replace("0.", ".")
    return f"+{written}" if signed and value > 0 else written


def _ranks(grid: "Figure", ranks: Any, names: list[str], at: tuple[int, int]) -> None:
    """Each pair once, below the diagonal."""
    import plotly.graph_objects as go

    row, column = at[0] + 1, at[1] + 1
    known = {frozenset(pair): value for *pair, value in
             ranks[["measure", "other", "sizes"]].itertuples(index=False)}  # fmt: skip
    down, across = names[1:], names[:-1]
    values = [
        [
            known.get(frozenset((one, other))) if place <= below else None
            for place, other in enumerate(across)
        ]
        for below, one in enumerate(down)
    ]
    cell = go.Heatmap(
        z=values, x=across, y=down, colorscale=EFFECT, zmin=-1, zmax=1, xgap=1, ygap=1, showscale=False,
        text=[["" if value is None else f"{value:.2f}" for value in line] for line in values],
        texttemplate="%{text}", textfont={"size": 10},
        hovertemplate="%{y} and %{x}: %{z:.2f}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=row, col=column)
    grid.update_xaxes(tickangle=-45, type="category", row=row, col=column)
    grid.update_yaxes(autorange="reversed", type="category", row=row, col=column)
