"""The figure of `path_patching`: every head's share of the change, and the largest with intervals."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import EFFECT, FAINT, INK, bar, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

LISTED = 14  # heads whose intervals are drawn
NUMBERED = 12  # heads in a layer beyond which numbers do not fit into their cells
SEEN = 0.005  # shares below this are written as nothing
LEAST = 0.05  # both scales reach this far, so that next to nothing looks like it


def figure(result: "Result", most: int = LISTED) -> "Figure":
    """Left: layers down, heads across, blue where the path supports the answer. Right: the `most` largest
    shares with their 95 % intervals."""
    from plotly.subplots import make_subplots

    table: Any = result.table
    across, down = table["head"].nunique(), table["layer"].nunique()
    shown = table.loc[table["share"].abs().sort_values(ascending=False).index[:most]]
    grid = make_subplots(
        rows=1, cols=2, column_widths=[0.62, 0.38], horizontal_spacing=0.2,
        subplot_titles=["share of the change that comes by each head's path (bold: interval without 0)",
                        f"the {len(shown)} largest, 95 % intervals"],
    )  # fmt: skip
    _heads(grid, table, across)
    _largest(grid, shown)
    grid.update_annotations(font={"size": 12, "color": INK})
    height = 170 + max(20 * len(shown), 34 * down, 150)
    return styled(grid, _title(result), height=height, width=max(900, 460 + 46 * across))


def _title(result: "Result") -> str:
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    settings = result.made.get("settings") or {}
    to = settings.get("receivers", "logits")
    if not isinstance(to, str):
        named = [f"{layer}.{head} {part}" for layer, head, part in to]
        to = ", ".join(named[:4]) + (", …" if len(named) > 4 else "")
    at = settings.get("position", "last")
    at = at if isinstance(at, (str, int)) else " ".join(str(one) for one in at)
    operator = settings.get("operator", "")
    return f"{of}: paths from heads at {plain(str(at))} to {plain(to)} ({operator})"


def _heads(grid: Any, table: Any, across: int) -> None:
    import plotly.graph_objects as go

    share = table.pivot(index="layer", columns="head", values="share")
    low, high = (
        table.pivot(index="layer", columns="head", values=f"share_{end}") for end in ("low", "high")
    )
    largest = max(LEAST, float(table["share"].abs().max()))
    sure = ((low > 0) | (high < 0)).to_numpy()
    words = [
        [_said(value, known) for value, known in zip(row, knowns, strict=True)]
        for row, knowns in zip(share.to_numpy(), sure, strict=True)
    ]
    cell = go.Heatmap(
        z=share.to_numpy(), x=[str(head) for head in share.columns], y=[str(at) for at in share.index],
        colorscale=EFFECT, zmin=-largest, zmid=0, zmax=largest, xgap=1, ygap=1,
        text=words, texttemplate="%{text}" if across <= NUMBERED else None, textfont={"size": 10},
        colorbar=bar("", x=0.53, len=1.0, tickformat="+.2~f"),
        customdata=_ranges(low, high),
        hovertemplate="layer %{y}, head %{x}: %{z:+.3f}<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=1, col=1)
    grid.update_xaxes(title={"text": "head", "standoff": 4}, type="category", row=1, col=1)
    grid.update_yaxes(title="layer", type="category", autorange="reversed", row=1, col=1)


def _said(value: float, known: bool) -> str:
    """The share; in bold where its interval holds no 0."""
    if abs(value) < SEEN:
        return ""
    text = f"{value:+.2f}".replace("0.", ".")
    return f"<b>{text}</b>" if known else text


def _ranges(low: Any, high: Any) -> list[list[str]]:
    rows = zip(low.to_numpy(), high.to_numpy(), strict=True)
    return [
        [f"95 %: {one:+.3f} to {other:+.3f}" for one, other in zip(*row, strict=True)]
        for row in rows
    ]


def _largest(grid: Any, shown: Any) -> None:
    import plotly.graph_objects as go

    names = [f"{layer}.{head}" for layer, head in zip(shown["layer"], shown["head"], strict=True)]
    share = shown["share"].to_numpy()
    intervals = shown["share_low"].notna().all()
    spread = {
        "type": "data", "symmetric": False, "array": shown["share_high"].to_numpy() - share,
        "arrayminus": share - shown["share_low"].to_numpy(), "color": INK, "thickness": 1.2, "width": 3,
    } if intervals else None  # fmt: skip
    ends = shown[["share", "share_low", "share_high"]]
    reach = [
        1.08 * min(-LEAST, float(ends.min().min())),
        1.08 * max(LEAST, float(ends.max().max())),
    ]
    colours = [EFFECT[2][1] if value > 0 else EFFECT[0][1] for value in share]
    grid.add_trace(
        go.Bar(
            x=share, y=names, orientation="h", marker={"color": colours}, error_x=spread,
            showlegend=False, hovertemplate="%{y}: %{x:+.3f}<extra></extra>",
        ),
        row=1, col=2,
    )  # fmt: skip
    grid.update_xaxes(
        title={"text": "share of clean to corrupted", "standoff": 4}, zeroline=True,
        zerolinecolor=FAINT, range=reach, row=1, col=2,
    )  # fmt: skip
    grid.update_yaxes(title="layer.head", type="category", autorange="reversed", row=1, col=2)
