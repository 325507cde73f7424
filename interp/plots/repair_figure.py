"""The figure of `repair`: accuracy of each condition, and which heads' direct effects change."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import CONTROL, FAINT, INK, SERIES, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

NAMED = 6  # heads with their name beside their point
LINE = 26  # pixels of a condition's row
SEEN = 0.1  # of the ranges of both axes: points nearer than this to 0 are not named
APART = 0.07  # of the panel: names nearer than this in height to one at their side are moved


def figure(result: "Result") -> "Figure":
    """Left: accuracy by condition with 95 % intervals, and a point for each random draw. Right: a point for
    each head, how its direct effect changed against its importance by path patching.
    """
    from plotly.subplots import make_subplots

    heads: Any = result.tables["heads"]
    grid = make_subplots(
        rows=1, cols=2, column_widths=[0.5, 0.5], horizontal_spacing=0.14,
        subplot_titles=["right answers (bars: 95 %; grey: each random draw)",
                        "change of heads' direct effects against their importance"],
    )  # fmt: skip
    _accuracy(grid, result)
    if heads["importance"].notna().any():
        _scatter(grid, heads, "importance", "importance: share by path patching to the logits")
    else:
        _scatter(grid, heads, "before", "direct effect before (no importance is known)")
    grid.update_annotations(font={"size": 12, "color": INK})
    height = 200 + max(LINE * (len(result.table) + 1), 300)
    styled(grid, _title(result), height=height, width=1100, l=110, b=100)
    legend = {"orientation": "h", "x": 0.57, "y": -0.17, "yanchor": "top"}
    return grid.update_layout(legend=legend)


def _title(result: "Result") -> str:
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    table: Any = result.table
    heads = table.loc[table["condition"] == "repaired", "heads"].iloc[0].split()
    listed = ", ".join(heads[:8]) + (", …" if len(heads) > 8 else "")
    count = len(result.tables["records"])
    places = (result.made.get("settings") or {}).get("places", "wrong")
    where = f"{places} answers" if isinstance(places, str) else ", ".join(places)
    return (
        f"Repair of {of or 'the model'}<br>heads {listed} look at {plain(where)}; {count} records"
    )


def _accuracy(grid: Any, result: "Result") -> None:
    import plotly.graph_objects as go

    table: Any = result.table[result.table["condition"] != "random"]
    drawn: Any = result.tables["draws"]
    names = [_called(name) for name in table["condition"]]
    value = table["accuracy"].to_numpy()
    spread = {
        "type": "data", "symmetric": False, "array": table["accuracy_high"].to_numpy() - value,
        "arrayminus": value - table["accuracy_low"].to_numpy(), "color": INK, "thickness": 1.2, "width": 4,
    }  # fmt: skip
    words = [
        f"{int(mended)} mended, {int(broken)} broken"
        for mended, broken in zip(table["mended"], table["broken"], strict=True)
    ]
    if len(drawn):
        grid.add_trace(
            go.Scatter(
                x=drawn["accuracy"], y=["random heads"] * len(drawn), mode="markers",
                marker={"color": CONTROL, "size": 8, "opacity": 0.6}, customdata=drawn["heads"],
                showlegend=False, hovertemplate="%{customdata}: %{x:.3f}<extra></extra>",
            ),
            row=1, col=1,
        )  # fmt: skip
    colours = [SERIES[1] if name == "repaired" else SERIES[0] for name in table["condition"]]
    grid.add_trace(
        go.Scatter(
            x=value, y=names, mode="markers", marker={"color": colours, "size": 9}, error_x=spread,
            customdata=words, showlegend=False,
            hovertemplate="%{y}: %{x:.3f}<br>%{customdata}<extra></extra>",
        ),
        row=1, col=1,
    )  # fmt: skip
    before = float(value[list(table["condition"]).index("plain")])
    grid.add_vline(x=before, line={"color": FAINT, "dash": "dot", "width": 1}, row=1, col=1)
    order = [*names, *(["random heads"] if len(drawn) else [])]
    grid.update_xaxes(
        title={"text": "accuracy (dotted: plain)", "standoff": 4}, range=[-0.03, 1.03], row=1, col=1
    )
    grid.update_yaxes(
        type="category", categoryorder="array", categoryarray=order[::-1],
        range=[-0.6, len(order) - 0.4], row=1, col=1,
    )  # fmt: skip


def _called(condition: str) -> str:
    if condition[0].isdigit():
        return f"{condition} alone"
    return "other tokens" if condition == "elsewhere" else condition


def _scatter(grid: Any, heads: Any, against: str, title: str) -> None:
    import plotly.graph_objects as go

    named = _to_name(heads, against)
    parts = (
        ("written over", heads["repaired"], SERIES[1]),
        ("after them", ~heads["repaired"] & heads["downstream"], SERIES[0]),
        ("not after them", ~heads["repaired"] & ~heads["downstream"], CONTROL),
    )
    for name, chosen, colour in parts:
        own = heads[chosen]
        if not len(own):
            continue
        labels = [f"{layer}.{head}" for layer, head in zip(own["layer"], own["head"], strict=True)]
        shown = [label if label in named else "" for label in labels]
        grid.add_trace(
            go.Scatter(
                x=own[against], y=own["change"], mode="markers+text", name=name, text=shown,
                customdata=labels, textposition=[named.get(label, "top center") for label in labels],
                textfont={"size": 11}, marker={"color": colour, "size": 8}, cliponaxis=False,
                hovertemplate="%{customdata}: %{x:+.3f}, change %{y:+.3f}<extra></extra>",
            ),
            row=1, col=2,
        )  # fmt: skip
    for axis, values in (("x", heads[against]), ("y", heads["change"])):
        low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
        room = 0.12 * (high - low) or 1.0
        getattr(grid, f"update_{axis}axes")(
            range=[low - room, high + room],
            zeroline=True,
            zerolinecolor=FAINT,
            zerolinewidth=1,
            row=1,
            col=2,
        )
    grid.update_xaxes(title={"text": title, "standoff": 4}, row=1, col=2)
    grid.update_yaxes(title="change of direct effect (logits)", row=1, col=2)


def _to_name(heads: Any, against: str) -> dict[str, str]:
    """The heads that stand out, and the side of each where its name has room."""
    wide = float(heads[against].max() - heads[against].min()) or 1.0
    tall = float(heads["change"].max() - heads["change"].min()) or 1.0
    far = ((heads[against] / wide) ** 2 + (heads["change"] / tall) ** 2) ** 0.5
    edge = float(heads[against].max()) / wide
    found: dict[str, str] = {}
    taken: list[tuple[float, float, str]] = []
    for at in far[far > SEEN].sort_values(ascending=False).index[:NAMED]:
        row = heads.loc[at]
        x, y = float(row[against]) / wide, float(row["change"]) / tall
        near = [side for u, v, side in taken if abs(u - x) < 2 * APART and abs(v - y) < APART]
        sides = ("middle right", "middle left", "top center", "bottom center")
        if x > 0.8 * edge:
            sides = sides[1:]
        free = next((side for side in sides if side not in near), None)
        if free is not None and len(near) < 2:
            found[f"{int(row['layer'])}.{int(row['head'])}"] = free
            taken.append((x, y, free))
    return found
