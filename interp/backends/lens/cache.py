"""Traces as TransformerLens' ActivationCache, and its caches as traces."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from interp.extras import need
from interp.metrics import owns
from interp.sites import SITES
from interp.structure import Stack
from interp.trace import Trace

# Where TransformerLens keeps a stack's layers, and what it calls their attention.
_HOMES = {
    "text": ("blocks", "attn"),
    "encoder": ("encoder_blocks", "attn"),
    "decoder": ("decoder_blocks", "self_attn"),
    "cross": ("decoder_blocks", "cross_attn"),
    "vision": ("vision_encoder.encoder_layers", "attn"),
}
_OF_LAYER = {
    "resid_pre": "hook_resid_pre",
    "resid_post": "hook_resid_post",
    "mlp_out": "mlp.hook_out",
}
_OF_ATTENTION = {
    "v": "hook_v",
    "scores": "hook_attn_scores",
    "pattern": "hook_pattern",
    "z": "hook_z",
    "attn_out": "hook_out",
}
_KEY = re.compile(
    r"(?P<home>(?:\w+\.)*?\w+)\.(?P<layer>\d+)\.(?:(?P<attn>attn|self_attn|cross_attn)\.)?(?P<hook>[\w.]+)"
)
# What each site is called there, best first. On its way to hook_attn_out an output may be normed.
_READ = {
    "resid_pre": ("hook_resid_pre", "hook_in"),
    "resid_post": ("hook_resid_post", "hook_out"),
    "q": ("attn.hook_rot_q", "attn.hook_q", "attn.q.hook_out"),
    "k": ("attn.hook_rot_k", "attn.hook_k", "attn.k.hook_out"),
    "v": ("attn.hook_v", "attn.v.hook_out"),
    "scores": ("attn.hook_attn_scores",),
    "pattern": ("attn.hook_pattern",),
    "z": ("attn.hook_z", "attn.o.hook_in"),
    "attn_out": ("attn.o.hook_out", "attn.hook_out"),
    "mlp_out": ("mlp.hook_out",),
}


def to_cache(trace: Trace, bridge: Any = None) -> Any:
    """See `Trace.to_cache`."""
    need("transformer_lens", "to_cache")
    from transformer_lens import ActivationCache

    return ActivationCache(dict(_named(trace)), bridge)


def _named(trace: Trace) -> Iterator[tuple[str, Tensor]]:
    alone = len({_HOMES[stack][0] for _, _, stack in trace.kept if stack in _HOMES}) == 1
    for site, layer, stack in trace.kept:
        if site not in SITES or stack not in _HOMES:
            continue  # numbers of metrics, and towers that TransformerLens has no name for
        home, attention = _HOMES[stack]
        home = "blocks" if alone and stack in ("encoder", "vision") else home
        value = trace[site, layer, stack].detach()
        if site in ("q", "k"):
            hook = f"hook_rot_{site}" if stack in trace.rotated else f"hook_{site}"
            yield f"{home}.{layer}.{attention}.{hook}", value
        elif site in _OF_ATTENTION:
            yield f"{home}.{layer}.{attention}.{_OF_ATTENTION[site]}", value
        else:
            yield f"{home}.{layer}.{_OF_LAYER[site]}", value
        if site == "resid_pre" and _adds_up(trace, layer, stack):
            yield f"{home}.{layer}.hook_attn_out", trace["attn_out", layer, stack].detach()
            yield f"{home}.{layer}.hook_mlp_out", trace["mlp_out", layer, stack].detach()


def _adds_up(trace: Trace, layer: int, stack: str) -> bool:
    """Whether the stream grows by just what attention and MLP put out, as hook_attn_out has it."""
    sites = ("resid_pre", "attn_out", "mlp_out", "resid_post")
    if any((site, layer, stack) not in trace.kept for site in sites):
        return False
    before, attention, mlp, after = (trace[site, layer, stack] for site in sites)
    close = 1e-3 * after.abs().max()
    return bool((before + attention + mlp - after).abs().max() <= close)


def from_cache(cache: Mapping[str, Tensor], model: Any, prompt: Any) -> Trace:
    """See `Trace.from_cache`."""
    prompt = model._prompt(prompt)
    stacks = list(model.stacks)
    sizes = {name: stack.size for name, stack in model.stacks.items()}
    trace = Trace(prompt, stacks[0], model.name, sizes, model.rotated)
    held: dict[tuple[str, int], dict[str, Tensor]] = {}
    for key, value in dict(cache).items():
        match = _KEY.fullmatch(key)
        stack = None if match is None else _stack(match["home"], match["attn"], stacks)
        if match is not None and stack is not None:
            hook = f"attn.{match['hook']}" if match["attn"] else match["hook"]
            held.setdefault((stack, int(match["layer"])), {})[hook] = value
    for (stack, layer), values in held.items():
        for site, value in _sites(values, stack in model.rotated):
            axes = SITES[site]
            value = value[None] if value.ndim == len(axes) - 1 else value
            check_shape(value, site, layer, model.stacks[stack], prompt)
            if site == "pattern" and owns(stack, prompt):  # padding rows are 0, as everywhere here
                value = value * prompt.mask[:, None, :, None].to(value)
            trace.keep(site, layer, stack, value)
    if len(trace) == 0:
        raise LookupError(
            f"this cache holds nothing of the sites {', '.join(SITES)} of {model.name}; its first names are "
            f"{', '.join(list(dict(cache))[:5])}."
        )
    return trace


def check_shape(value: Tensor, site: str, layer: int, stack: Stack, prompt: Any) -> None:
    """Refuse what cannot be of this prompt on this model."""
    axes = SITES[site]
    known = {"batch": len(prompt), "head": stack.heads, "kv_head": stack.kv_heads}
    if owns(stack.name, prompt, site):
        known |= dict.fromkeys(("position", "query", "key"), prompt.length)
    wrong = [
        f"{name} {size}, not {known[name]}"
        for name, size in zip(axes, value.shape, strict=False)
        if name in known and size != known[name]
    ]
    if value.ndim != len(axes) or wrong:
        raise ValueError(
            f"{site} of layer {layer} of the {stack.name} stack is {tuple(value.shape)}, and cannot be of "
            f"this prompt: [{', '.join(axes)}] has {'; '.join(wrong) or f'{len(axes)} axes'}."
        )


def _stack(home: str, attention: str | None, stacks: list[str]) -> str | None:
    """Which of the model's stacks a home of layers is."""
    found = [name for name, (own, _) in _HOMES.items() if own == home and name in stacks]
    if home == "blocks" and "text" not in stacks:
        return next((name for name in ("encoder", "vision") if name in stacks), None)
    if attention == "cross_attn":
        return "cross" if "cross" in found else None
    return next((name for name in found if name != "cross"), None)


def _sites(values: dict[str, Tensor], rotated: bool) -> Iterator[tuple[str, Tensor]]:
    """Queries and keys before the rotation are no site: attention never sees them."""
    for site, names in _READ.items():
        names = names[:1] if rotated and site in ("q", "k") else names
        value = next((values[name] for name in names if name in values), None)
        if value is not None and site == "scores":
            lowest = torch.finfo(value.dtype).min
            value = value.masked_fill(value <= lowest / 2, lowest)
        if value is not None:
            yield site, value
