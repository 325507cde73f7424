"""Deletion and insertion curves beside chance, and where one record's answer came from."""

import math
from typing import TYPE_CHECKING, Any

from interp.plots.style import CONTROL, EFFECT, INK, SERIES, WORDS, plain, short, styled, visible

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

    from interp.result import Result

# The same colour for the same method in every figure.
METHODS = (
    "lrp", "attention", "rollout", "chefer", "flow", "attention_gradient", "gradient_input",
    "leave_one_out", "integrated_gradients", "attnlrp",
)  # fmt: skip
NAMES = {"attention_gradient": "attention x gradient", "gradient_input": "gradient x input",
         "leave_one_out": "leave one out", "integrated_gradients": "integrated gradients",
         "attention": "last attention"}  # fmt: skip
TITLES = {
    "deletion": "Deletion: the top replaced (lower is better)",
    "insertion": "Insertion: all but the top replaced (higher is better)",
}
WIDE, NARROW = 1180, 1000  # pixels; below the second the curves are below each other
PLACES = 12  # columns of the sheet
CURVES_TALL, LINE_TALL, MAP_TALL, GAP = 330, 24, 138, 84  # pixels

RELEVANCE = (
    f"Relevance in one record: <b style='color:{EFFECT[-1][1]}'>for</b> and "
    f"<b style='color:{EFFECT[0][1]}'>against</b> its answer, each method by its own largest"
)

Row = dict[str, Any]
Columns = list[tuple[str, list[int]]]  # what a column is called, and the positions it sums


