"""One house style: the same colour for the same thing in every figure."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

INK, FAINT, PAPER = "#1f2933", "#9aa5b1", "#ffffff"
# One sequential scale for attention everywhere: light to dark, readable without colour vision.
ATTENTION = [
    [0.0, "#ffffff"],
    [0.15, "#d7e8f2"],
    [0.45, "#6baed6"],
    [0.8, "#1f6aa5"],
    [1.0, "#08306b"],
]
# Effects have a sign: centre them at zero (zmid=0).
EFFECT = [[0.0, "#b35806"], [0.5, "#f7f7f7"], [1.0, "#08519c"]]
# Okabe and Ito's palette, told apart without colour vision; in this order for first, second, ...
SERIES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a00", "#5b5b5b"]
CONTROL = "#9aa5b1"  # a random ranking, a shuffle: what a finding must beat


def visible(token: str) -> str:
    """A token as an axis can show it: spaces and line ends marked, nothing read as markup."""
    return plain(token).replace(" ", "·").replace("\n", "⏎")


def plain(text: str) -> str:
    """Text of which nothing is read as markup."""
    return text.replace("&", "&amp;").replace("<", "‹").replace(">", "›")


def short(text: str, most: int = 14) -> str:
    """As much of a name as an axis has room for."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def ticks(labels: list[str], most: int = 60) -> tuple[list[int], list[str]]:
    """Places and labels of an axis: all, or every second, third, ... where there is no room."""
    step = -(-len(labels) // most)
    places = list(range(0, len(labels), step))
    return places, [visible(short(labels[place])) for place in places]


def bar(title: str, **more: Any) -> dict[str, Any]:
    """A colour bar in the house style."""
    return {"title": {"text": title}, "thickness": 12, "outlinewidth": 0, **more}


def styled(figure: "Figure", title: str, **size: Any) -> "Figure":
    figure.update_layout(
        title={"text": title, "x": 0.01, "font": {"size": 15}},
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": 12, "color": INK},
        plot_bgcolor=PAPER,
        paper_bgcolor=PAPER,
        margin={"l": 70, "r": 70, "t": 70, "b": 60},
        **size,
    )
    figure.update_xaxes(showline=True, linecolor=FAINT, mirror=True, tickfont={"size": 11})
    figure.update_yaxes(showline=True, linecolor=FAINT, mirror=True, tickfont={"size": 11})
    return figure
