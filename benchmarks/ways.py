"""Ways to get attention statistics out of a model: the toolkit's own, and what else there is.

A way builds its model and gives back a function from token ids to statistics and logits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from torch import Tensor, nn
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import interp
from benchmarks.dense import FIVE, HORIZON, THREE, WINDOW, Statistics, dense, stacked
from benchmarks.shapes import Shape, build
from interp.metrics import METRICS

Run = Callable[[Tensor], Statistics]
SETTINGS = {"waad": METRICS["waad"](WINDOW), "fai": METRICS["fai"](*HORIZON)}


@dataclass(frozen=True)
class Way:
    title: str
    prepare: Callable[[Shape], Run]
    peer: bool = False
    own: bool = False  # the numbers that the others' are held against
    package: str = ""  # import name, where it may be missing
    install: str = ""

    @property
    def missing(self) -> bool:
        return bool(self.package) and find_spec(self.package) is None


def _attentions(model: Any, shape: Shape) -> list[Any]:
    if shape.family == "gpt2":
        return [layer.attn for layer in model.transformer.h]
    return [layer.self_attn for layer in model.model.layers]


def _plain(shape: Shape) -> Run:
    model = build(shape, "sdpa")
    return lambda ids: {"logits": model(ids, use_cache=False).logits[0]}


def _without_attention(shape: Shape) -> Run:
    """Everything but attention: each position gets its own value."""
    ALL_ATTENTION_FUNCTIONS.register("own_value", _own_value)
    ALL_MASK_ATTENTION_FUNCTIONS.register("own_value", sdpa_mask)
    model = build(shape, "own_value")

    def run(ids: Tensor) -> Statistics:
        model(ids, use_cache=False)
        return {}

    return run


def _own_value(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **_: Any
) -> tuple[Tensor, None]:
    groups = query.shape[1] // value.shape[1]
    return value.repeat_interleave(groups, dim=1).transpose(1, 2).contiguous(), None


def _streamed(*keep: str) -> Callable[[Shape], Run]:
    def prepare(shape: Shape) -> Run:
        model = interp.wrap(build(shape, "sdpa"))

        def run(ids: Tensor) -> Statistics:
            trace = model.trace(ids, keep=[SETTINGS.get(name, name) for name in keep])
            return {name: trace[name][:, 0] for name in keep} | {"logits": trace.logits[0]}

        return run

    return prepare


def _eager(*names: str) -> Callable[[Shape], Run]:
    def prepare(shape: Shape) -> Run:
        model = build(shape, "eager")

        def run(ids: Tensor) -> Statistics:
            output = model(ids, use_cache=False, output_attentions=True)
            kept = stacked([dense(pattern, names) for pattern in output.attentions])
            return kept | {"logits": output.logits[0]}

        return run

    return prepare


def _hooked(*names: str) -> Callable[[Shape], Run]:
    def prepare(shape: Shape) -> Run:
        model = build(shape, "eager")
        kept: list[Statistics] = []

        def reduce(_: Any, given: Any, output: Any) -> None:
            kept.append(dense(output[1], names))

        for attention in _attentions(model, shape):
            attention.register_forward_hook(reduce)

        def run(ids: Tensor) -> Statistics:
            kept.clear()
            logits = model(ids, use_cache=False).logits[0]
            return stacked(kept) | {"logits": logits}

        return run

    return prepare


def _lens(*names: str) -> Callable[[Shape], Run]:
    def prepare(shape: Shape) -> Run:
        from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

        model = build(shape, "eager")
        bridge = build_bridge_from_module(model, type(model).__name__, hf_config=model.config)

        def run(ids: Tensor) -> Statistics:
            logits, cache = bridge.run_with_cache(
                ids, names_filter=lambda name: name.endswith("hook_pattern"), use_cache=False
            )
            patterns = [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(shape.layers)]
            kept = stacked([dense(pattern, names) for pattern in patterns])
            return kept | {"logits": logits[0]}

        return run

    return prepare


def _nnsight(shape: Shape) -> Run:
    from nnsight import NNsight

    wrapped = NNsight(build(shape, "eager"))
    attentions = _attentions(wrapped, shape)

    def run(ids: Tensor) -> Statistics:
        with wrapped.trace(ids, use_cache=False):
            patterns = [].save()  # type: ignore[attr-defined]
            for attention in attentions:
                patterns.append(attention.output[1])
            logits = wrapped.output.logits.save()
        return stacked([dense(pattern) for pattern in patterns]) | {"logits": logits[0]}

    return run


LENS = {"package": "transformer_lens", "install": "transformer-lens==4.3.0"}
WAYS = {
    "none": Way("forward without attention", _without_attention),
    "sdpa": Way("SDPA forward, no statistics", _plain),
    "interp": Way("interp, streamed", _streamed(*THREE), own=True),
    "interp+waad": Way("interp, with WAAD", _streamed(*THREE, "waad")),
    "eager": Way("eager, all maps, then statistics", _eager(*THREE), peer=True),
    "hook": Way("eager, hook a layer, reduce, drop", _hooked(*THREE), peer=True),
    "lens": Way("TransformerLens run_with_cache", _lens(*THREE), peer=True, **LENS),
    "nnsight": Way(
        "nnsight, save all maps", _nnsight, peer=True, package="nnsight", install="nnsight==0.8.1"
    ),
    "interp five": Way("interp, streamed, five", _streamed(*FIVE), own=True),
    "eager five": Way("eager, all maps, then the five", _eager(*FIVE)),
    "hook five": Way("eager, hook a layer, the five, drop", _hooked(*FIVE)),
    "lens five": Way("TransformerLens run_with_cache, the five", _lens(*FIVE), **LENS),
}
