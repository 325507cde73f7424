"""Estimates of patching against what patching does, and the edges that they rank first."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import CONTROL, INK, SERIES, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

# The same colour and mark for the same method in every panel.
METHODS = ("atp", "atp_star", "eap", "eap_ig_inputs", "eap_ig_activations", "clean_corrupted")
NAMES = {"atp": "AtP", "atp_star": "AtP*", "eap": "EAP", "eap_ig_inputs": "EAP-IG inputs",
         "eap_ig_activations": "EAP-IG activations", "clean_corrupted": "clean and corrupted"}  # fmt: skip
MARKS = ("circle-open", "x-thin", "circle", "diamond", "square", "triangle-up")
BARS, WIDE, TALL = 10, 330, 340


def figure(result: "Result", bars: int = BARS) -> "Figure":
    """Above, a panel for each kind of node: a dot for each node and method, on the line where the
    estimate is the exact effect. Below, for each method, its `bars` largest edges by their score.

    Without an exact sweep the panels above show the largest estimates instead.
    """
    if bars < 1:
        raise ValueError(f"bars={bars}: give at least 1.")
    nodes: Any = result.table
    edges: Any = result.tables.get("edges", nodes[:0])
    kinds, asked = list(dict.fromkeys(nodes["component"])), list(dict.fromkeys(edges["method"]))
    grid = _sheet(kinds, asked)
    shown: set[str] = set()
    for column, kind in enumerate(kinds, 1):
        part = nodes[nodes["component"] == kind]
        if "exact" in part:
            _against(grid, part, column, shown)
        else:
            _largest_nodes(grid, part, column, bars, shown)
    for column, method in enumerate(asked, 1):
        own = edges[edges["method"] == method].head(bars)
        labels = [
            f"{one} → {other}" for one, other in zip(own["source"], own["destination"], strict=True)
        ]
        _bars(grid, labels, own["score"].tolist(), method, (len(kinds) > 0) + 1, column)
    rows = bool(kinds) + bool(asked)
    columns = max(len(kinds), len(asked), 2)
    wide = WIDE * columns + 120
    styled(grid, _title(result), height=TALL * rows + 120, width=wide, l=110, b=90)
    legend = {"orientation": "h", "yref": "container", "y": 0.005, "yanchor": "bottom", "x": 0.0}
    grid.update_annotations(font={"size": 12, "color": INK})
    return grid.update_layout(legend=legend)


def _title(result: "Result") -> str:
    model, task = (plain(str(result.made.get(name) or f"a {name}")) for name in ("model", "task"))
    exact = " beside exact patching" if "exact" in result.table else ", not held against patching"
    return (
        f"{model} on {task}: gradient estimates of patching{exact}<br>Effect: the metric with a "
        "node's corrupted value, less that of the clean run. Edges are scored by the loss: above 0, "
        "corrupting hurts. Edge scores are estimates."
    )


def _sheet(kinds: list[str], methods: list[str]) -> "Figure":
    from plotly.subplots import make_subplots

    columns = max(len(kinds), len(methods), 2)
    titles = [f"{kind} nodes" for kind in kinds] + [""] * (columns - len(kinds)) if kinds else []
    titles += [f"edges by {NAMES[method]}" for method in methods]
    return make_subplots(
        rows=bool(kinds) + bool(methods) or 1, cols=columns, subplot_titles=titles,
        horizontal_spacing=0.36 / columns, vertical_spacing=0.18,
    )  # fmt: skip


def _against(grid: "Figure", part: Any, column: int, shown: set[str]) -> None:
    """Estimates of one kind of node over the exact effects."""
    import plotly.graph_objects as go

    values = [*part["exact"], *part["effect"]]
    low, high = min(values), max(values)
    line = go.Scatter(x=[low, high], y=[low, high], mode="lines", line={"color": CONTROL, "dash": "dot"},
                      showlegend=False, hoverinfo="skip")  # fmt: skip
    grid.add_trace(line, row=1, col=column)
    for method, own in part.groupby("method", sort=False):
        dots = go.Scatter(
            x=own["exact"], y=own["effect"], mode="markers", name=NAMES[str(method)], legendgroup=str(method),
            showlegend=method not in shown, marker=_mark(str(method)), text=_nodes(own),
            hovertemplate="%{text}: estimate %{y:.3f}, exact %{x:.3f}<extra></extra>",
        )  # fmt: skip
        shown.add(str(method))
        grid.add_trace(dots, row=1, col=column)
    grid.update_xaxes(title="exact effect (patched)", row=1, col=column)
    grid.update_yaxes(title="estimated effect" if column == 1 else "", row=1, col=column)


def _largest_nodes(grid: "Figure", part: Any, column: int, bars: int, shown: set[str]) -> None:
    """The nodes with the largest magnitudes, by the first method that was asked."""
    method = str(part["method"].iloc[0])
    own = (
        part[part["method"] == method]
        .sort_values("magnitude", ascending=False, kind="stable")
        .head(bars)
    )
    _bars(grid, _nodes(own), own["effect"].tolist(), method, 1, column)
    shown.add(method)
    grid.update_xaxes(title=f"estimated effect ({NAMES[method]}), by mean size", row=1, col=column)


def _bars(
    grid: "Figure", labels: list[str], values: list[float], method: str, row: int, column: int
) -> None:
    import plotly.graph_objects as go

    drawn = go.Bar(
        x=values, y=list(range(len(values))), orientation="h", marker={"color": _mark(method)["color"]},
        showlegend=False, text=labels, textposition="none",
        hovertemplate="%{text}: %{x:.3f}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(drawn, row=row, col=column)
    grid.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        autorange="reversed",
        row=row,
        col=column,
    )
    grid.update_xaxes(
        title="estimated score", zeroline=True, zerolinecolor=INK, row=row, col=column
    )


def _nodes(part: Any) -> list[str]:
    """What a node is called: head 2.3, or mlp 2."""
    alone = part["head"].isna()
    rows = zip(part["component"], part["layer"], part["head"], alone, strict=True)
    return [
        f"{kind} {layer}" if bare else f"{kind} {layer}.{head}" for kind, layer, head, bare in rows
    ]


def _mark(method: str) -> dict[str, Any]:
    place = METHODS.index(method)
    # AtP and AtP* agree at most nodes: a ring around a cross shows both.
    line = {"color": SERIES[place], "width": 2} if MARKS[place] == "x-thin" else {}
    size = 11 if MARKS[place] == "circle-open" else 7
    return {
        "color": SERIES[place],
        "symbol": MARKS[place],
        "size": size,
        "opacity": 0.8,
        "line": line,
    }
