"""AtP* (Kramar et al. 2024): attribution patching that survives a saturated softmax and cancellation."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.attribution.contrast import Contrast, Key, Ran, contrast, precise
from interp.attribution.nodes import Nodes, chosen_sites, stacked
from interp.attribution.steps import MODULES
from interp.sites import At, Hook
from interp.trace import Trace

if TYPE_CHECKING:
    from interp.model import Model

STREAM = ("resid_pre", "resid_post")
# What a node's value does to the metric, at its positions and at all of them, given gradients there.
Reading = Callable[[dict[Key, Tensor]], tuple[Tensor, Tensor]]


def key_coefficient(pattern: Tensor, raised: Tensor) -> Tensor:
    """p (e^d - 1) / (1 - p + p e^d): how far one column, raised by d before softmax, moves the mix.

    A row's change of sum_s A[s] g[s] is this times (g[column] - sum_s A[s] g[s]), exactly, also where
    a learned sink has a share of the row.
    """
    up = raised.clamp_min(0)  # e^-up multiplies both sides, so that nothing overflows
    numerator = pattern * (torch.exp(raised - up) - torch.exp(-up))
    whole = (1 - pattern) * torch.exp(-up) + pattern * torch.exp(raised - up)
    return numerator / whole.clamp_min(torch.finfo(whole.dtype).tiny)


def atp_star(
    model: "Model",
    clean: Any,
    corrupted: Any,
    metric: Any,
    *,
    sites: Sequence[str] | str = (*MODULES, "q", "k"),
    stack: str | None = None,
    qk_fix: bool = True,
    grad_drop: bool = True,
) -> Nodes:
    """Attribution patching with both of AtP*'s fixes.

    QK fix: a corrupted query's or key's softmax is computed, and only what comes behind it is
    linearised. A key of one position changes one column; `whole` of k takes the pattern under all
    corrupted keys. GradDrop: one backward for each layer, in which the gradient does not pass that
    layer's attention and MLP, so that what cancels elsewhere shows: `magnitudes` are
    sum over dropped layers of |effect| / (layers - 1). `effects` stay those of the undropped gradient.
    A backward for each layer and one more; four forwards.
    """
    chosen = chosen_sites(sites)
    given = contrast(model, clean, corrupted, metric, stack)
    dropped: dict[str, int | None] = {"layer": None}
    fixed = tuple(site for site in chosen if site in ("q", "k")) if qk_fix else ()
    seen = tuple(dict.fromkeys([*chosen, *STREAM, *(("pattern", "z") if fixed else ())]))
    # A copy, since what a padded row shows of its pattern is not what the layer goes on with.
    copied = [Hook("pattern", lambda value, at: value.clone(), stack=given.stack.name)]
    ran = given.run(*seen, hooks=[*_gates(given, dropped), *(copied if fixed else [])])
    other = given.values(given.corrupted, *chosen)
    layers = {site: ran.trace.layers(site) for site in chosen}
    readings = {
        (site, layer): _linear(ran.trace, other, (site, layer))
        for site in chosen
        for layer in layers[site]
        if site not in fixed
    }
    for site in fixed:
        readings |= _fixed(given, ran.trace, other, site)
    wanted = [("pattern" if site in fixed else site, layer) for site, layer in readings]
    wanted += [(site, layer) for site in STREAM for layer in ran.trace.layers(site)]
    wanted = list(dict.fromkeys(wanted))
    effects, whole = _read(ran.gradients_at(wanted), readings)
    sizes, whole_sizes = _dropped(ran, wanted, readings, dropped) if grad_drop else (
        {key: value.abs() for key, value in effects.items()},
        {key: value.abs() for key, value in whole.items()},
    )  # fmt: skip
    parts = (stacked(one, layers) for one in (effects, whole, sizes, whole_sizes))
    return Nodes("atp_star", layers, *parts)


def _linear(clean: Trace, corrupted: Trace, key: Key) -> Reading:
    change = precise(corrupted[key] - clean[key].detach())

    def reading(grads: dict[Key, Tensor]) -> tuple[Tensor, Tensor]:
        effect = (change * precise(grads[key])).sum(-1)
        return effect, effect.sum(1)

    return reading


def _fixed(given: Contrast, clean: Trace, corrupted: Trace, site: str) -> dict[Key, Reading]:
    """Readings of queries or keys: the patterns that corrupted ones give, in every layer at once."""
    name, layers = given.stack.name, clean.layers(site)
    values = {key: clean[key].detach() for layer in layers for key in [("z", layer)]}
    values |= {(site, layer): corrupted[site, layer] for layer in layers}

    def put(value: Tensor, at: At) -> Tensor:
        # With z as it was, what follows is the clean run, and the next layer's other inputs are clean.
        return values[at.site, at.layer].to(value)

    hooks = [Hook(one, put, layers, name) for one in (site, "z")]
    moved = given.values(given.clean, "pattern", "scores", hooks=hooks)
    before = given.values(given.clean, "scores") if site == "k" else None
    readings: dict[Key, Reading] = {}
    for layer in layers:
        pattern = precise(clean["pattern", layer].detach())
        change = precise(moved["pattern", layer]) - pattern
        if before is None:
            readings[site, layer] = _query(layer, change)
        else:
            raised = precise(moved["scores", layer] - before["scores", layer])
            # A hidden key stays hidden, whatever rounding makes of the difference of two lowest numbers.
            coefficient = key_coefficient(pattern, raised.masked_fill(pattern == 0, 0.0))
            readings[site, layer] = _key(layer, pattern, change, coefficient, given.stack.kv_heads)
    return readings


def _query(layer: int, change: Tensor) -> Reading:
    def reading(grads: dict[Key, Tensor]) -> tuple[Tensor, Tensor]:
        effect = (change * precise(grads["pattern", layer])).sum(-1).transpose(1, 2)
        return effect, effect.sum(1)

    return reading


def _key(
    layer: int, pattern: Tensor, change: Tensor, coefficient: Tensor, kv_heads: int
) -> Reading:
    groups = pattern.shape[1] // kv_heads

    def shared(value: Tensor) -> Tensor:
        """[batch, ..., head] summed over the query heads of each KV head."""
        return value.unflatten(-1, (-1, groups)).sum(-1)

    def reading(grads: dict[Key, Tensor]) -> tuple[Tensor, Tensor]:
        grad = precise(grads["pattern", layer])
        mixed = (pattern * grad).sum(-1, keepdim=True)
        effect = (coefficient * (grad - mixed)).sum(2).transpose(1, 2)
        return shared(effect), shared((change * grad).sum((2, 3)))

    return reading


def _gates(given: Contrast, dropped: dict[str, int | None]) -> list[Hook]:
    """Let a backward pass leave out what one layer adds to the stream, in a graph made once."""

    def gate(value: Tensor, at: At) -> None:
        def shut(grad: Tensor) -> Tensor | None:
            return torch.zeros_like(grad) if dropped["layer"] == at.layer else None

        if value.requires_grad:
            value.register_hook(shut)

    # A decoder's cross attention adds to the same stream.
    names = [given.stack.name, *(["cross"] if given.stack.name == "decoder" else [])]
    return [
        Hook(site, gate, stack=name)
        for name in names
        if name in given.model.stacks
        for site in (("attn_out", "mlp_out") if name != "cross" else ("attn_out",))
    ]


def _read(
    grads: dict[Key, Tensor], readings: dict[Key, Reading]
) -> tuple[dict[Key, Tensor], dict[Key, Tensor]]:
    read = {key: reading(grads) for key, reading in readings.items()}
    return {key: one for key, (one, _) in read.items()}, {
        key: every for key, (_, every) in read.items()
    }


def _dropped(
    ran: Ran, wanted: list[Key], readings: dict[Key, Reading], dropped: dict[str, int | None]
) -> tuple[dict[Key, Tensor], dict[Key, Tensor]]:
    """Mean sizes over backwards without one layer each."""
    layers = ran.trace.layers("resid_pre")
    sizes: dict[Key, Tensor] = {}
    whole_sizes: dict[Key, Tensor] = {}
    share = 1.0 / max(len(layers) - 1, 1)
    for layer in layers:
        dropped["layer"] = layer
        try:
            grads = ran.gradients_at(wanted)
        finally:
            dropped["layer"] = None
        for key in (("attn_out", layer), ("mlp_out", layer)):
            if key in grads:  # the gate shuts behind the value: its own gradient is still there
                grads[key] = torch.zeros_like(grads[key])
        _check_stream(grads, layer)
        for total, found in zip((sizes, whole_sizes), _read(grads, readings), strict=True):
            for key, value in found.items():
                total[key] = total.get(key, torch.zeros_like(value)) + share * value.abs()
    return sizes, whole_sizes


def _check_stream(grads: dict[Key, Tensor], layer: int) -> None:
    """The stream must still lead past a layer whose own contributions are shut."""
    after = grads.get(("resid_post", layer))
    if after is not None and bool(after.any()) and not bool(grads["resid_pre", layer].any()):
        raise ValueError(
            f"what layer {layer} hands on reaches the metric only through its attn_out and mlp_out (the MLP "
            "returns the stream as well), so its contributions cannot be left out; ask with grad_drop=False."
        )
