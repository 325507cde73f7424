"""Attention itself: one head, all heads, a metric over tokens, an image under what is looked at."""

from typing import TYPE_CHECKING, Any

from interp.plots.style import ATTENTION, COVER, INK, WORD, bar, styled, visible

if TYPE_CHECKING:
    from plotly.graph_objects import Figure
    from torch import Tensor

    from interp.trace import Trace


def head_map(pattern: "Tensor", tokens: list[str], title: str = "") -> "Figure":
    """One head large: `pattern` [query, key], rows look at columns."""
    import plotly.graph_objects as go

    if pattern.ndim != 2 or len(tokens) != pattern.shape[1] or not isinstance(tokens[0], str):
        raise ValueError(
            f"head_map takes one head, [query, key], and a token for each key; not {tuple(pattern.shape)} "
            f"and {len(tokens)} tokens. For one head of a trace: trace['pattern', layer][row, head], "
            "trace.prompt.tokens[row]."
        )
    ticks = list(range(len(tokens)))
    labels = [visible(token) for token in tokens]
    figure = go.Figure(
        go.Heatmap(
            z=pattern.detach().float().cpu().numpy(),
            colorscale=ATTENTION,
            zmin=0,
            zmax=1,
            colorbar=bar("attention"),
            hovertemplate="%{y} looks at %{x}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_xaxes(
        tickvals=ticks, ticktext=labels, title="key", tickangle=-60, constrain="domain"
    )
    figure.update_yaxes(
        tickvals=ticks[-pattern.shape[0] :],
        ticktext=labels[-pattern.shape[0] :],
        title="query",
        autorange="reversed",
        scaleanchor="x",
    )
    return styled(figure, title, height=560, width=680)


def head_maps(trace: "Trace", row: int = 0) -> "Figure":
    """Every head of every layer that the trace holds, as thumbnails: layers down, heads across."""
    from plotly.graph_objects import Heatmap
    from plotly.subplots import make_subplots

    layers = _held(trace, "pattern")
    heads = trace["pattern", layers[0]].shape[1]
    tokens = _labels(trace, row, trace["pattern", layers[0]].shape[-1])
    figure = make_subplots(
        rows=len(layers),
        cols=heads,
        column_titles=[f"head {head}" for head in range(heads)],
        row_titles=[f"layer {layer}" for layer in layers],
        horizontal_spacing=0.15 / max(heads, 4),
        vertical_spacing=0.2 / max(len(layers), 4),
    )
    for down, layer in enumerate(layers, start=1):
        maps = trace["pattern", layer][row].detach().float().cpu().numpy()
        for across in range(heads):
            values = {"z": maps[across], "zmin": 0, "zmax": 1, "colorscale": ATTENTION}
            text = _hover(tokens, maps.shape[-1])
            cell = Heatmap(**values, showscale=down == across + 1 == 1, customdata=text,
                           colorbar=bar("attention"),
                           hovertemplate="%{customdata}: %{z:.3f}<extra></extra>")  # fmt: skip
            figure.add_trace(cell, row=down, col=across + 1)
    figure.update_annotations(font={"size": WORD, "color": INK})
    figure.update_xaxes(visible=False, constrain="domain")
    figure.update_yaxes(visible=False, autorange="reversed")
    title = f"{trace.model}: who looks at whom (rows: queries, columns: keys)"
    cell = min(180, max(70, 880 // heads))  # a page wide, while the heads can still be made out
    return styled(figure, title, height=120 + cell * len(layers), width=140 + cell * heads)


def metric_map(trace: "Trace", name: str, row: int = 0) -> "Figure":
    """One metric over the tokens: a line of cells per head, layer by layer."""
    import plotly.graph_objects as go
    import torch

    layers = _held(trace, name)
    if trace[name, layers[0]].ndim != 3:
        raise ValueError(f"{name!r} is no metric; metric_map draws what keep= kept.")
    values = torch.cat([trace[name, layer][row] for layer in layers])
    heads = trace[name, layers[0]].shape[1]
    figure = go.Figure(
        go.Heatmap(
            z=values.detach().float().cpu().numpy(),
            y=[f"{layer}.{head}" for layer in layers for head in range(heads)],
            colorscale=ATTENTION,
            colorbar=bar(name),
            hovertemplate=f"head %{{y}}, %{{x}}: {name} %{{z:.3f}}<extra></extra>",
        )
    )
    tokens = _labels(trace, row, values.shape[1])
    figure.update_xaxes(tickvals=list(range(len(tokens))), ticktext=tokens, tickangle=-60)
    figure.update_yaxes(title="layer.head", autorange="reversed", type="category")
    return styled(figure, f"{name} per token", height=160 + 18 * len(values), width=760)


def image_map(image: Any, heat: "Tensor", title: str = "") -> "Figure":
    """What is looked at on an image: the image, and beside it under a map of `prompt.heatmap`."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    shape = tuple(heat.shape)
    if shape != (image.height, image.width):
        raise ValueError(
            f"image_map takes a map of the image's size, ({image.height}, {image.width}), not {shape}: "
            "prompt.heatmap(row of a pattern)."
        )
    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.04)
    for column in (1, 2):
        figure.add_trace(go.Image(z=image.convert("RGB"), hoverinfo="skip"), row=1, col=column)
    cell = go.Heatmap(
        z=heat.detach().float().cpu().numpy(),
        colorscale=COVER,
        colorbar=bar("attention"),
        hovertemplate="%{z:.3f}<extra></extra>",
    )
    figure.add_trace(cell, row=1, col=2)
    figure.update_xaxes(showticklabels=False, constrain="domain")
    figure.update_yaxes(showticklabels=False, autorange="reversed", constrain="domain")
    figure.update_layout(yaxis_scaleanchor="x", yaxis2_scaleanchor="x2")
    return styled(figure, title, height=380, width=720)


def _held(trace: "Trace", name: str) -> list[int]:
    layers = trace.layers(name)
    if not layers:
        raise ValueError(f"{name!r} is not in this trace. {trace}")
    return layers


def _labels(trace: "Trace", row: int, count: int) -> list[str]:
    """The row's tokens where the positions are theirs, else the positions' numbers."""
    if not 0 <= row < len(trace.prompt):
        raise IndexError(
            f"row {row} is out of range: the prompt has rows 0 to {len(trace.prompt) - 1}."
        )
    tokens = trace.prompt.tokens[row]
    own = trace.stack in ("text", "encoder") or trace.prompt.ids is None
    if own and len(tokens) == count:
        return [visible(token) for token in tokens]
    return [str(place) for place in range(count)]


def _hover(tokens: list[str], keys: int) -> list[list[str]]:
    return [[f"{query} looks at {key}" for key in tokens[:keys]] for query in tokens]
