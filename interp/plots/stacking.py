"""Panels that stand side by side, put below each other."""

from typing import TYPE_CHECKING, Any, cast

from interp.plots.style import traces

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

SQUEEZE = (
    0.72  # panels may become this much of what they were drawn for before they are put below others
)
THUMBNAIL = 150  # pixels: panels that are narrower anyway stay side by side
BETWEEN = 100  # pixels from one row of panels to the next: labels below, names above
LABELS = 60  # pixels beside a panel that belong to the next one's labels
ROW = "row"  # the name of a note that is about all panels of a row

Span = tuple[float, float]


def domain(axis: Any) -> Span:
    """Where an axis lies, as shares of the page."""
    return tuple(axis.domain) if axis.domain else (0.0, 1.0)


def stack(figure: "Figure", inside: int) -> None:
    """Columns of panels that do not fit into `inside` pixels go below the first ones, in their order."""
    layout: Any = figure.layout
    wide = layout.width - layout.margin.l - layout.margin.r
    tall = layout.height - layout.margin.t - layout.margin.b
    columns = _columns(figure)
    groups = _groups([(low * wide, high * wide) for low, high in columns], inside / SQUEEZE)
    if len(groups) < 2 or max(high - low for low, high in columns) * wide < THUMBNAIL:
        return
    starts = [columns[group[0]][0] for group in groups]
    ends = [_end(figure, columns, group[-1], LABELS / wide) for group in groups]
    lows = [_lowest(figure, start, end) for start, end in zip(starts, ends, strict=True)]
    total = sum(1 - low for low in lows) * tall + BETWEEN * (len(groups) - 1)
    top = 1.0
    places = []
    for low in lows:
        high, top = top, top - (1 - low) * tall / total
        places.append((high, tall / total))
        top -= BETWEEN / total
    _move(figure, starts, ends, places, wide / inside)
    _legend(layout, tall / total)
    layout.height += total - tall


def _columns(figure: "Figure") -> list[Span]:
    """Stretches across the page that panels take, from left to right; panels that overlap are one."""
    found: list[Span] = []
    for low, high in sorted(domain(axis) for axis in figure.select_xaxes()):
        if found and low < found[-1][1] - 1e-6:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return found


def _groups(columns: list[Span], room: float) -> list[list[int]]:
    """As many neighbours in a row as there is room for."""
    groups: list[list[int]] = []
    for place, (_, high) in enumerate(columns):
        if groups and high - columns[groups[-1][0]][0] <= room:
            groups[-1].append(place)
        else:
            groups.append([place])
    return groups


def _end(figure: "Figure", columns: list[Span], last: int, labels: float) -> float:
    """Where a group ends: at its last panel, or behind what stands beside that."""
    high = columns[last][1]
    if last + 1 == len(columns):
        return high
    after = columns[last + 1][0]
    beside = [place for place in _beside(figure) if high < place < after]
    return max(high, after - labels) if beside else high


def _beside(figure: "Figure") -> list[float]:
    """Where colour bars and notes begin."""
    layout: Any = figure.layout
    notes = [
        note.x for note in layout.annotations if note.xref == "paper" and note.xanchor == "left"
    ]
    notes += [
        domain(layout[f"xaxis{note.xref.split()[0][1:]}"])[1] + 1e-3
        for note in layout.annotations
        if (note.xref or "").endswith(" domain") and note.x >= 1
    ]
    bars = [one.colorbar.x for one in traces(figure) if one.type == "heatmap" and one.colorbar.x]
    return [*notes, *bars]


def _lowest(figure: "Figure", start: float, end: float) -> float:
    """How far down the panels between two places reach."""
    layout: Any = figure.layout
    drawn = {((one.xaxis or "x")[1:], (one.yaxis or "y")[1:]) for one in traces(figure)}
    return min(
        domain(layout[f"yaxis{up}"])[0]
        for across, up in drawn
        if start - 1e-6 <= domain(layout[f"xaxis{across}"])[0] < end
    )


def _move(
    figure: "Figure", starts: list[float], ends: list[float], places: list[Span], grown: float
) -> None:
    """Axes, notes and colour bars to where their group is now."""
    layout: Any = figure.layout

    def group(x: float) -> int:
        return max(place for place, start in enumerate(starts) if start <= x + 1e-6 or place == 0)

    def across(x: float, of: int) -> float:
        start, end = starts[of], ends[of]
        return (x - start) / (end - start) if x <= end else 1 + (x - end) * grown

    def up(y: float, of: int) -> float:
        high, scale = places[of]
        return high - (1 - y) * scale

    first: dict[Span, Any] = {}
    for axis in cast(Any, figure.select_xaxes()):
        own = domain(axis)
        of = group(own[0])
        side = layout[f"yaxis{(axis.anchor or 'y')[1:]}"]
        heights = domain(side)
        axis.domain = [min(1.0, across(x, of)) for x in own]
        side.domain = [min(1.0, max(0.0, up(y, of))) for y in heights]
        _label(side, first.setdefault(heights, side), leads=abs(own[0] - starts[of]) < 1e-6)
    again = []
    for note in layout.annotations:
        if note.xref == "paper" and note.yref == "paper":
            of, y = group(note.x), note.y
            note.update(x=across(note.x, of), y=up(y, of))
            if note.name == ROW:
                others = (place for place in range(len(starts)) if place != of)
                again += [{**note.to_plotly_json(), "y": up(y, other)} for other in others]
    layout.annotations = [*layout.annotations, *again]
    for trace in traces(figure):
        if trace.type == "heatmap" and trace.showscale is not False:
            _bar(trace.colorbar, group, across, up)


def _label(side: Any, first: Any, leads: bool) -> None:
    """A panel that comes first in its row shows the labels that its neighbour showed for it."""
    if leads and side is not first:
        side.showticklabels = first.showticklabels
        if not side.title.text and side.side != "right":
            side.title.text = first.title.text


def _bar(bar: Any, group: Any, across: Any, up: Any) -> None:
    x = 1.02 if bar.x is None else bar.x
    of = group(x)
    y, anchor = (0.5 if bar.y is None else bar.y), bar.yanchor or "middle"
    tall = (1.0 if bar.len is None else bar.len) * (up(1, of) - up(0, of))
    bar.update(x=across(x, of), y=up(y, of), len=tall, yanchor=anchor)


def _legend(layout: Any, scale: float) -> None:
    """What is told below the panels stays as far below them."""
    legend = layout.legend
    if legend.y is not None and legend.yref != "container":
        legend.update(x=0, y=legend.y * scale)