def figure(result: "Result", record: int = 0, width: int = WIDE) -> "Figure":
    """Above the curves of all records, random rankings in grey; below the relevance of one record.

    The labels stand beside their panel from best to worst, with the area under the curve, in bold
    where it beats chance. Relevance is blue where it speaks for the answer and brown where against,
    each method by its own largest. An image's positions are laid on it; beside text, their sum is one
    column.
    """
    last = len(result.tables["records"]) - 1
    if record not in range(last + 1):
        raise IndexError(f"record {record} is not in this result: it has records 0 to {last}.")
    rows = _rows(result.tables["relevance"], record=record)
    methods = list(dict.fromkeys(row["method"] for row in rows))
    columns = _columns([row for row in rows if row["method"] == methods[0]])
    narrow = width < NARROW
    across = 4 if narrow else 6
    maps = f"map {record}" in result.tensors
    drawn, heights = _sheet(
        -(-(len(methods) + 1) // across) * maps, len(methods), bool(columns), narrow
    )
    for panel, curve in enumerate(TITLES):
        place: Row = {"row": 1 + panel, "col": 1} if narrow else {"row": 1, "col": 1 + 7 * panel}
        _curves(drawn, result, curve, panel, place)
        if panel == 0 or narrow:
            drawn.update_yaxes(title="probability of the answer", **place)
        else:  # the same scale as on the left, and the labels of the left stand there
            drawn.update_yaxes(showticklabels=False, **place)
    row = 3 if narrow else 2
    if columns:
        _tokens(drawn, rows, methods, columns, row)
    if len(heights) > 1:
        _heading(drawn, RELEVANCE, "x3", "y3")
    if maps:
        _maps(drawn, result, record, methods, row + bool(columns), across)
    height = sum(heights) + GAP * len(heights) + 60
    styled(drawn, _title(result, record), height=height, width=width, l=140, r=170, b=80)
    return drawn.update_layout(showlegend=False)


def _rows(table: "pandas.DataFrame", **wanted: Any) -> list[Row]:
    """The rows of a table that have these values."""
    listed: list[Any] = table.to_dict("records")
    return [row for row in listed if all(row[key] == value for key, value in wanted.items())]


def _title(result: "Result", record: int) -> str:
    asked = result.tables["records"].iloc[record]
    count = len(result.tables["records"])
    model, task = (plain(str(result.made.get(name) or f"a {name}")) for name in ("model", "task"))
    return (
        f"{model} on {task}: "
        f"what its answers rest on<br>Curves: mean of {count} record{'s' * (count > 1)}. "
        f"Below: record {record}, answer “{visible(str(asked['answer'])).strip('·')}”, "
        f"probability {asked['probability']:.2f}."
    )


def _sheet(deep: int, methods: int, tokens: bool, narrow: bool) -> tuple["Figure", list[int]]:
    """Two panels above; below them a map of tokens, `deep` rows of small images, or both."""
    from plotly.subplots import make_subplots

    whole_row = [{"colspan": PLACES}, *[None] * (PLACES - 1)]
    beside: list[Any] = [{"colspan": 5}, *[None] * 6, {"colspan": 5}, *[None] * 4]
    image = [{"colspan": 3}, None, None] * 4 if narrow else [{"colspan": 2}, None] * 6
    specs: list[list[Any]] = [whole_row] * 2 if narrow else [beside]
    heights = [CURVES_TALL] * len(specs)
    specs += [whole_row] * tokens + [image] * deep
    heights += [LINE_TALL * methods] * tokens + [MAP_TALL] * deep
    whole = sum(heights) + GAP * (len(heights) - 1)
    drawn = make_subplots(
        rows=len(heights), cols=PLACES, specs=specs, row_heights=[float(each) for each in heights],
        vertical_spacing=GAP / whole, horizontal_spacing=0.012,
    )  # fmt: skip
    return drawn, heights


def _curves(drawn: "Figure", result: "Result", curve: str, panel: int, place: Row) -> None:
    """One panel, and beside it its labels in the order of their areas."""
    import plotly.graph_objects as go

    across, up = (f"{axis}{panel + 1 if panel else ''} domain" for axis in "xy")
    order = sorted(
        _rows(result.table, curve=curve),
        key=lambda row: row["auc"] if curve == "deletion" else -row["auc"],
    )
    step = min(0.1, 1 / len(order))
    for rank, row in reversed(list(enumerate(order))):  # the best on top
        name = _named(row["method"])
        own = _rows(result.tables["curves"], method=row["method"])
        line = go.Scatter(
            x=[each["share"] for each in own], y=[each[curve] for each in own], mode="lines",
            line=_line(row["method"]),
            hovertemplate=f"{name}: %{{y:.3f}} at %{{x:.0%}}<extra></extra>",
        )  # fmt: skip
        drawn.add_trace(line, **place)
        text = f"{name} {row['auc']:.2f}"
        drawn.add_annotation(
            text=f"<b>{text}</b>" if row["beats"] else text, x=1.02, y=1 - step * rank, xref=across,
            yref=up, xanchor="left", yanchor="top", showarrow=False,
            font={"color": WORDS[_line(row["method"])["color"]], "size": 12},
        )  # fmt: skip
    _heading(drawn, TITLES[curve], across.split()[0], up.split()[0])
    drawn.update_xaxes(
        title="share of the ranked positions", tickformat=".0%", range=[0, 1], **place
    )
    drawn.update_yaxes(range=[0, 1.02], **place)


def _heading(drawn: "Figure", text: str, across: str, up: str) -> None:
    """Words above a panel, from its left edge."""
    drawn.add_annotation(
        text=text, x=0, y=1, yshift=2, xref=f"{across} domain", yref=f"{up} domain",
        xanchor="left", yanchor="bottom", showarrow=False, font={"size": 13, "color": INK},
    )  # fmt: skip


def _columns(rows: list[Row]) -> Columns:
    """Columns of the token map: text positions, and an image among them as one; none without text."""
    if not any(row["part"] == "text" and row["ranked"] for row in rows):
        return []
    columns: Columns = []
    for row in rows:
        image = row["part"] == "image"
        if image and columns and columns[-1][0] == "(image)":
            columns[-1][1].append(row["position"])
        else:
            columns.append(
                ("(image)" if image else visible(short(row["token"])), [row["position"]])
            )
    return columns


def _tokens(
    drawn: "Figure", rows: list[Row], methods: list[str], columns: Columns, row: int
) -> None:
    """Methods down, tokens across; each row by its own largest, ranked positions alone."""
    import plotly.graph_objects as go

    shown, hover = [], []
    for name in methods:
        own = [row for row in rows if row["method"] == name]
        values = [row["value"] if row["ranked"] else math.nan for row in own]
        sums = [sum(values[place] for place in places) for _, places in columns]
        most = max((abs(each) for each in sums if each == each), default=0.0) or 1.0
        shown.append([each / most for each in sums])
        hover.append([f"{_named(name)}: {each:.4f}" for each in sums])
    cell = go.Heatmap(
        z=shown, y=[_named(name) for name in methods], customdata=hover, colorscale=EFFECT,
        zmin=-1, zmax=1, xgap=1, ygap=1, showscale=False,
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip
    drawn.add_trace(cell, row=row, col=1)
    ticks = {"tickvals": list(range(len(columns))), "ticktext": [name for name, _ in columns]}
    drawn.update_xaxes(**ticks, tickangle=-60, row=row, col=1)
    drawn.update_yaxes(autorange="reversed", row=row, col=1)


def _maps(
    drawn: "Figure", result: "Result", record: int, methods: list[str], first: int, across: int
) -> None:
    """The image, and under each method's relevance again."""
    import plotly.graph_objects as go

    image = result.tensors[f"image {record}"].numpy()
    height, width = image.shape[:2]
    for number, name in enumerate(["the image", *methods]):
        place: Row = {
            "row": first + number // across,
            "col": 1 + PLACES // across * (number % across),
        }
        drawn.add_trace(go.Image(z=image, hoverinfo="skip"), **place)
        if number:
            values = result.tensors[f"map {record}"][number - 1]
            high, wide = height / values.shape[0], width / values.shape[1]
            heat = go.Heatmap(
                z=(values / (float(values.abs().max()) or 1.0)).numpy(), x0=wide / 2 - 0.5, dx=wide,
                y0=high / 2 - 0.5, dy=high, colorscale=EFFECT, zmin=-1, zmax=1, opacity=0.8,
                showscale=False, hovertemplate=f"{_named(name)}: %{{z:.2f}}<extra></extra>",
            )  # fmt: skip
            drawn.add_trace(heat, **place)
        ends = {"constrain": "domain", "showticklabels": False, "title": _named(name)}
        drawn.update_xaxes(**ends, range=[-0.5, width - 0.5], title_standoff=4, **place)
        axis = next(drawn.select_xaxes(**place))["anchor"].replace("y", "x")
        drawn.update_yaxes(showticklabels=False, scaleanchor=axis, constrain="domain",
                           range=[height - 0.5, -0.5], **place)  # fmt: skip


def _named(method: str) -> str:
    return NAMES.get(method, method)


def _line(method: str) -> dict[str, Any]:
    if method == "random":
        return {"color": CONTROL, "width": 5}
    place = METHODS.index(method) if method in METHODS else len(METHODS)
    dash = "solid" if place < len(SERIES) else "dot"
    return {"color": SERIES[place % len(SERIES)], "width": 2, "dash": dash}
