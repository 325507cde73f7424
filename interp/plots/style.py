"""One house style: the same colour for the same thing in every figure.

Figures are drawn on white with these colours; `interp.plots.dark` has a dark one for each of them.
"""

import re
import textwrap
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Words, words that matter less, frames, lines to read along; areas, paler and darker; what is behind.
INK, QUIET, FAINT, GRID = "#1f2933", "#5f6b77", "#9aa5b1", "#eef1f4"
BAND, WASH = "#e4e7eb", "#d3d9e0"
PAPER, NIGHT = "#ffffff", "#0e1117"
# One sequential scale for attention everywhere: light to dark, readable without colour vision.
ATTENTION = [
    [0.0, PAPER],
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
# Words in the colour of a line are darker than the line, so that they can be read on white.
WORDS = dict(
    zip(
        [*SERIES, CONTROL],
        ["#0072b2", "#b54f00", "#007a59", "#a8487f", "#8f6200", "#1b77ae", "#7f6a00", "#5b5b5b", QUIET],
        strict=True,
    )
)  # fmt: skip
INTERVAL = "rgba(0,114,178,0.15)"  # around a line of the first colour
# Attention on a picture of any colours: orange, from nothing to nearly all.
COVER = [[0.0, "rgba(255,140,0,0.0)"], [1.0, "rgba(255,140,0,0.8)"]]

TITLE, WORD = 15, 12  # pixels of letters: the title's, and of what is below it
LINE, TOP = 20, 12  # pixels of a line of the title, and above the first
FALL = 10  # pixels: a title of several lines is set this much higher than one of one line
LETTER = 0.56  # of a letter's height: its width, on average, with some to spare
BELOW = re.compile(r"<span style='font-size:12px'>(.*?)</span>")


def pale(colour: str) -> str:
    """A third of a colour, on white."""
    return mixed(colour, PAPER)


def mixed(colour: str, paper: str) -> str:
    """A third of a colour, and two of the paper's."""
    pairs = zip(_parts(colour), _parts(paper), strict=True)
    return "#" + "".join(f"{(one + 2 * other) // 3:02x}" for one, other in pairs)


def contrast(one: str, other: str) -> float:
    """WCAG's ratio, from 1 to 21; words need 4.5."""
    low, high = sorted(_luminance(colour) + 0.05 for colour in (one, other))
    return high / low


def _luminance(colour: str) -> float:
    shares = [part / 255 for part in _parts(colour)]
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _parts(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (1, 3, 5)]


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


def bar(title: str, /, **more: Any) -> dict[str, Any]:
    """A colour bar in the house style; its title runs along it, clear of the numbers."""
    words = {"text": title, "side": "right", "font": {"size": WORD}}
    return {"title": words, "thickness": 12, "outlinewidth": 0, "tickfont": {"size": 11}, **more}


def styled(
    figure: "Figure", title: str, *, width: float, height: float, above: int = 34, **margin: int
) -> "Figure":
    """The house's colours, letters and margins. `title` may have a second part, after <br>.

    `above` is what stands between the title and the panels, in pixels. Titles are wrapped to the width.
    """
    tall = entitle(figure, title, width)
    figure.update_layout(
        template="none",
        font={"family": "Inter, Helvetica, Arial, sans-serif", "size": WORD, "color": INK},
        plot_bgcolor=PAPER,
        paper_bgcolor=PAPER,
        colorway=SERIES,
        hoverlabel={"bgcolor": PAPER, "bordercolor": FAINT, "font": {"color": INK}},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": FAINT, "activecolor": INK},
        margin={"l": 70, "r": 70, "t": tall + above, "b": 60} | margin,
        width=width,
        height=height,
    )  # fmt: skip
    lined = {"showline": True, "linecolor": FAINT, "mirror": True, "ticks": "", "zeroline": False,
             "gridcolor": GRID, "zerolinecolor": FAINT}  # fmt: skip
    for axis in cast(Any, (*figure.select_xaxes(), *figure.select_yaxes())):
        axis.update({key: value for key, value in lined.items() if axis[key] is None})
        axis.tickfont.size = axis.tickfont.size or 11
        axis.title.font.size = WORD
    _bare(figure)
    return figure


def _bare(figure: "Figure") -> None:
    """No lines to read along behind maps: they would show where a cell is empty."""
    layout = cast(Any, figure.layout)
    for one in traces(figure):
        for letter in "xy" if one.type in ("heatmap", "image") else "":
            place = (one[f"{letter}axis"] or letter)[1:]
            layout[f"{letter}axis{place}"].showgrid = False


def traces(figure: "Figure") -> list[Any]:
    """What is drawn in a figure, of whatever kind."""
    return list(figure.data)


def entitle(figure: "Figure", title: str, width: float) -> int:
    """Set the title, in lines that fit into the width; returned is how many pixels it takes."""
    first, _, after = title.partition("<br>")
    head = _wrapped(first, width - 40, TITLE)
    more = _wrapped(after, width - 40, WORD) if after else []
    small = [f"<span style='font-size:{WORD}px'>{line}</span>" for line in more]
    lines = len(head) + len(more)
    figure.update_layout(
        title={"text": "<br>".join([*head, *small]), "x": 0, "xref": "container", "xanchor": "left",
               "y": 1, "yref": "container", "yanchor": "top", "font": {"size": TITLE},
               "pad": {"l": 14, "t": TOP + FALL * (lines > 1)}}
    )  # fmt: skip
    return TOP + LINE * lines


def untitled(text: str) -> str:
    """The title that `entitle` made these lines of."""
    more = " ".join(BELOW.findall(text))
    first = " ".join(line for line in text.split("<br>") if line and not BELOW.match(line))
    return f"{first}<br>{more}" if more else first


def _wrapped(text: str, width: float, size: int) -> list[str]:
    letters = max(12, int(width / (LETTER * size)))
    return textwrap.wrap(text, letters, break_on_hyphens=False) or [""]
