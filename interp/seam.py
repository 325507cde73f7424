"""The one function that transformers calls for every attention of a wrapped model.

Asked nothing in this context, it hands over to the implementation the model would have used. Asked
something, it reads, changes and reduces on the way. It is registered as an attention AND as a mask:
a name without a mask entry makes transformers drop the padding mask in silence.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from interp.collecting import collectors
from interp.eager import agrees, eager_of, tapped_eager
from interp.live import (
    LIVE,
    RUN,
    Carrier,
    Place,
    Placed,
    Watched,
    carrier_of,
    hooks_at,
    pass_through,
    positions_of,
    sessions_of,
)
from interp.metrics import AXES, Block
from interp.rows import (
    BLOCK_ROWS,
    Call,
    Span,
    default_scaling,
    hide,
    put_back,
    streamed,
    whole,
)
from interp.sites import ATTENTION_SITES, MAP_SITES, head_axis
from interp.splicing import part_of, spliced
from interp.spread import Split

OVER_SDPA, OVER_EAGER = "interp", "interp_eager"

# Keyword arguments that change the arithmetic; all others speak to fused kernels.
_KNOWN_ARITHMETIC = ("softcap", "position_bias", "s_aux")
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
    passage = _asked(module, query, key, options) if LIVE.get() else None
    if passage is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return attend(passage, query, key, value, attention_mask, sdpa_attention_forward)


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
    passage = _asked(module, query, key, options) if LIVE.get() else None
    if passage is None:
        return eager(module, query, key, value, attention_mask, **options)
    return attend(passage, query, key, value, attention_mask, eager)


ALL_ATTENTION_FUNCTIONS.register(OVER_SDPA, over_sdpa)
ALL_ATTENTION_FUNCTIONS.register(OVER_EAGER, over_eager)
ALL_MASK_ATTENTION_FUNCTIONS.register(OVER_SDPA, sdpa_mask)
ALL_MASK_ATTENTION_FUNCTIONS.register(OVER_EAGER, eager_mask)


@dataclass(frozen=True)
class Passage:
    """One attention call on its way past hooks and metrics."""

    module: nn.Module
    place: Place
    hooks: dict[str, list[Placed]]  # by site
    metrics: list[Watched]
    first: int  # absolute position of the first query
    first_key: int  # and of the first key
    options: dict[str, Any]  # what transformers passed by keyword
    carrier: Carrier | None = None
    start: int = 0  # absolute position of the prompt
    split: Split | None = None  # the call holds these of the model's heads
    known: bool | None = None  # whether the arithmetic is the seam's, where that was tried

    def through(
        self, site: str, value: Tensor, top: int = 0, heads: tuple[int, ...] | None = None
    ) -> Tensor:
        """The value after the site's hooks; `top` counts the call's rows before it."""
        hooks = self.hooks[site]
        if not hooks:
            return value
        see = functools.partial(
            pass_through,
            hooks=hooks,
            place=self.place,
            first=self.first + top,
            first_key=self.first_key,
            heads=heads,
        )
        if self.split is None:
            return see(value)
        axis = head_axis(site)
        assert axis is not None
        return self.split.shown(value, axis, see)

    @property
    def across(self) -> bool:
        """Whether something is asked that takes all heads of the call at once."""
        maps = self.hooks["scores"] or self.hooks["pattern"]
        return bool(maps) or self.carrier is not None or not all(map(_by_head, self.metrics))

    def turned(self, site: str, value: Tensor) -> Tensor:
        """The same for q, k, v: hooks see positions before heads, transformers heads before them."""
        if not self.hooks[site]:
            return value
        if site in ("k", "v"):
            value = value.clone()  # the cache holds the same memory, and must not see changes
        return self.through(site, value.transpose(1, 2)).transpose(1, 2)


def _asked(
    module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]
) -> Passage | None:
    """What this context asks of this call; None when it asks nothing."""
    place, sessions = sessions_of(module)
    if place is None:
        return None
    hooks = {site: hooks_at(place, site, sessions) for site in ATTENTION_SITES[:-1]}
    metrics = [
        watched
        for session in sessions
        for watched in session.metrics
        if watched.stack == place.stack and place.layer in watched.layers
    ]
    carrier = carrier_of(sessions)
    if not metrics and carrier is None and not any(hooks.values()):
        return None
    queries = query.shape[2]
    first, first_key = positions_of(module, place, queries, key.shape[2])
    run = RUN.get()
    start = (run.start or 0) if run is not None else 0
    for site in MAP_SITES:
        if hooks[site]:
            hooks[site] = [one for one in hooks[site] if one.shows(first, queries, start)]
    split = place.split if place.split is not None and place.split.divides(query, key) else None
    return Passage(module, place, hooks, metrics, first, first_key, options, carrier, start, split)


def _by_head(watched: Watched) -> bool:
    return "head" in AXES.get(watched.metric.per, ())


def _check_by_head(passage: Passage) -> None:
    for watched in passage.metrics:
        if not _by_head(watched):
            raise ValueError(
                f"{watched.metric.name} reads all heads of a map at once, and "
                f"{type(passage.module).__name__} has an arithmetic of its own, of which each process knows "
                "its own heads alone: not served under tensor parallelism. Give a metric of single heads, or "
                "open the model in one process."
            )


def attend(
    passage: Passage,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    idle: Callable[..., tuple[Tensor, Any]],
) -> tuple[Tensor, None]:
    """One attention call under hooks and metrics. Returns [batch, query, head, d_value]."""
    if passage.split is not None and passage.across:
        return _across(passage, passage.split, query, key, value, mask, idle)
    return _attend(passage, query, key, value, mask, idle), None


def _across(
    passage: Passage,
    split: Split,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    idle: Callable[..., tuple[Tensor, Any]],
) -> tuple[Tensor, None]:
    """The call with the heads of all processes: each makes the maps that hooks are shown by itself.

    Queries, keys and values travel, and maps do not; what is plain is made where its heads are.
    """
    known = known_arithmetic(passage, read_call(passage, query, key, value, mask))
    if not known:  # the family's own function, which may hold numbers of its own heads only
        _check_by_head(passage)
        own = replace(passage, known=False)
        return _attend(own, query, key, value, mask, idle), None

    def plain(module: nn.Module, *parts: Tensor | None, **_: Any) -> tuple[Tensor, None]:
        own = [split.own(part, 1) for part in parts[:3] if part is not None]
        return split.gathered(idle(module, *own, mask, **passage.options)[0], 2), None

    options = dict(passage.options)
    for name, axis in (("s_aux", 0), ("position_bias", 1)):  # numbers of each head
        if options.get(name) is not None:
            options[name] = split.gathered(options[name], axis)
    whole_mask = mask if mask is None or mask.shape[1] == 1 else split.gathered(mask, 1)
    whole_call = replace(passage, split=None, known=known, options=options)
    query, key, value = (split.gathered(part, 1) for part in (query, key, value))
    return split.own(_attend(whole_call, query, key, value, whole_mask, plain), 2), None


def _attend(
    passage: Passage,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    idle: Callable[..., tuple[Tensor, Any]],
) -> Tensor:
    query = passage.turned("q", query)
    key = passage.turned("k", key)
    value = passage.turned("v", value)

    def mixed() -> Tensor:
        def plain() -> Tensor:
            return idle(passage.module, query, key, value, mask, **passage.options)[0]

        if passage.hooks["scores"] or passage.hooks["pattern"] or passage.metrics:
            output = _open(passage, read_call(passage, query, key, value, mask), plain)
        else:
            output = plain()
        return passage.through("z", output)

    if passage.carrier is not None:
        return passage.carrier.attention(passage, mixed, (query, key, value, mask))
    return mixed()


def read_call(
    passage: Passage, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None
) -> Call:
    """What transformers passed, with SDPA's own reading of what it left out."""
    module, options = passage.module, passage.options
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    causal = bool(query.shape[2] > 1 and mask is None and causal)
    bias = options.get("position_bias")
    if causal and key.shape[2] > query.shape[2]:
        # A static cache before its first token: the keys past the queries hold nothing yet.
        key, value = key[:, :, : query.shape[2]], value[:, :, : query.shape[2]]
        bias = None if bias is None else bias[..., : query.shape[2]]
    if mask is not None and mask.shape[-1] > key.shape[2]:
        mask = mask[..., : key.shape[2]]
    scaling = options.get("scaling")
    return Call(
        query,
        key,
        value,
        mask,
        causal,
        scaling=default_scaling(query) if scaling is None else float(scaling),
        dropout=float(options.get("dropout") or 0.0) if module.training else 0.0,
        softcap=options.get("softcap"),
        bias=bias,
        sinks=options.get("s_aux"),
        own_keys="cross" not in passage.place.stack,
    )


