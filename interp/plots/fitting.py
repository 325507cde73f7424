"""Figures in a narrower column than they were drawn for."""

import math
from typing import TYPE_CHECKING, Any

from interp.plots.stacking import domain, stack
from interp.plots.style import LETTER, WORD, entitle, traces, untitled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

LABEL = 13  # pixels that a turned label of an axis needs
SMALLEST = 8  # pixels of letters in a cell


def fit(figure: "Figure", width: int) -> "Figure":
    """The same figure, `width` pixels wide: panels below each other where they do not fit side by side.

    Titles take more lines, axes fewer labels, and cells hold numbers only where there is room.
    """
    from plotly.graph_objects import Figure

    figure = Figure(figure)
    layout: Any = figure.layout
    if width < 300:
        raise ValueError(f"width={width}: a figure needs 300 pixels or more.")
    if width >= layout.width:
        return figure.update_layout(width=width)
    stack(figure, width - layout.margin.l - layout.margin.r)
    title = untitled(layout.title.text)
    grown = -entitle(figure, title, layout.width) + entitle(figure, title, width)
    layout.update(width=width, height=layout.height + grown)
    layout.margin.t += grown
    inside = width - layout.margin.l - layout.margin.r
    for trace in traces(figure):
        if trace.type == "heatmap":
            axis = layout[f"xaxis{(trace.xaxis or 'x')[1:]}"]
            room = (domain(axis)[1] - domain(axis)[0]) * inside
            _thin(axis, room)
            _numbers(trace, room / _cells(trace))
    return figure


def _cells(trace: Any) -> int:
    """Cells across: of a table, or of a list of cells with their places."""
    table = not isinstance(trace.z[0], (int, float)) and getattr(trace.z[0], "ndim", 1) > 0
    return len(trace.z[0]) if table else len(set(trace.x))


def _thin(axis: Any, room: float) -> None:
    """Every second, third, ... label where all of them would meet."""
    if not axis.tickvals:
        return
    each = room / len(axis.tickvals)
    longest = LETTER * 11 * max((len(str(text)) for text in axis.ticktext or ()), default=1)
    if not axis.tickangle and longest > each:
        axis.tickangle = -60
    step = math.ceil(LABEL / each) if axis.tickangle else 1
    if axis.tickvals and step > 1:
        axis.tickvals = axis.tickvals[::step]
        axis.ticktext = axis.ticktext[::step] if axis.ticktext else None


def _numbers(trace: Any, cell: float) -> None:
    """Smaller letters in narrow cells, and none where they would meet."""
    if not trace.texttemplate:
        return
    said = trace.text if trace.text is not None else [["0.00"]]
    longest = max((len(str(one)) for line in said for one in line), default=0)
    size = min(trace.textfont.size or WORD, int((cell - 1) / (LETTER * max(1, longest))))
    if size < SMALLEST:
        trace.texttemplate = None
    else:
        trace.textfont.size = size
