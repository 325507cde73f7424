"""A map of heads with a circuit marked in it: layers down, heads across."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from interp.plots.style import EFFECT, INK

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

NUMBERED = 12  # heads in a layer beyond which numbers do not fit into their cells
SEEN = 0.005  # scores below this are written as nothing
LEAST = 0.05  # the scale reaches this far, so that next to nothing looks like it


def reach(table: Any) -> float:
    """How far the scale of these scores goes, either way."""
    return max(LEAST, float(table["score"].abs().max()))


def score_map(
    grid: "Figure", table: Any, col: int, most: float, bar: dict[str, Any] | None, row: int = 1
) -> None:
    """Scores by layer and head, blue where the head helps."""
    import plotly.graph_objects as go

    score = table.pivot(index="layer", columns="head", values="score")
    words = [[_said(value) for value in line] for line in score.to_numpy()]
    cell = go.Heatmap(
        z=score.to_numpy(), x=score.columns.tolist(), y=score.index.tolist(), colorscale=EFFECT,
        zmin=-most, zmid=0, zmax=most, xgap=2, ygap=2, text=words, textfont={"size": 10},
        texttemplate="%{text}" if len(score.columns) <= NUMBERED else None,
        colorbar=bar, showscale=bar is not None,
        hovertemplate="layer %{y}, head %{x}: %{z:+.3f}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=row, col=col)
    ends = {"showgrid": False, "zeroline": False, "row": row, "col": col}
    grid.update_xaxes(
        title={"text": "head", "standoff": 4}, dtick=_step(len(score.columns)), **ends
    )
    grid.update_yaxes(
        title={"text": "layer", "standoff": 4}, dtick=_step(len(score.index)),
        autorange="reversed", **ends,
    )  # fmt: skip


def mark(
    grid: "Figure",
    heads: Iterable[tuple[int, int]],
    col: int,
    width: float,
    dash: str = "solid",
    row: int = 1,
) -> None:
    """Frames around heads."""
    for layer, head in heads:
        grid.add_shape(
            type="rect", x0=head - 0.46, x1=head + 0.46, y0=layer - 0.46, y1=layer + 0.46,
            line={"color": INK, "width": width, "dash": dash}, row=row, col=col,
        )  # fmt: skip


def legend(grid: "Figure", name: str, width: float, dash: str = "solid") -> None:
    """What a frame stands for, in the legend."""
    import plotly.graph_objects as go

    line = {"color": INK, "width": width, "dash": dash}
    grid.add_trace(go.Scatter(x=[None], y=[None], mode="lines", line=line, name=name))


def kept(table: Any) -> list[tuple[int, int]]:
    """The heads in the circuit."""
    own = table[table["in_circuit"]]
    return [(int(one), int(other)) for one, other in zip(own["layer"], own["head"], strict=True)]


def _said(value: float) -> str:
    return "" if abs(value) < SEEN else f"{value:+.2f}".replace("0.", ".")


def _step(count: int) -> int:
    return 1 if count <= 16 else 2 if count <= 32 else 4
