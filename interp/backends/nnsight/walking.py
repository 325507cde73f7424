"""What runs inside an nnsight trace: one worker for each module, in step with the model.

This file travels by value to a server that has no interp: it imports torch alone. A courier takes
each value in interp's axes and gives back what is to go on; it is the same object where it only read.
"""

from typing import Any

import torch
from torch import Tensor


class Stop:
    """A module at which values are taken: its envoy, its place, and the sites that are asked for.

    `entering` are (place, site) pairs before the module is called, `leaving` after it. An attention
    has its sites in `entering`. Places are opaque here; the courier knows them.
    """

    def __init__(self, kind: str, envoy: Any, place: Any, entering: Any = (), leaving: Any = ()):
        self.kind, self.envoy, self.place = kind, envoy, place
        self.entering, self.leaving = list(entering), list(leaving)


def walk(tracer: Any, stop: Stop, courier: Any) -> None:
    """Every visit of one module, until the run is over and nnsight ends the worker."""
    visit = visit_attention if stop.kind == "attention" else visit_module
    try:
        for _ in tracer.iter[:]:
            visit(stop, courier)
    except Exception as problem:
        if type(problem).__name__ != "OutOfOrderError":
            raise


def visit_module(stop: Stop, courier: Any) -> None:
    """A layer, an output projection or an MLP: what goes in and what comes out."""
    if stop.kind == "layer":
        enter(stop, courier)
    if not stop.leaving:
        return
    output = stop.envoy.output
    value = after = output[0] if isinstance(output, tuple) else output
    for place, site in stop.leaving:
        after = through(courier, place, site, after)
    if after is not value:
        stop.envoy.output = (after, *output[1:]) if isinstance(output, tuple) else after


def enter(stop: Stop, courier: Any) -> None:
    """The residual stream among a layer's arguments."""
    args, kwargs = stop.envoy.inputs
    name = "" if args else ("hidden_states" if "hidden_states" in kwargs else next(iter(kwargs)))
    value = after = args[0] if args else kwargs[name]
    courier.shape = tuple(value.shape[:2]) if value.ndim > 2 else (1, value.shape[0])
    for place, site in stop.entering:
        after = through(courier, place, site, after)
    if after is not value:
        given = ((after, *args[1:]), kwargs) if args else (args, {**kwargs, name: after})
        stop.envoy.inputs = given


def through(courier: Any, place: Any, site: str, value: Tensor) -> Tensor:
    """Hooks see [batch, position, d_model], whatever the family flattens."""
    if value.ndim > 3:
        raise ValueError(
            f"{site} is {tuple(value.shape)} here, not [batch, position, d_model]: this family keeps "
            "several streams there; it is not served."
        )
    shown = value
    if value.ndim == 2:
        batch, positions = courier.shape
        fits = batch * positions == len(value)
        shown = value.view(batch, positions, -1) if fits else value[None]
    after = courier.deliver(place, site, shown)
    return after.view(value.shape) if goes_on(after, shown) else value


def goes_on(after: Tensor, shown: Tensor) -> bool:
    """Whether the run goes on with it: it was changed, or gradients are to reach what was shown."""
    return after is not shown or (torch.is_grad_enabled() and shown.requires_grad)


def visit_attention(stop: Stop, courier: Any) -> None:
    """One attention call: q, k, v on the way in, scores and pattern inside, z on the way out."""
    asked = {site for _, site in stop.entering}
    call = attention_call(stop.envoy)
    args, kwargs = call.inputs
    parts = dict(zip(("q", "k", "v"), args[1:4], strict=True))
    courier.begin(stop.place, stop.envoy, parts["q"].shape[2], parts["k"].shape[2])
    changed = False
    for site in ("q", "k", "v"):
        if site not in asked:
            continue
        # The cache holds the memory of keys and values, and must not see changes.
        shown = (parts[site] if site == "q" else parts[site].clone()).transpose(1, 2)
        after = courier.deliver(stop.place, site, shown)
        if goes_on(after, shown):
            parts[site], changed = after.transpose(1, 2), True
    if changed:
        call.inputs = ((args[0], *parts.values(), *args[4:]), kwargs)
    if asked & {"scores", "pattern"}:
        mask = args[4] if len(args) > 4 else kwargs.get("attention_mask")
        open_map(stop, courier, asked, inside_of(call, stop.envoy), parts["q"], parts["k"], mask)
    if "z" in asked:
        output = call.output
        after = courier.deliver(stop.place, "z", output[0])
        if after is not output[0]:
            call.output = (after, *output[1:])


