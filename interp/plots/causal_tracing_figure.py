"""The figure of `causal_tracing`: tokens down and layers across, for all records and for one."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import EFFECT, FAINT, INK, bar, plain, short, styled, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

NAMES = {
    "resid_pre": "stream before a layer",
    "resid_post": "stream after a layer",
    "mlp_out": "MLP",
    "attn_out": "attention",
}
WIDE, LINE, GAP = 300, 17, 70  # pixels of a panel's width, of a row of it, between panels
TALLEST, LAYERS = 40, 16  # rows drawn in full, layers with a number
LEAST = 0.01  # the colours reach this far, so that next to nothing looks like it


def figure(result: "Result", record: int | None = None, direction: str | None = None) -> "Figure":
    """Above: mean indirect effects by the token's role. Below: one record, token by token.

    `record` is its number in the task (the first traced one), `direction` "denoise" or "noise" (the
    first there is). Tokens of the subject have a star, as in ROME's figures. One scale a row.
    """
    from plotly.subplots import make_subplots

    direction = str(_known("direction", direction, result.table["direction"]))
    positions: Any = result.tables["positions"]
    record = int(_known("record", record, positions["record"]))
    table: Any = result.table[result.table["direction"] == direction]
    own: Any = positions[(positions["direction"] == direction) & (positions["record"] == record)]
    panels = list(dict.fromkeys(zip(table["kind"], table["severed"], strict=True)))
    means = [_grid(_of(table, panel), "role") for panel in panels]
    singles = [_grid(_of(own, panel), "position") for panel in panels]
    idle = [role for role in means[0].index if all((one.loc[role] == 0).all() for one in means)]
    means = [one.drop(index=idle) for one in means]
    tall = [max(6, 1.2 * len(means[0])), min(TALLEST, max(6, len(singles[0])))]
    grid = make_subplots(
        rows=2, cols=len(panels), shared_yaxes=True, horizontal_spacing=0.03,
        vertical_spacing=GAP / (LINE * sum(tall) + GAP), row_heights=tall,
        subplot_titles=[_title(table, panel) for panel in panels],
    )  # fmt: skip
    tokens = own.drop_duplicates("position").sort_values("position")
    starred = [
        f"{plain(short(visible(token)))}{'*' if 'subject token' in role else ''}"
        for token, role in zip(tokens["token"], tokens["role"], strict=True)
    ]
    metric = (result.made.get("settings") or {}).get("metric", "metric")
    _draw(grid, 1, means, [str(role) for role in means[0].index])
    _draw(grid, 2, singles, starred)
    grid.update_annotations(font={"size": 12, "color": INK})
    title = _heading(result, direction, record, metric)
    height = int(LINE * sum(tall)) + GAP + 160
    return styled(grid, title, height=height, width=270 + WIDE * len(panels), above=46, l=170)


def _known(noun: str, asked: Any, there: Any) -> Any:
    found = list(dict.fromkeys(there))
    if asked is not None and asked not in found:
        listed = ", ".join(str(one) for one in found[:20])
        raise LookupError(f"no {noun} {asked!r} in this result. There are: {listed}.")
    return found[0] if asked is None else asked


def _of(table: Any, panel: tuple[str, str]) -> Any:
    return table[(table["kind"] == panel[0]) & (table["severed"] == panel[1])]


def _grid(table: Any, rows: str) -> Any:
    """Rows in the order in which they come: roles as in the table, positions as in the text."""
    order = list(dict.fromkeys(table[rows]))
    return table.pivot(index=rows, columns="layer", values="effect").loc[order]


def _title(table: Any, panel: tuple[str, str]) -> str:
    kind, severed = panel
    if severed:
        return f"{NAMES[kind]},<br>later {NAMES[severed]} outputs held"
    wide = int(_of(table, panel)["window"].iloc[0])
    window = f"{wide} layers around it" if wide > 1 else "one layer"
    return f"{NAMES[kind]}" if kind.startswith("resid") else f"{NAMES[kind]}, {window}"


def _heading(result: "Result", direction: str, record: int, metric: str) -> str:
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    denoise = direction == "denoise"
    way = (
        "clean states put into the corrupted run"
        if denoise
        else "corrupted states put into the clean run"
    )
    does = f"how much {metric} one state {'brings back' if denoise else 'takes away'}"
    count = len(result.tables["records"])
    return (
        f"Causal tracing of {of or 'the model'}: {way}"
        f"<br>{does}. Above: means over {count} records by role; below: record {record}"
    )


def _draw(grid: Any, row: int, tables: list[Any], names: list[str]) -> None:
    import plotly.graph_objects as go

    largest = max(LEAST, *(float(one.abs().max().max()) for one in tables))
    spot = grid.get_subplot(row, 1).yaxis.domain
    for column, table in enumerate(tables, start=1):
        cell = go.Heatmap(
            z=table.to_numpy(), x=[str(layer) for layer in table.columns], y=list(range(len(table))),
            customdata=[[name] * table.shape[1] for name in names],
            colorscale=EFFECT, zmin=-largest, zmid=0, zmax=largest, xgap=1, ygap=1,
            showscale=column == len(tables),
            colorbar=bar("", len=spot[1] - spot[0], y=spot[0], yanchor="bottom", nticks=5),
            hovertemplate="%{customdata}, layer %{x}: %{z:+.4f}<extra></extra>",
        )  # fmt: skip
        grid.add_trace(cell, row=row, col=column)
        step = -(-table.shape[1] // LAYERS)
        grid.update_xaxes(
            title={"text": "layer", "standoff": 4, "font": {"size": 12}}, type="category",
            tickvals=[str(layer) for layer in table.columns[::step]], row=row, col=column,
        )  # fmt: skip
        grid.update_yaxes(
            tickvals=list(range(len(names))), ticktext=names, autorange="reversed",
            linecolor=FAINT, row=row, col=column,
        )  # fmt: skip
