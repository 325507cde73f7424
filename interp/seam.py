"""The one function that transformers calls for every attention of a wrapped model.

Asked nothing in this context, it hands over to the implementation the model would have used. Asked
something, it reads, changes and reduces on the way. It is registered as an attention AND as a mask:
a name without a mask entry makes transformers drop the padding mask in silence.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.eager import agrees, eager_of, tapped_eager
from interp.live import LIVE, RUN, Place, Placed, Session, hooks_at, pass_through, sessions_of
from interp.metrics import Block, Extent
from interp.rows import BLOCK_ROWS, Call, default_scaling, streamed, whole

OVER_SDPA, OVER_EAGER = "interp", "interp_eager"

# Keyword arguments that change the arithmetic. Any other non-empty one is only for fused kernels.
_UNKNOWN_ARITHMETIC = ("indices", "block_indices", "sinks")


def over_sdpa(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The seam of a model that runs on SDPA when nothing is asked."""
    place, sessions = sessions_of(module) if LIVE.get() else (None, [])
    if place is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attend(
        module, query, key, value, attention_mask, place, sessions, sdpa_attention_forward, options
    )


def over_eager(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The seam of a family that has no SDPA path (soft caps, learned sinks)."""
    eager: Any = eager_of(module)
    place, sessions = sessions_of(module) if LIVE.get() else (None, [])
    if place is None:
        return eager(module, query, key, value, attention_mask, **options)
    return attend(module, query, key, value, attention_mask, place, sessions, eager, options)


ALL_ATTENTION_FUNCTIONS.register(OVER_SDPA, over_sdpa)
ALL_ATTENTION_FUNCTIONS.register(OVER_EAGER, over_eager)
ALL_MASK_ATTENTION_FUNCTIONS.register(OVER_SDPA, sdpa_mask)
ALL_MASK_ATTENTION_FUNCTIONS.register(OVER_EAGER, eager_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    place: Place,
    sessions: list[Session],
    idle: Any,
    options: dict[str, Any],
) -> tuple[Tensor, None]:
    """One attention call under hooks and metrics. Returns [batch, query, head, d_value]."""
    hooks = {
        site: hooks_at(place, site, sessions) for site in ("q", "k", "v", "scores", "pattern", "z")
    }
    metrics = [
        (watched.metric, watched.collect)
        for session in sessions
        for watched in session.metrics
        if watched.stack == place.stack and place.layer in watched.layers
    ]
    first, first_key = _positions(module, place, query, key)
    query = _turned(query, hooks["q"], place, first, first_key)
    key = _turned(key, hooks["k"], place, first, first_key)
    value = _turned(value, hooks["v"], place, first, first_key)
    if hooks["scores"] or hooks["pattern"] or metrics:
        call = read_call(module, query, key, value, mask, options)
        call.own_keys = "cross" not in place.stack
        output = _open(module, call, hooks, metrics, place, first, first_key, options)
    else:
        output, _ = idle(module, query, key, value, mask, **options)
    return pass_through(output, hooks["z"], place, first=first, first_key=first_key), None


def _turned(value: Tensor, hooks: list[Placed], place: Place, first: int, first_key: int) -> Tensor:
    """Hooks see [batch, position, head, d_head]; transformers passes heads before positions."""
    if not hooks:
        return value
    return pass_through(
        value.transpose(1, 2), hooks, place, first=first, first_key=first_key
    ).transpose(1, 2)


def _positions(module: nn.Module, place: Place, query: Tensor, key: Tensor) -> tuple[int, int]:
    """Absolute positions of the first query and the first key.

    A tower that splits one sequence into several calls (windows, images) counts on from the last.
    """
    run, queries, keys = RUN.get(), query.shape[2], key.shape[2]
    if place.causal or place.stack == "cross":
        first = run.first if run is not None else 0
        return first, max(0, first + queries - keys) if place.causal else 0
    if run is None:
        return 0, 0
    seen = run.visits.get(module, (0, 0))
    run.visits[module] = (seen[0] + queries, seen[1] + keys)
    return seen


def read_call(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    options: dict[str, Any],
) -> Call:
    """What transformers passed, with SDPA's own reading of what it left out."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = bool(query.shape[2] > 1 and mask is None and causal)
    bias = options.get("position_bias")
    if (
        causal and key.shape[2] > query.shape[2]
    ):  # an empty static cache: the rest holds nothing yet
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
        bias = None if bias is None else bias[..., : query.shape[2]]
    scaling = options.get("scaling")
    sinks = options.get("s_aux")
    if mask is not None and mask.shape[-1] > key.shape[2]:
        mask = mask[..., : key.shape[2]]
    return Call(
        query,
        key,
        value,
        mask,
        causal,
        default_scaling(query) if scaling is None else float(scaling),
        float(options.get("dropout") or 0.0) if module.training else 0.0,
        options.get("softcap"),
        bias,
        sinks,
    )


def _open(
    module: nn.Module,
    call: Call,
    hooks: dict[str, list[Placed]],
    metrics: list,
    place: Place,
    first: int,
    first_key: int,
    options: dict[str, Any],
) -> Tensor:
    """Attention with its maps in the open: streamed when only metrics want them."""
    maps = hooks["scores"] + hooks["pattern"]
    read, finish = _collectors(call, metrics, place, first, first_key)
    extras = {
        name: options[name] for name in ("softcap", "position_bias", "s_aux") if name in options
    }
    strange = [name for name in _UNKNOWN_ARITHMETIC if options.get(name) is not None]
    if strange or not agrees(module, call, extras):
        output = _through_eager(module, call, hooks, read, place, first, first_key, options)
    elif not maps and not call.dropout:
        output = streamed(call, read)
    else:

        def edit(site: str) -> Any:
            if not hooks[site]:
                return None
            return lambda value, top: pass_through(
                value, hooks[site], place, first=first + top, first_key=first_key
            )

        rows = BLOCK_ROWS if all(placed.hook.rows for placed in maps) else None
        output = whole(call, edit("scores"), edit("pattern"), read if metrics else None, rows)
    finish()
    return output


def _through_eager(
    module: nn.Module,
    call: Call,
    hooks: dict[str, list[Placed]],
    read: Any,
    place: Place,
    first: int,
    first_key: int,
    options: dict[str, Any],
) -> Tensor:
    def edit_scores(scores: Tensor) -> Tensor:
        return pass_through(scores, hooks["scores"], place, first=first, first_key=first_key)

    def edit_pattern(pattern: Tensor) -> Tensor:
        pattern = pass_through(pattern, hooks["pattern"], place, first=first, first_key=first_key)
        every = slice(None)
        read(Block(pattern.detach(), None, slice(0, pattern.shape[2]), 0, every, every))
        return pattern

    passed = {name: item for name, item in options.items() if name not in ("scaling", "dropout")}
    return tapped_eager(module, call, passed, edit_scores, edit_pattern)


def _looks_ahead(call: Call) -> bool:
    """Whether the mask lets a row see later keys, as prefixes of image tokens do in PaliGemma."""
    if call.mask is None:
        return False
    mask = call.mask
    if mask.dtype != torch.bool:
        mask = mask > torch.finfo(mask.dtype).min / 2
    return bool(mask.triu(mask.shape[-1] - mask.shape[-2] + 1).any())


def _collectors(call: Call, metrics: list, place: Place, first: int, first_key: int) -> Any:
    """A reader that feeds every metric, and the step that hands their results over."""
    batch, heads, queries, _ = call.query.shape
    causal = place.causal and not _looks_ahead(call)
    extent = Extent(
        batch, heads, queries, call.key.shape[2], first, first_key, causal, call.query.device
    )
    totals = [metric.start(extent) for metric, _ in metrics]

    def read(block: Block) -> None:
        with torch.no_grad():
            for (metric, _), total in zip(metrics, totals, strict=True):
                metric.add(total, block, extent)

    def finish() -> None:
        for (metric, collect), total in zip(metrics, totals, strict=True):
            collect(metric.finish(total, extent), place)

    return read, finish