def _open(passage: Passage, call: Call, plain: Callable[[], Tensor]) -> Tensor:
    """Attention with its maps in the open: streamed when only metrics want them."""
    hooks = passage.hooks
    maps = hooks["scores"] + hooks["pattern"]
    if not passage.metrics and not call.dropout and not call.wants_gradient:
        part = part_of(maps, call, passage.first, passage.start)
        if part is not None and known_arithmetic(passage, call):
            scores, pattern = (
                functools.partial(_shown, passage, site, part.heads) if hooks[site] else None
                for site in MAP_SITES
            )
            return spliced(call, part, scores, pattern, plain)
    read, finish = collectors(passage, call)
    if not known_arithmetic(passage, call):
        output = _through_eager(passage, call, read)
    elif not maps and not call.dropout and not call.wants_gradient:
        output = streamed(call, read)
    else:
        edits = {
            site: functools.partial(passage.through, site) if hooks[site] else None
            for site in ("scores", "pattern")
        }
        rows = BLOCK_ROWS if all(placed.hook.rows for placed in maps) else None
        reader = read if passage.metrics else None
        output = whole(call, edits["scores"], edits["pattern"], reader, rows)
    finish()
    return output


def _shown(
    passage: Passage, site: str, heads: tuple[int, ...] | None, value: Tensor, top: int
) -> Tensor:
    return passage.through(site, value, top, heads)