def attention_call(envoy: Any) -> Any:
    """The call of the attention function in an attention's forward: the last of that name."""
    labels = [name for name in envoy.source.names if name.startswith("attention_interface_")]
    if not labels:
        raise ValueError(
            f"the forward of {envoy.path} calls nothing by the name attention_interface, so q, k, v, "
            "scores, pattern and z cannot be told there; the sites of the stream can."
        )
    return getattr(envoy.source, labels[-1])


def inside_of(call: Any, envoy: Any) -> tuple[Any, Any]:
    """Inside the attention function that runs: where the scores are whole, and the one softmax."""
    try:
        inside = call.source
        labels = [name for name in inside.names if name.rpartition("_")[0].endswith("softmax")]
    except Exception as problem:
        if type(problem).__name__ != "SourceNotAvailable":
            raise
        inside, labels = None, []
    if inside is None or len(labels) != 1:
        raise ValueError(
            f"the attention of {envoy.path} has {len(labels) or 'no'} softmax that nnsight can show, so "
            "scores and pattern cannot be read or changed: the model runs on a fused kernel such as "
            'sdpa. Open it with attn_implementation="eager".'
        )
    softmax = getattr(inside, labels[0])
    # GPT-OSS takes the largest of a row off its scores before the softmax: they are whole before that.
    return (inside.combined_logits_0 if "combined_logits_0" in inside.names else softmax), softmax


def open_map(
    stop: Stop, courier: Any, asked: Any, inside: Any, query: Tensor, key: Tensor, mask: Any
) -> None:
    """Scores before the softmax, the pattern after it; padding rows of the pattern are shown as 0."""
    scored, softmax = inside
    keys = key.shape[2]
    seen = seen_by(mask, keys)
    if "scores" in asked:
        (whole, *more), options = scored.inputs
        shown = whole[..., :keys]  # a learned sink makes one more column, which stays out of sight
        after = courier.deliver(stop.place, "scores", shown)
        if goes_on(after, shown):
            if seen is not None:  # a change never uncovers what the mask hides
                after = after.masked_fill(~seen, torch.finfo(after.dtype).min)
            scored.inputs = ((torch.cat([after, whole[..., keys:]], -1), *more), options)
    if "pattern" in asked:
        whole = softmax.output
        own = whole[..., :keys].to(query.dtype)
        real = token_rows(seen, stop.place, courier, query.shape[2] == keys)
        shown = own if real is None else own * real
        after = courier.deliver(stop.place, "pattern", shown)
        if goes_on(after, shown):
            after = after if real is None else torch.where(real, after, own)
            softmax.output = torch.cat([after.to(whole), whole[..., keys:]], -1)


def seen_by(mask: Any, keys: int) -> Tensor | None:
    """The mask as True where a key is seen, [batch or 1, head or 1, query, key]."""
    if mask is None:
        return None
    mask = mask[..., :keys]
    return mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2


def token_rows(seen: Tensor | None, place: Any, courier: Any, square: bool) -> Tensor | None:
    """[..., query, 1]: rows that stand for a token; None when all do.

    A padding row sees nothing, or nobody sees its position.
    """
    if seen is None:
        return None
    rows = seen.any(-1, keepdim=True)
    if square and courier.own_keys(place):
        # Padding is at an end: a key that a mask hides from everyone in the middle is a token.
        met = seen.any(-2).int()
        inside = met.cumsum(-1).bool() & met.flip(-1).cumsum(-1).flip(-1).bool()
        rows = rows & inside[..., None]
    return None if bool(rows.all()) else rows
