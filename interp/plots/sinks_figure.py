"""Sinks: which heads rest on the first position, and what marks the tokens that take attention."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import ATTENTION, EFFECT, INK, bar, plain, short, styled, ticks, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

NUMBERED = 10  # heads in a layer beyond which numbers do not fit into their cells
ROWS, COLUMNS = 12, 5  # resting heads to show at most, and domains beyond which labels do not fit
# Column of the token table, its title, its colours, and where the scale is centred or ends.
PANELS = (
    ("alpha", "attention that a token gets (mean over heads)", ATTENTION, {"zmin": 0, "zmax": 1}),
    ("drain", "value: what it writes, others = 1", EFFECT, {"zmin": 0, "zmid": 1, "zmax": 2}),
    ("peak", "size in the residual stream, largest other = 1", ATTENTION, {"zmin": 0, "zmax": 2}),
)


def figure(
    result: "Result", record: int = 0, domain: str | None = None, stack: str | None = None
) -> "Figure":
    """Left: attention on the first position by head, and what silencing resting heads costs.

    Right: one text's tokens, layer by layer.
    """
    from plotly.subplots import make_subplots

    own = _chosen(result, domain, stack)
    if "tokens" not in result.tables:
        raise LookupError("no text was kept to be drawn; ask again with shown=1 or more.")
    heads, tokens = (_of(table, own) for table in (result.table, result.tables["tokens"]))
    tokens = tokens[tokens["record"] == record]
    if not len(tokens):
        known = sorted(set(_of(result.tables["tokens"], own)["record"]))
        raise LookupError(f"record {record} was not kept; there are {known} (shown= keeps more).")
    panels = [panel for panel in PANELS if panel[0] in tokens]
    rest = result.tables.get("rest")
    has_rest = rest is not None and own["stack"] in set(rest["stack"][rest["effect"].notna()])
    grid = make_subplots(
        rows=3,
        cols=2,
        column_widths=[0.3, 0.7],
        specs=[[{}, {}], [{"rowspan": 2} if has_rest else None, {}], [None, {}]],
        subplot_titles=_titles(panels, has_rest),
        horizontal_spacing=0.13,
        vertical_spacing=0.12,
    )  # fmt: skip
    _heads(grid, heads)
    if has_rest:
        assert rest is not None
        _rest(grid, rest)
    for row, panel in enumerate(panels, start=1):
        _tokens(grid, tokens, panel, row, last=row == len(panels))
    if "massive" in result.tables:
        massive = _of(result.tables["massive"], own)
        _massive(grid, massive[massive["massive"] & (massive["record"] == record)], len(panels))
    title = (
        f"{plain(str(result.made.get('model') or ''))}: attention sinks in {plain(own['domain'])}, "
        f"{own['stack']} stack"
    )
    grid.update_annotations(font={"size": 12, "color": INK})
    return styled(grid, title, height=735, width=1180, b=75)


def _chosen(result: "Result", domain: str | None, stack: str | None) -> dict[str, str]:
    """The domain and stack to show: the named ones, or the first there are."""
    chosen = {}
    for name, asked in (("domain", domain), ("stack", stack)):
        known = list(dict.fromkeys(result.table[name]))
        preferred = "text" if name == "stack" and "text" in known else known[0]
        if asked is not None and asked not in known:
            raise LookupError(f"no {name} {asked!r} in this result. There are: {', '.join(known)}.")
        chosen[name] = asked or preferred
    return chosen


def _of(table: Any, own: dict[str, str]) -> Any:
    return table[(table["domain"] == own["domain"]) & (table["stack"] == own["stack"])]


def _titles(panels: list[Any], has_rest: bool) -> list[str]:
    left = ["first position's share, by head", "loss when one head is silenced"]
    right = [panel[1] for panel in panels] + [""] * (3 - len(panels))
    if has_rest:
        return [left[0], right[0], left[1], right[1], right[2]]
    return [left[0], *right]


def _heads(grid: Any, heads: Any) -> None:
    import plotly.graph_objects as go

    table = heads.pivot(index="layer", columns="head", values="alpha_first")
    cell = go.Heatmap(
        z=table.to_numpy(), x=[str(head) for head in table.columns], y=[str(layer) for layer in table.index],
        colorscale=ATTENTION, zmin=0, zmax=1, showscale=False,
        texttemplate="%{z:.2f}" if table.shape[1] <= NUMBERED else None,
        textfont={"size": 10}, hovertemplate="layer %{y}, head %{x}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=1, col=1)
    grid.update_xaxes(title={"text": "head", "standoff": 2}, type="category", row=1, col=1)
    grid.update_yaxes(title="layer", type="category", autorange="reversed", row=1, col=1)


def _rest(grid: Any, rest: Any) -> None:
    """Loss changes of the heads that rest somewhere: rows are heads, columns domains."""
    import plotly.graph_objects as go

    own = rest[rest["effect"].notna()].copy()
    own["name"] = own["layer"].astype(str) + "." + own["head"].astype(str)
    domains, names = (list(dict.fromkeys(own[column])) for column in ("domain", "name"))
    effect = own.pivot(index="name", columns="domain", values="effect").loc[names, domains]
    if len(effect) > ROWS:  # those that matter most, in their order
        kept = set(effect.abs().max(axis=1).sort_values(ascending=False).index[:ROWS])
        effect = effect.loc[[name for name in names if name in kept]]
    label = own.pivot(index="name", columns="domain", values="label").reindex_like(effect)
    largest = max(0.1, float(effect.abs().max().max()))
    roomy = effect.shape[1] <= COLUMNS
    words = [[f"{_signed(value)} {name}" if roomy else _signed(value)
              for value, name in zip(row, names, strict=True)]
             for row, names in zip(effect.to_numpy(), label.to_numpy(), strict=True)]  # fmt: skip
    cell = go.Heatmap(
        z=effect.to_numpy(), x=[plain(short(str(name))) for name in effect.columns], y=list(effect.index),
        colorscale=EFFECT, zmin=-largest, zmax=largest, zmid=0, showscale=False, text=words,
        texttemplate="%{text}", textfont={"size": 9},
        hovertemplate="head %{y} in %{x}: loss %{z:+.3f} nats<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=2, col=1)
    grid.update_xaxes(type="category", row=2, col=1)
    grid.update_yaxes(title="layer.head", type="category", autorange="reversed", row=2, col=1)


def _signed(value: float) -> str:
    return f"{value:+.2f}" if abs(value) >= 0.005 else "0"


def _tokens(grid: Any, tokens: Any, panel: Any, row: int, last: bool) -> None:
    import plotly.graph_objects as go

    name, _, scale, limits = panel
    table = tokens.pivot(index="layer", columns="position", values=name)
    if name == "alpha":  # in a long text all but a few get next to nothing
        limits = {"zmin": 0, "zmax": min(1.0, max(0.05, float(table.stack().quantile(0.99))))}
    words = tokens.drop_duplicates("position").sort_values("position")["token"]
    labels = [visible(token) for token in words]
    places, shown = ticks(list(words))
    top = 1 - (row - 1) * 0.373
    cell = go.Heatmap(
        z=table.to_numpy(), x=list(table.columns), y=[str(layer) for layer in table.index],
        colorscale=scale, **limits, colorbar=bar("", len=0.27, y=top, yanchor="top"),
        customdata=[labels] * len(table),
        hovertemplate="layer %{y}, %{customdata}: %{z:.3f}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=row, col=2)
    shown = shown if last else [""] * len(shown)
    grid.update_xaxes(tickvals=places, ticktext=shown, tickangle=-60, row=row, col=2)
    grid.update_yaxes(title="layer", type="category", autorange="reversed", row=row, col=2)


def _massive(grid: Any, found: Any, row: int) -> None:
    """Massive activations as stars where they are, with their channel."""
    import plotly.graph_objects as go

    if not len(found):
        return
    marks = go.Scatter(
        x=found["position"], y=found["layer"].astype(str), mode="markers+text",
        marker={"symbol": "star", "size": 11, "color": INK}, text=[f"ch {c}" for c in found["channel"]],
        textposition="middle right", textfont={"size": 10}, showlegend=False,
        hovertemplate="massive: %{text}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(marks, row=row, col=2)
