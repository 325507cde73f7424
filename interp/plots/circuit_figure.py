"""The figure of `circuit`: what each head is worth, the circuit in frames, and its faithfulness by size."""

from typing import TYPE_CHECKING, Any

from interp.plots.head_scores import kept, legend, mark, reach, score_map
from interp.plots.style import CONTROL, FAINT, INK, INTERVAL, SERIES, bar, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result


def figure(result: "Result") -> "Figure":
    """Left: layers down, heads across. Right: what the first ranked heads do on held-out records."""
    from plotly.subplots import make_subplots

    table: Any = result.table
    layers = table["layer"].nunique()
    estimate = bool(table["estimate"].any())
    grid = make_subplots(
        rows=1, cols=2, column_widths=[0.56, 0.44], horizontal_spacing=0.2,
        subplot_titles=[f"score of each head{' (estimate)' if estimate else ''}",
                        "what the first ranked heads do, held out"],
    )  # fmt: skip
    grid.update_annotations(font={"size": 12, "color": INK})
    score_map(grid, table, 1, reach(table), bar("", x=0.47, len=1.0, tickformat="+.2~f"))
    mark(grid, kept(table), 1, 2.5)
    legend(grid, "in the circuit", 2.5)
    _sizes(grid, result)
    grid.update_layout(legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"})
    settings = result.made.get("settings") or {}
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    title = f"{of}: circuit by {plain(str(settings.get('method', '')))}"
    return styled(grid, title, height=max(420, 190 + 30 * layers), width=1100, b=110)


def _sizes(grid: Any, result: "Result") -> None:
    import plotly.graph_objects as go

    sizes: Any = result.tables["sizes"]
    count = sizes["count"].tolist()
    grid.add_trace(
        go.Scatter(
            x=count + count[::-1], y=sizes["high"].tolist() + sizes["low"].tolist()[::-1], fill="toself",
            fillcolor=INTERVAL, line={"width": 0}, hoverinfo="skip", name="95 % interval",
        ),
        row=1, col=2,
    )  # fmt: skip
    for column, name, colour in (
        ("share", "ranked heads", SERIES[0]),
        ("random", "random heads", CONTROL),
    ):
        line = go.Scatter(x=count, y=sizes[column], mode="lines+markers", name=name,
                          marker={"size": 5}, line={"color": colour, "width": 2})  # fmt: skip
        grid.add_trace(line, row=1, col=2)
    own: Any = result.tables["faithfulness"].iloc[0]
    number = len(kept(result.table))
    point = go.Scatter(
        x=[number], y=[own["share"]], mode="markers", name="the circuit",
        marker={"size": 12, "symbol": "diamond", "color": SERIES[1]},
    )  # fmt: skip
    grid.add_trace(point, row=1, col=2)
    grid.add_hline(y=1, line={"color": FAINT, "dash": "dot", "width": 1}, row=1, col=2)
    grid.update_xaxes(title={"text": "heads kept", "standoff": 4}, row=1, col=2)
    grid.update_yaxes(title={"text": "share of what the model does", "standoff": 4}, row=1, col=2)