def known_arithmetic(passage: Passage, call: Call) -> bool:
    """Whether the seam's own arithmetic is this attention's."""
    if passage.known is not None:
        return passage.known
    options = passage.options
    run = RUN.get()
    known = run.agreed.get(passage.module) if run is not None else None
    if known is None:
        extras = {name: options[name] for name in _KNOWN_ARITHMETIC if name in options}
        strange = any(options.get(name) is not None for name in _UNKNOWN_ARITHMETIC)
        known = not strange and agrees(passage.module, call, extras)
        if run is not None:
            run.agreed[passage.module] = known
    return known


def _through_eager(passage: Passage, call: Call, read: Callable[[Block], None]) -> Tensor:
    def edit_scores(scores: Tensor) -> Tensor:
        after = passage.through("scores", scores)
        return scores if after is scores else hide(after, call, Span.of(call))

    def edit_pattern(pattern: Tensor) -> Tensor:
        shown = pattern if call.real is None else pattern * call.real
        after = passage.through("pattern", shown)
        every = slice(None)
        read(Block(after.detach(), None, slice(0, after.shape[2]), 0, every, every))
        return put_back(pattern, shown, after, call.real)

    options = {
        name: value for name, value in passage.options.items() if name not in ("scaling", "dropout")
    }
    return tapped_eager(passage.module, call, options, edit_scores, edit_pattern)
