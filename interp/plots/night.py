"""Figures in the dark: every colour of the house has a counterpart, and nothing else changes."""

import re
from typing import TYPE_CHECKING, Any

from interp.plots.style import (
    ATTENTION,
    BAND,
    CONTROL,
    EFFECT,
    FAINT,
    GRID,
    INK,
    INTERVAL,
    NIGHT,
    PAPER,
    QUIET,
    SERIES,
    WASH,
    WORDS,
    mixed,
    pale,
    traces,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

# Hues stay; what was dark on white is bright here, so that much stands out from little as before.
BRIGHT = ["#3a96dc", "#f0752a", "#1fb58a", "#d98fb8", "#e69f00", "#8fd0f5", "#f0e442", "#bdbdbd"]
GREY = "#8a96a3"
COUNTERPARTS = {
    PAPER: NIGHT, INK: "#e8ebef", QUIET: "#a3adb8", FAINT: GREY, CONTROL: GREY, GRID: "#1f2630",
    BAND: "#2a323d", WASH: "#3a4552", INTERVAL: "rgba(58,150,220,0.25)",
    **dict(zip([colour for _, colour in ATTENTION[1:]],
               ["#122c44", "#1f6aa5", "#6baed6", "#eaf4fb"], strict=True)),
    **dict(zip([colour for _, colour in EFFECT], ["#f7a559", "#20262e", "#7fc1f7"], strict=True)),
    **dict(zip(SERIES, BRIGHT, strict=True)),
}  # fmt: skip
COUNTERPARTS |= {
    words: COUNTERPARTS[colour] for colour, words in WORDS.items() if words not in COUNTERPARTS
}
COUNTERPARTS |= {
    pale(colour): mixed(COUNTERPARTS[colour], NIGHT) for colour in [*SERIES, CONTROL, BAND, WASH]
}
IN_WORDS = re.compile(r"(?<=color:)#[0-9a-f]{6}(?=['\"])")


def dark(figure: "Figure") -> "Figure":
    """The same figure on a dark page; the one that was given stays as it is."""
    from plotly.graph_objects import Figure

    data = [_turned(trace.to_plotly_json(), "") for trace in traces(figure)]
    return Figure(data, _turned(figure.layout.to_plotly_json(), ""))


def _turned(part: Any, key: str) -> Any:
    """A part of a figure: colours where colours are meant, and in the markup of words; no data."""
    if isinstance(part, dict):
        return {name: _turned(value, str(name)) for name, value in part.items()}
    if isinstance(part, (list, tuple)):
        return [_turned(value, key) for value in part]
    if not isinstance(part, str):
        return part
    if key.endswith(("color", "colorscale", "colorway")):
        return COUNTERPARTS.get(part.lower(), part)
    if "<span style='color:" in part or "<b style='color:" in part:
        return IN_WORDS.sub(lambda found: COUNTERPARTS.get(found[0], found[0]), part)
    return part
