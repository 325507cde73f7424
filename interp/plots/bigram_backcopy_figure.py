"""The figure of `bigram_backcopy`: attention and drain over steps, risks over steps, one map."""

import math
from typing import TYPE_CHECKING, Any

from interp.plots.style import ATTENTION, SERIES, WORDS, bar, styled, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

LOOKS = {
    "sink": "sink: others<br>look at ‹s›",
    "previous": "copying: triggers<br>look one back",
    "drain": "drain: size of what<br>‹s› gives (1: as others)",
}
RISKS = {"excess": "bigram,<br>over its entropy", "copy": "copy"}
COLOURS = dict(zip((*LOOKS, *RISKS), SERIES, strict=False))
LEFT, RIGHT = (0.0, 0.34), (0.57, 1.0)
ABOVE, BELOW = (0.56, 1.0), (0.0, 0.44)
# Two lines of a label take this share of a panel's height.
LABEL = 0.2


def figure(result: "Result") -> "Figure":
    """Sink, copying and drain above; the risks below, on a log scale; a sample's map beside."""
    import plotly.graph_objects as go

    drawn = go.Figure()
    table = result.table
    highest = max(1.05, 1.05 * table[list(LOOKS)].max(axis=None))
    _lines(drawn, table, LOOKS, "", (0.0, highest))
    lowest, largest = (
        math.log10(getattr(table[list(RISKS)], end)(axis=None)) for end in ("min", "max")
    )
    _lines(drawn, table, RISKS, "2", (lowest - 0.2, largest + 0.2), log=True)
    _map(drawn, result)
    drawn.update_layout(
        xaxis={"domain": LEFT, "anchor": "y", "matches": "x2", "showticklabels": False},
        yaxis={"domain": ABOVE, "anchor": "x", "range": (0, highest), "title": "share, or ratio"},
        xaxis2={"domain": LEFT, "anchor": "y2", "title": "step"},
        yaxis2={
            "domain": BELOW,
            "anchor": "x2",
            "type": "log",
            "range": (lowest - 0.2, largest + 0.2),
            "title": "risk in nats",
            "dtick": 1,
        },
        showlegend=False,
    )
    _heading(drawn, 0, "Attention, and what ‹s› has to give")
    _heading(drawn, 0, "What is left to learn", BELOW[1])
    _heading(drawn, RIGHT[0], "Who looks at whom at the end <i>(orange: triggers)</i>")
    return styled(drawn, "Bigram-backcopy: sink and copying while a small model learns",
                  height=590, width=1120)  # fmt: skip


def _lines(
    drawn: "Figure",
    table: Any,
    names: dict[str, str],
    axis: str,
    limits: tuple[float, float],
    log: bool = False,
) -> None:
    """A line for each column, and its name where it ends."""
    import plotly.graph_objects as go

    ends = {name: float(table[name].iloc[-1]) for name in names}
    heights = {name: math.log10(end) if log else end for name, end in ends.items()}
    places = spread(heights, LABEL * (limits[1] - limits[0]), limits)
    for name, label in names.items():
        drawn.add_trace(
            go.Scatter(
                x=table["step"],
                y=table[name],
                mode="lines+markers",
                line={"color": COLOURS[name], "width": 2.5},
                marker={"size": 5},
                xaxis=f"x{axis}",
                yaxis=f"y{axis}",
                hovertemplate=f"{name} at step %{{x}}: %{{y:.4g}}<extra></extra>",
            )
        )
        drawn.add_annotation(
            x=1.02,
            xref=f"x{axis} domain",
            y=places[name],
            yref=f"y{axis}",
            text=f"{label} <b>{ends[name]:.2g}</b>",
            font={"color": WORDS[COLOURS[name]], "size": 12},
            align="left",
            xanchor="left",
            yanchor="middle",
            showarrow=False,
        )


def spread(heights: dict[str, float], gap: float, limits: tuple[float, float]) -> dict[str, float]:
    """Heights of labels within the limits, `gap` apart, as near to their lines as that goes."""
    order = sorted(heights, key=lambda name: heights[name])
    places: dict[str, float] = {}
    above = limits[1] + gap / 2
    for name in reversed(order):
        places[name] = above = min(heights[name], above - gap)
    below = limits[0] - gap / 2
    for name in order:
        places[name] = below = max(places[name], below + gap)
    return places


def _map(drawn: "Figure", result: "Result") -> None:
    import plotly.graph_objects as go

    sample, pattern = result.tables["sample"], result.tensors["sample"]
    names = [visible(token) for token in sample["token"]]
    orange = f"<span style='color:{WORDS[SERIES[1]]}'><b>%s</b></span>"
    labels = [
        orange % name if trigger else name
        for name, trigger in zip(names, sample["trigger"], strict=True)
    ]
    hover = [[f"{query} ({row}) looks at {key} ({column})" for column, key in enumerate(names)]
             for row, query in enumerate(names)]  # fmt: skip
    cells = go.Heatmap(
        z=pattern.float().numpy(),
        colorscale=ATTENTION,
        zmin=0,
        zmax=1,
        colorbar=bar("attention", x=1.01, len=0.8),
        xaxis="x3",
        yaxis="y3",
        customdata=hover,
        hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
    )
    drawn.add_trace(cells)
    ticks = {"tickvals": list(range(len(labels))), "ticktext": labels, "constrain": "domain"}
    drawn.update_layout(
        xaxis3={"domain": RIGHT, "anchor": "y3", "title": "key", "tickangle": 0, **ticks},
        yaxis3={
            "domain": (0, 1),
            "anchor": "x3",
            "title": "query",
            "autorange": "reversed",
            "scaleanchor": "x3",
            "constraintoward": "top",
            **ticks,
        },
    )


def _heading(drawn: "Figure", x: float, text: str, y: float = 1.0) -> None:
    drawn.add_annotation(
        x=x, y=y, xref="paper", yref="paper", text=f"<b>{text}</b>", font={"size": 13},
        xanchor="left", yanchor="bottom", yshift=3, showarrow=False,
    )  # fmt: skip
