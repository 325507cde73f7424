"""The figure of `rhythm`: a response with its preplan and anchor tokens, over its two curves."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import FAINT, PAPER, SERIES, WORDS, plain, styled, visible

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

    from interp.result import Result

PREPLAN, ANCHOR = SERIES[0], SERIES[1]
MARKS = {
    (False, False): "%s",
    (True, False): f"<span style='color:{WORDS[PREPLAN]}'><b>%s</b></span>",
    (False, True): f"<span style='color:{WORDS[ANCHOR]}'><b><u>%s</u></b></span>",
    (True, True): f"<span style='color:{WORDS[SERIES[3]]}'><b><u>%s</u></b></span>",
}
KEY = {
    (True, False): "preplan, a peak of WAAD: looks far back",
    (False, True): "anchor, a peak of FAI: is looked back at",
    (True, True): "both",
}
WIDTH = 1240
NARROW = 900  # pixels: below, the key to the marks takes three lines
LETTER = 7.0  # pixels of a letter of the text, which is bold here and there
LINE = 21  # pixels


def figure(
    result: "Result", record: int = 0, start: int = 0, count: int = 90, width: int = WIDTH
) -> "Figure":
    """`count` tokens of one response, from its `start`: the text marked, WAAD below it, then FAI."""
    import plotly.graph_objects as go

    response = _response(result, record, start, count)
    shown = response.iloc[start : start + count]
    lines = _text(shown, int((width - 140) / LETTER))
    breaks = "<br>" if width < NARROW else " &nbsp; "
    keys = breaks.join(MARKS[kind] % words for kind, words in KEY.items()).split("<br>")
    above = 24 + LINE * (len(lines) + len(keys))
    height = 620 + above
    inside = height - 53 - 90  # less the margins that hold the title and the tokens
    top = 1 - above / inside
    drawn = go.Figure()
    _curve(drawn, shown, "waad", "preplan", PREPLAN, "", width)
    _curve(drawn, shown, "fai", "anchor", ANCHOR, "2", width)
    _lead_up(drawn, shown, top)
    ticks = [MARKS[_kind(row)] % visible(row["token"].strip() or row["token"])
             for row in shown.to_dict("records")]  # fmt: skip
    across = {"range": (-0.8, len(shown) - 0.2), "showgrid": False}
    drawn.update_layout(
        xaxis={"anchor": "y", "matches": "x2", "showticklabels": False, **across},
        xaxis2={"anchor": "y2", "tickvals": list(range(len(shown))), "ticktext": ticks,
                "tickangle": -90, "tickfont": {"size": min(11, (width - 140) // len(shown))},
                **across},
        yaxis={"domain": (0.53 * top, top), "title": "WAAD, tokens", "range": _room(shown["waad"])},
        yaxis2={"domain": (0, 0.47 * top), "title": "FAI, mean attention",
                "range": _room(shown["fai"])},
        showlegend=False,
    )  # fmt: skip
    drawn.add_annotation(
        x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="top", align="left",
        text="<br>".join([*keys, *lines]), font={"size": 13}, showarrow=False,
    )  # fmt: skip
    title = _title(result, record, len(response), start, len(shown))
    return styled(drawn, title, height=height, width=width, above=20, b=90)


def _response(result: "Result", record: int, start: int, count: int) -> "DataFrame":
    tokens = result.tables["tokens"]
    response = tokens.query("record == @record").reset_index(drop=True)
    if not len(response):
        known = ", ".join(str(number) for number in tokens["record"].unique())
        raise LookupError(f"no record {record} in this result. There are: {known}.")
    if not 0 <= start < len(response) or count < 1:
        raise IndexError(
            f"start={start}, count={count}: the response has tokens 0 to {len(response) - 1}."
        )
    return response


def _title(result: "Result", record: int, length: int, start: int, shown: int) -> str:
    of = f"{plain(str(result.made['model']))}, " if result.made.get("model") else ""
    part = f", tokens {start} to {start + shown - 1} of {length}" if shown < length else ""
    return f"Preplan and anchor: {of}response {record}{part}"


def _kind(row: dict[Any, Any]) -> tuple[bool, bool]:
    return bool(row["preplan"]), bool(row["anchor"])


def _text(shown: "DataFrame", letters: int) -> list[str]:
    """The response in lines, its peaks marked."""
    lines, room = [""], letters
    for row in shown.to_dict("records"):
        token = row["token"]
        said = visible(token).replace("·", " ")
        if len(said) > room:
            lines.append("")
            room = letters
        said = said if lines[-1] else said.lstrip()
        blank = " " * (len(said) - len(said.lstrip()))
        lines[-1] += blank + MARKS[_kind(row)] % said.strip()
        room -= len(said)
    return lines


def _curve(
    drawn: "Figure",
    shown: "DataFrame",
    name: str,
    peak: str,
    colour: str,
    axis: str,
    width: int,
) -> None:
    """The line, a marker at each peak, and the peak's token where there is room for it."""
    import plotly.graph_objects as go

    tokens = [visible(token) for token in shown["token"]]
    axes = {"xaxis": f"x{axis}", "yaxis": f"y{axis}"}
    heights = shown[name].to_numpy()
    line = {"x": list(range(len(shown))), "y": heights, "customdata": tokens, **axes,
            "hovertemplate": f"%{{customdata}}: {name.upper()} %{{y:.4g}}<extra></extra>"}  # fmt: skip
    drawn.add_trace(go.Scatter(**line, mode="lines", line={"color": colour, "width": 1.5}))
    peaks = shown[peak].to_numpy().nonzero()[0].tolist()
    dots = {"x": peaks, "y": heights[peaks], "marker": {"color": colour, "size": 7}, **axes}
    drawn.add_trace(go.Scatter(**dots, mode="markers", hoverinfo="skip"))
    names = {spot: _name(tokens[spot]) for spot in peaks}
    for spot in _apart(names, heights, (width - 140) / len(shown)):
        drawn.add_annotation(
            x=spot, y=heights[spot], xref=axes["xaxis"], yref=axes["yaxis"], text=names[spot],
            font={"color": WORDS[colour], "size": 11}, yanchor="bottom", yshift=5, showarrow=False,
            bgcolor=PAPER, borderpad=0,
        )  # fmt: skip


def _name(token: str) -> str:
    """A token as a label: one that is hard to see stands in quotes."""
    bare = token.strip("·")
    return bare if any(letter.isalnum() for letter in bare) else f"“{bare}”"


def _apart(names: dict[int, str], heights: Any, pixels: float) -> list[int]:
    """Peaks to write names at: the highest first, and none that would meet one already there."""
    chosen: list[int] = []
    for peak in sorted(names, key=lambda place: -heights[place]):
        room = [3.2 * (len(names[peak]) + len(names[other])) + 6 for other in chosen]
        if all(abs(peak - other) * pixels >= need
               for other, need in zip(chosen, room, strict=True)):  # fmt: skip
            chosen.append(peak)
    return chosen


def _room(values: Any) -> tuple[float, float]:
    """From 0 to above the highest value, where its name stands."""
    highest = values.max()  # NaN left out
    return 0.0, 1.18 * highest if highest > 0 else 1.0


def _lead_up(drawn: "Figure", shown: "DataFrame", top: float) -> None:
    """A faint line through both panels at each anchor, so that the eye finds what stands before it."""
    for place in shown["anchor"].to_numpy().nonzero()[0].tolist():
        drawn.add_shape(
            type="line", x0=place, x1=place, y0=0, y1=top, xref="x2", yref="paper", layer="below",
            line={"color": FAINT, "width": 1, "dash": "dot"}, opacity=0.6,
        )  # fmt: skip
