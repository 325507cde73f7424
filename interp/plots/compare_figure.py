"""The figure of `compare`: what each intervention and control changes, with its interval, a panel a task."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import CONTROL, GRID, INK, PAPER, SERIES, plain, short, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

KINDS = {"intervention": SERIES[0], "control": CONTROL, "whole": SERIES[2]}
NAMES = {"intervention": "intervention", "control": "control", "whole": "the unbroken model"}
WIDE, LINE = 330, 26  # pixels of a panel and of a row
LONGEST = 34  # characters of a name
ACROSS = 3  # panels in a row


def figure(result: "Result", recovered: bool = False) -> "Figure":
    """Differences to plain with 95 % intervals; marks are hollow where the verdict is that none is told.

    `recovered` draws the share of a fault that is mended instead, where that was asked.
    """
    from plotly.subplots import make_subplots

    table: Any = result.table
    if recovered and "recovered" not in table:
        raise ValueError("nothing says what was lost: ask compare with whole= or reference=.")
    what = ("recovered", "recovered_low", "recovered_high") if recovered else (
        "difference", "diff_low", "diff_high"
    )  # fmt: skip
    shown = table[table[what[0]].notna()]
    tasks = list(dict.fromkeys(table["task"]))
    lower = result.made.get("told", {}).get("better") == "lower" and not recovered
    names = _order(shown, what[0], lower)
    across = min(ACROSS, len(tasks))
    down = -(-len(tasks) // across)
    grid = make_subplots(
        rows=down, cols=across, shared_yaxes=True, horizontal_spacing=0.04,
        vertical_spacing=0.3 / down if down > 1 else 0.0,
        subplot_titles=[_titled(table[table["task"] == task], task, what[0]) for task in tasks],
    )  # fmt: skip
    grid.update_annotations(font={"size": 12, "color": INK})
    for place, task in enumerate(tasks):
        _panel(grid, shown[shown["task"] == task], names, what, divmod(place, across))
    _add_keys(grid, set(shown["kind"]))
    _styled(grid, result, recovered, len(names), down, across)
    return grid


def _order(shown: Any, by: str, lower: bool) -> list[str]:
    """The unbroken model on top, then interventions and controls, the better of each first."""
    found: list[str] = []
    for kind in ("whole", "intervention", "control"):
        own = shown[shown["kind"] == kind].groupby("name", sort=False)[by].mean()
        found += list(own.sort_values(ascending=lower).index)
    return found


def _titled(own: Any, task: str, what: str) -> str:
    row = own[own["kind"] == "plain"].iloc[0]
    lost = ", nothing lost" if not own[what].notna().any() else ""
    return f"<b>{plain(task)}</b>, plain {row['value']:.3f}, {row['n']} records{lost}"


def _add_keys(grid: Any, kinds: set[str]) -> None:
    """The legend: filled marks, whatever is hollow in the panels."""
    import plotly.graph_objects as go

    for kind in (one for one in KINDS if one in kinds):
        marker = {"color": KINDS[kind], "size": 9, "symbol": _symbol(kind)}
        key = go.Scatter(x=[None], y=[None], mode="markers", name=NAMES[kind], legendgroup=kind)
        grid.add_trace(key.update(marker=marker), row=1, col=1)


def _symbol(kind: str) -> str:
    return "diamond" if kind == "whole" else "circle"


def _panel(
    grid: Any, own: Any, names: list[str], what: tuple[str, ...], at: tuple[int, int]
) -> None:
    import plotly.graph_objects as go

    row, column = at[0] + 1, at[1] + 1
    value, low, high = what
    # Categories with no mark here keep their line, so that panels can be read across.
    for kind, colour in KINDS.items():
        part = own[own["kind"] == kind]
        if not len(part):
            continue
        part = part.set_index("name").loc[[name for name in names if name in set(part["name"])]]
        told = ~part["verdict"].str.startswith("not told")
        marks = go.Scatter(
            x=part[value], y=[plain(name) for name in part.index], mode="markers", legendgroup=kind,
            showlegend=False,
            marker={"color": [colour if sure else PAPER for sure in told], "size": 9, "symbol": _symbol(kind),
                    "line": {"color": colour, "width": 2}},
            error_x={"type": "data", "symmetric": False, "array": part[high] - part[value],
                     "arrayminus": part[value] - part[low], "color": colour, "thickness": 2, "width": 4},
            customdata=part[[low, high, "value", "verdict"]].to_numpy(),
            hovertemplate=(f"%{{y}}: {value} %{{x:+.3f}} (%{{customdata[0]:+.3f}} to "
                           "%{customdata[1]:+.3f})<br>value %{customdata[2]:.3f}, %{customdata[3]}"
                           "<extra></extra>"),
        )  # fmt: skip
        grid.add_trace(marks, row=row, col=column)
    order = [plain(name) for name in reversed(names)]
    grid.update_yaxes(
        type="category", categoryorder="array", categoryarray=order, gridcolor=GRID,
        tickvals=order, ticktext=[plain(short(name, LONGEST)) for name in reversed(names)],
        range=[-0.6, len(names) - 0.4], row=row, col=column,
    )  # fmt: skip


def _styled(
    grid: Any, result: "Result", recovered: bool, names: int, down: int, across: int
) -> None:
    told = result.made.get("told", {})
    measure, rate = str(told.get("measure", "score")), str(told.get("rate", "value"))
    what = measure if rate == measure else f"{measure}, {rate.replace('_', ' ')}"
    of = plain(str(result.made.get("model") or "the model"))
    does = f"share of what {of} lost that comes back" if recovered else f"what each changes in {of}"
    hollow = "hollow: not to be told from plain"
    title = (
        f"{plain(what)}: {does}<br>95 % intervals, paired bootstrap over records; "
        f"{'1: all of it' if recovered else '0: as with nothing changed'}; {hollow}"
    )
    height = down * (LINE * names + 80) + 130
    styled(grid, title, height=height, width=310 + WIDE * across, l=235, r=40, b=95)
    grid.update_layout(
        legend={"orientation": "h", "y": 0, "yref": "container", "yanchor": "bottom", "x": 0},
    )
    axis = "share recovered" if recovered else f"change of {plain(rate.replace('_', ' '))}"
    if not recovered and told.get("better"):
        axis = (
            f"{axis} (better \u2192)" if told["better"] == "higher" else f"(\u2190 better) {axis}"
        )
    grid.update_xaxes(
        tickformat="+.2f",
        gridcolor=GRID,
        zeroline=True,
        zerolinecolor=INK,
        zerolinewidth=1.2,
        matches="x",
    )
    for column in range(1, across + 1):
        grid.update_xaxes(
            title={"text": axis, "standoff": 6, "font": {"size": 12}}, row=down, col=column
        )
