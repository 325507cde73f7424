"""The figure of `fcct`: groups of tokens down and layers across, a map for each component."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import EFFECT, INK, bar, plain, styled

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

    from interp.result import Result

NAMES = {
    "attn_out": "attention (MHSA)",
    "mlp_out": "MLP",
    "resid_post": "stream after a layer",
    "resid_pre": "stream before a layer",
}
WIDE, LINE = 310, 30  # pixels of a panel and of a row
NUMBERED, LAYERS = 8, 16  # layers with numbers in their cells, layers with a label
LEAST = 1.0  # the colours reach all of the answer, or further where a rate does
SEEN = 0.005


def figure(result: "Result") -> "Figure":
    """Mean recovery rates: 1 brings back all that corrupting the image took, below 0 takes more.

    Numbers stand where the 95 % interval over records holds no 0.
    """
    from plotly.subplots import make_subplots

    table: Any = result.table
    components = list(dict.fromkeys(table["component"]))
    grid = make_subplots(
        rows=1, cols=len(components), shared_yaxes=True, horizontal_spacing=0.03,
        subplot_titles=[f"<b>{NAMES[one]}</b>" for one in components],
    )  # fmt: skip
    labels = _labels(result)
    largest = max(LEAST, float(table["rate"].abs().max()))
    for column, component in enumerate(components, start=1):
        _map(grid, table[table["component"] == component], column, largest, labels)
    grid.update_annotations(font={"size": 12, "color": INK})
    of = " on ".join(
        plain(str(result.made[key])) for key in ("model", "task") if result.made.get(key)
    )
    records: Any = result.tables["records"]
    kept = int(records["kept"].sum())
    title = (
        f"FCCT of {of or 'the model'}: how much of the answer each restoration recovers"
        f"<br>mean recovery rates over {kept} records; 0: as with the corrupted image, 1: as with the "
        "clean one"
    )
    wide = 270 + WIDE * len(components)
    return styled(grid, title, height=LINE * len(labels) + 165, width=wide, l=170)


def _labels(result: "Result") -> dict[str, str]:
    """Groups in their order, with how many tokens they have."""
    groups: Any = result.tables["groups"]
    sizes = groups.set_index("group")["tokens"]
    order = dict.fromkeys(result.table["group"])
    return {group: f"{group} ({_count(float(sizes[group]))})" for group in order}


def _count(tokens: float) -> str:
    return f"{tokens:.0f}" if tokens == round(tokens) or tokens >= 10 else f"{tokens:.1f}"


def _map(grid: Any, own: Any, column: int, largest: float, labels: dict[str, str]) -> None:
    import plotly.graph_objects as go

    rate, low, high = (
        own.pivot(index="group", columns="layer", values=name).loc[list(labels)]
        for name in ("rate", "low", "high")
    )
    sure = ((low > 0) | (high < 0)).to_numpy()
    text = [
        [_said(value) if known else "" for value, known in zip(*line, strict=True)]
        for line in zip(rate.to_numpy(), sure, strict=True)
    ]
    cell = go.Heatmap(
        z=rate.to_numpy(), x=[str(layer) for layer in rate.columns], y=list(labels.values()),
        colorscale=EFFECT, zmin=-largest, zmid=0, zmax=largest, xgap=1, ygap=1,
        text=text, texttemplate="%{text}" if rate.shape[1] <= NUMBERED else None, textfont={"size": 10},
        showscale=column == 1, colorbar=bar("", x=1.01, xanchor="left"),
        customdata=[[f"95 %: {a:+.3f} to {b:+.3f}" for a, b in zip(*ends, strict=True)]
                    for ends in zip(low.to_numpy(), high.to_numpy(), strict=True)],
        hovertemplate="%{y}, layer %{x}: %{z:+.3f}<br>%{customdata}<extra></extra>",
    )  # fmt: skip
    grid.add_trace(cell, row=1, col=column)
    step = -(-rate.shape[1] // LAYERS)
    grid.update_xaxes(
        title={"text": "layer", "standoff": 4, "font": {"size": 12}}, type="category",
        tickvals=[str(layer) for layer in rate.columns[::step]], row=1, col=column,
    )  # fmt: skip
    grid.update_yaxes(type="category", autorange="reversed", row=1, col=column)


def _said(value: float) -> str:
    return "" if abs(value) < SEEN else f"{value:+.2f}".replace("0.", ".")
