"""The figure of `emergent_heads`: what each head does at each checkpoint, and what silencing some costs."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import CONTROL, EFFECT, GRID, INK, SERIES, bar, plain, short, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

SHOWN = 4  # checkpoints drawn: the first, the last, and some between
LETTERS = {"emergent": "E", "retained": "R", "lost": "L", "neither": "b"}
NUMBERED = 16  # heads in a layer beyond which letters do not fit into their cells
LEAST = 0.05  # the colours reach this far, so that next to nothing looks like it
PANEL, LINE, LONGEST = 250, 24, 34  # pixels of a map's width and of a bar; characters of a name


def figure(result: "Result") -> "Figure":
    """A row for each task. Left: importance of every head, a map for each checkpoint; letters stand on
    heads in its circuit (E emergent, R retained, L lost, b only in between). Right: held-out accuracy."""
    from plotly.subplots import make_subplots

    table: Any = result.table
    members: Any = result.tables["membership"]
    tests: Any = result.tables["tests"]
    tasks = list(dict.fromkeys(table["task"]))
    points = _chosen(list(dict.fromkeys(members["checkpoint"])))
    bars = max(int((tests["task"] == task).sum()) for task in tasks)
    widths = [1.0] * len(points) + [1.5]
    grid = make_subplots(
        rows=len(tasks), cols=len(points) + 1, column_widths=widths,
        horizontal_spacing=0.045, vertical_spacing=0.28 / len(tasks) if len(tasks) > 1 else 0.0,
        subplot_titles=[
            title for task in tasks
            for title in [*(plain(short(point, LONGEST)) for point in points), "accuracy, 95 %"]
        ],
    )  # fmt: skip
    grid.update_annotations(font={"size": 11, "color": INK})
    most = max(LEAST, float(members["importance"].abs().max()))
    for row, task in enumerate(tasks, start=1):
        for column, point in enumerate(points, start=1):
            own = members[(members["task"] == task) & (members["checkpoint"] == point)]
            _map(grid, own, table[table["task"] == task], most, (row, column))
        grid.update_yaxes(title=f"{plain(short(task, 20))}: layer", row=row, col=1)
        _bars(grid, tests[tests["task"] == task], (row, len(points) + 1))
    grid.update_layout(
        coloraxis={"colorscale": EFFECT, "cmin": -most, "cmid": 0, "cmax": most,
                   "colorbar": bar("", orientation="h", x=0.0, xanchor="left", y=0,
                                   yref="container", yanchor="bottom", lenmode="pixels", len=240,
                                   title={"text": "importance", "side": "top"})}
    )  # fmt: skip
    layers = int(table["layer"].nunique())
    height = len(tasks) * (100 + max(LINE * bars, 28 * layers, 120)) + 150
    wide = 310 + PANEL * (len(points) + 1.5)
    styled(grid, _title(result), height=height, width=wide, b=110, r=240)
    return grid.update_layout(showlegend=False)


def _chosen(points: list[str]) -> list[str]:
    """The first and the last checkpoint, and as many between as there is room for."""
    if len(points) <= SHOWN:
        return points
    step = (len(points) - 1) / (SHOWN - 1)
    return [points[round(number * step)] for number in range(SHOWN)]


def _title(result: "Result") -> str:
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    method = (result.made.get("settings") or {}).get("method", "sweep")
    what = "estimated importance (EAP-IG)" if method == "eap_ig" else "importance of each head"
    return (
        f"{of or 'Heads'}: {what} at each checkpoint, and held-out accuracy of the last"
        "<br>in a checkpoint's circuit: E emergent, R retained, L lost, b only in between; "
        "random sets: mean, and 95 % of the sets"
    )


def _map(grid: Any, own: Any, statuses: Any, most: float, at: tuple[int, int]) -> None:
    import plotly.graph_objects as go

    row, column = at
    values = own.pivot(index="layer", columns="head", values="importance")
    inside = own.pivot(index="layer", columns="head", values="in_circuit").to_numpy()
    status = statuses.pivot(index="layer", columns="head", values="status").to_numpy()
    letters = [
        [LETTERS[name] if there else "" for name, there in zip(names, theres, strict=True)]
        for names, theres in zip(status, inside, strict=True)
    ]
    fits = values.shape[1] <= NUMBERED
    cell = go.Heatmap(
        z=values.to_numpy(), x=[str(head) for head in values.columns],
        y=[str(layer) for layer in values.index], coloraxis="coloraxis", xgap=1, ygap=1,
        text=letters, texttemplate="<b>%{text}</b>" if fits else None, textfont={"size": 11},
        customdata=status,
        hovertemplate="layer %{y}, head %{x}: %{z:+.3f}<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=row, col=column)
    grid.update_xaxes(title={"text": "head", "standoff": 4}, type="category", row=row, col=column)
    grid.update_yaxes(type="category", autorange="reversed", row=row, col=column)


def _bars(grid: Any, own: Any, at: tuple[int, int]) -> None:
    import plotly.graph_objects as go

    row, column = at
    names = [plain(short(name, LONGEST)) for name in own["condition"]]
    accuracy = own["accuracy"].to_numpy()
    spread = {
        "type": "data", "symmetric": False, "array": own["high"].to_numpy() - accuracy,
        "arrayminus": accuracy - own["low"].to_numpy(), "color": INK, "thickness": 1.2, "width": 3,
    }  # fmt: skip
    colours = [_colour(name) for name in own["condition"]]
    grid.add_trace(
        go.Bar(
            x=accuracy, y=names, orientation="h", marker={"color": colours}, error_x=spread,
            customdata=own[["metric", "heads"]].to_numpy(),
            hovertemplate="%{y}: %{x:.3f} right<br>metric %{customdata[0]:.2f}, "
            "%{customdata[1]} heads<extra></extra>",
        ),
        row=row, col=column,
    )  # fmt: skip
    grid.update_xaxes(
        title={"text": "held-out records answered right", "standoff": 4}, range=[0, 1.05],
        showgrid=True, gridcolor=GRID, row=row, col=column,
    )  # fmt: skip
    # On the right, where no map is in the way.
    grid.update_yaxes(type="category", autorange="reversed", side="right", row=row, col=column)


def _colour(condition: str) -> str:
    """Blue for the last checkpoint's own heads, grey for what they are held against."""
    if condition.startswith("emergent for "):
        return SERIES[5]
    for start, colour in (("emergent", SERIES[1]), ("retained", SERIES[2]), ("plain", SERIES[0])):
        if condition.startswith(start):
            return colour
    return CONTROL
