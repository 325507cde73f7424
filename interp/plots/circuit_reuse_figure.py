"""The figure of `circuit_reuse`: two circuits side by side, and what they share at each size."""

from typing import TYPE_CHECKING, Any

from interp.plots.head_scores import kept, legend, mark, reach, score_map
from interp.plots.style import BAND, CONTROL, INK, SERIES, bar, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

SHARED, ALONE = 3.5, 1.5  # widths of frames


def figure(result: "Result", first: str | None = None, second: str | None = None) -> "Figure":
    """`first` and `second` are two of the tasks; without them the first pair of the table."""
    from plotly.subplots import make_subplots

    first, second, pair = _pair(result, first, second)
    heads: Any = result.tables["heads"]
    own = [heads[heads["task"] == name] for name in (first, second)]
    grid = make_subplots(
        rows=1, cols=3, column_widths=[0.36, 0.36, 0.28], horizontal_spacing=0.1,
        subplot_titles=[plain(f"{first}: {len(kept(own[0]))} heads"),
                        plain(f"{second}: {len(kept(own[1]))} heads"), "shared heads by size"],
    )  # fmt: skip
    grid.update_annotations(font={"size": 12, "color": INK})
    most, shared = max(map(reach, own)), set(kept(own[0])) & set(kept(own[1]))
    for col, table in enumerate(own, start=1):
        score_map(
            grid,
            table,
            col,
            most,
            bar("", x=0.672, len=1.0, tickformat="+.1~f") if col == 2 else None,
        )
        mark(grid, [one for one in kept(table) if one not in shared], col, ALONE, "dot")
        mark(grid, shared, col, SHARED)
    legend(grid, "in both circuits", SHARED)
    legend(grid, "in this one only", ALONE, "dot")
    _shared(grid, pair)
    grid.update_layout(legend={"orientation": "h", "x": 0, "y": -0.22, "yanchor": "top"})
    layers = own[0]["layer"].nunique()
    model = plain(str(result.made.get("model") or ""))
    title = f"{model}: do {plain(first)} and {plain(second)} share a circuit?"
    return styled(grid, title, height=max(430, 190 + 30 * layers), width=1260, b=110)


def _pair(result: "Result", first: str | None, second: str | None) -> tuple[str, str, Any]:
    """Two tasks, and their rows in the order that the table has them."""
    table: Any = result.table
    if first is None and second is None:
        first, second = table.iloc[0][["first", "second"]]
    known = list(dict.fromkeys(result.tables["heads"]["task"]))
    if first not in known or second not in known or first == second:
        raise LookupError(f"first={first!r}, second={second!r}: two of {', '.join(known)}.")
    assert first is not None and second is not None
    either = table["first"].isin([first, second]) & table["second"].isin([first, second])
    return first, second, table[either]


def _shared(grid: Any, pair: Any) -> None:
    """Observed, expected, and where 95 % of random sets end."""
    import plotly.graph_objects as go

    sizes = [_size(size) for size in pair["size"]]
    grid.add_trace(
        go.Bar(
            x=sizes, y=pair["most"], marker={"color": BAND}, width=0.8,
            name="up to here: 95 % of random sets", hovertemplate="%{x}: %{y}<extra></extra>",
        ),
        row=1, col=3,
    )  # fmt: skip
    for column, name, colour, symbol in (
        ("expected", "expected by chance", CONTROL, "line-ew"),
        ("shared", "shared", SERIES[1], "diamond"),
    ):
        grid.add_trace(
            go.Scatter(
                x=sizes, y=pair[column], mode="markers", name=name,
                marker={"symbol": symbol, "color": colour, "size": 11,
                        "line": {"color": colour, "width": 2}},
                hovertemplate="%{x}: %{y:.2f}<extra></extra>",
            ),
            row=1, col=3,
        )  # fmt: skip
    grid.update_xaxes(
        title={"text": "heads in each circuit", "standoff": 4}, type="category", tickangle=-45,
        row=1, col=3,
    )  # fmt: skip
    grid.update_yaxes(
        title={"text": "heads in both", "standoff": 4}, range=_range(pair), row=1, col=3
    )


def _range(pair: Any) -> list[float]:
    """A little below 0, so that markers there are whole."""
    most = max(1.0, float(pair[["most", "shared"]].max().max()))
    return [-0.05 * most, 1.08 * most]


def _size(size: str) -> str:
    return "as found" if size == "own" else f"{float(size):.0%}"
