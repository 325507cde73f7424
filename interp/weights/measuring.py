"""Weights read off by what a model does with unit vectors, so that no family has to be known.

Rows of a batch, one token each, stand at position 0, where rotary positions turn nothing. Unit
vectors take the place of the stream that a layer receives, and the q, k and v that come of them are
the rows of the weights; likewise from z to the stream, from the embedding to the first layer, and
from the last layer to the unembedding. What is no linear map is found out, and refused.
"""

import contextvars
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_layers
from interp.live import LIVE, RUN
from interp.prompt import Prompt
from interp.shadow import Around, shadowed
from interp.sites import At, Hook
from interp.spread import whole_weight
from interp.structure import Stack
from interp.tokens import embeddings, vocabulary
from interp.weights import HeadWeights
from interp.weights.circuits import Norm

if TYPE_CHECKING:
    from interp.model import Model

ROWS = 256  # tokens in one pass
EXTRAS = 5  # rows before the unit vectors: they tell the kind of a map, and whether it is one
SIZE = 1024.0  # of the unit vectors, so that no norm's epsilon counts; a power of 2 is exact
SMALL = 2.0**-10  # of a vector in which epsilon does
CLOSE = 1e-4  # how far from linear a map may be, by its largest output; rounding may need more
# A shadow put by one thread is met by all, and steps aside where this is not set.
_FEED: contextvars.ContextVar["_Feed | None"] = contextvars.ContextVar("weights", default=None)


def measured(model: "Model", stack: Stack, layers: list[int], prompt: Prompt | None) -> HeadWeights:
    """Hooks and `using` blocks that are live around this call are no part of the weights."""
    return contextvars.copy_context().run(_measured, model, stack, layers, prompt)


@torch.no_grad()
def _measured(
    model: "Model", stack: Stack, layers: list[int], prompt: Prompt | None
) -> HeadWeights:
    LIVE.set(())
    RUN.set(None)
    prompt = _prompt(model, stack) if prompt is None else prompt
    weights = HeadWeights(layers, [Norm()] * len(layers))
    reading = _reading(model, stack, layers, prompt)
    _fill_qkv(weights, reading, model, stack)
    _fill_tokens(weights, reading, model, stack)
    if "ov" not in weights.refused:
        _fill_o(weights, model, stack, prompt)
    return weights


def _prompt(model: "Model", stack: Stack) -> Prompt:
    """Rows that reach the stack."""
    if model.kind == "vision":
        config = model.config
        size = config.image_size
        height, width = size if isinstance(size, (list, tuple)) else (size, size)
        blank = torch.zeros(4, config.num_channels, height, width, dtype=model.hf.dtype)
        return Prompt.from_inputs(model, {"pixel_values": blank})
    reads = model.kind in ("text", "vlm", "encoder", "encoder-decoder")
    if stack.name not in ("text", "encoder", "decoder") or not reads or needs_image(model):
        raise ValueError(
            f"no prompt is known that fills the {stack.name} stack of {model.name}; give prompt=, such "
            "as model.encode(text, images=image)."
        )
    ids = torch.full((ROWS, 1), vocabulary(model) // 2)
    return Prompt.from_inputs(model, {"input_ids": ids})


def needs_image(model: "Model") -> bool:
    """Whether text alone does not go through."""
    asked = inspect.signature(type(model.hf).forward).parameters.get("pixel_values")
    return asked is not None and asked.default is inspect.Parameter.empty


@dataclass
class _Linear:
    """x -> x / norm.spread(x) @ matrix + bias."""

    matrix: Tensor  # [width, ...]
    bias: Tensor
    norm: Norm


class _Feed:
    """Rows that take the place of values, pass after pass, and what came of them."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.close = max(CLOSE, 4 * torch.finfo(dtype).eps)
        self.start = self.size = 0
        self.total = EXTRAS
        self.rows: dict[int, Tensor] = {}
        self.found: dict[Any, list[Tensor]] = {}
        self.device: torch.device | None = None

    def of(self, width: int) -> Tensor:
        """Nothing, something, twice that, that moved by a constant, little of it; then unit vectors."""
        if width not in self.rows:
            some = torch.randn(width, generator=torch.Generator().manual_seed(width))
            extras = torch.stack([0 * some, some, 2 * some, some + 1, some * SMALL / SIZE])
            self.rows[width] = SIZE * torch.cat([extras, torch.eye(width)])
            self.total = max(self.total, EXTRAS + width)
        return self.rows[width]

    def give(self, value: Tensor) -> Tensor:
        """The next rows, in the shape of a value [batch, position, ...]."""
        flat = value.flatten(0, 1).flatten(1)
        self.size = len(flat)
        rows = self.of(flat.shape[1])[self.start : self.start + self.size]
        given = torch.zeros_like(flat)
        given[: len(rows)] = rows.to(flat)
        return given.view(value.shape)

    def aside(self, value: Tensor) -> Tensor:
        """Nothing but in the row of "twice": what depends on it will not look linear."""
        given = torch.zeros_like(value.flatten(0, 1))
        if self.start == 0:
            given[2] = self.of(given.shape[1])[1].to(given) / SIZE
        return given.view(value.shape)

    def take(self, name: Any, value: Tensor) -> None:
        precise = torch.promote_types(value.dtype, torch.float32)
        self.device = self.device or value.device  # layers may lie on several
        rows = value.detach().flatten(0, 1).to(self.device, precise, copy=True)
        self.found.setdefault(name, []).append(rows)

    def run(self, model: "Model", prompt: Prompt, hooks: list[Hook]) -> None:
        """As many passes as there are rows."""
        while self.start < self.total:
            model.logits(prompt, hooks=hooks)
            self.start += self.size

    def linear(self, name: Any, width: int) -> _Linear | None:
        """The map from the rows to what was found under a name; None where it is no linear one."""
        found = torch.cat(self.found[name])
        rows = self.of(width).to(found)
        zero, one, twice, moved, little = found[:EXTRAS]
        part, twice = one - zero, twice - zero
        near = self.close * part.abs().max()

        def differ(left: Tensor, right: Tensor) -> bool:
            return not bool((left - right).abs().max() <= near)

        norm = Norm()
        if differ(twice, 2 * part):
            norm = Norm("rms" if differ(moved, one) else "layer")
        units = rows[EXTRAS:]
        matrix = found[EXTRAS : EXTRAS + width] - zero
        matrix *= (norm.spread(units) / SIZE).view(-1, *[1] * (matrix.ndim - 1))
        again = torch.tensordot(rows[1:3] / norm.spread(rows[1:3]), matrix, 1)
        if differ(again[0], part) or differ(again[1], twice):
            return None
        return _Linear(matrix, zero, _with_epsilon(norm, rows, part, little - zero))


def _with_epsilon(norm: Norm, rows: Tensor, large: Tensor, small: Tensor) -> Norm:
    """The norm with its epsilon, from how much less a small vector gives than a large one."""
    if norm.kind == "none":
        return norm
    less = float((large * small).sum() / (large * large).sum())
    inside = float(norm.spread(rows[EXTRAS - 1]) ** 2)
    return Norm(norm.kind, max(0.0, inside / less**2 - inside))


def _reading(model: "Model", stack: Stack, layers: list[int], prompt: Prompt) -> _Feed:
    """Unit vectors as the stream before each layer, after the last one, and as embeddings."""
    feed = _Feed(model.hf.dtype)
    first, last = min(stack.layers), stack.size - 1

    def enter(value: Tensor, at: At) -> Tensor:
        if at.layer == first:
            feed.take("embed", value)
        return feed.give(value)

    def read(value: Tensor, at: At) -> None:
        feed.take((at.site, at.layer), value)

    hooks = [Hook("resid_pre", enter, sorted({first, *layers}), stack.name)]
    hooks += [Hook(site, read, layers, stack.name) for site in ("q", "k", "v")]
    hooks.append(Hook("resid_post", lambda value, at: feed.give(value), [last], stack.name))
    _FEED.set(feed)
    with shadowed(_ends(model)):
        feed.run(model, prompt, hooks)
    return feed


def _ends(model: "Model") -> list[tuple[Any, str, Around]]:
    """Where tokens become vectors, and vectors logits."""
    ends: list[tuple[Any, str, Around]] = []
    if model.hf.get_output_embeddings() is not None:
        ends.append((model.hf.get_output_embeddings(), "forward", _around_head))
    table = embeddings(model)
    if isinstance(table, torch.nn.Embedding):
        ends.append((table, "forward", _around_embedding))
    return ends


def _around_embedding(original: Any, module: Any, args: tuple, kwargs: dict) -> Any:
    output, feed = original(*args, **kwargs), _FEED.get()
    if feed is None or output.ndim != 3:
        return output
    if "scale" not in feed.found:  # some embeddings multiply what they look up
        ids = args[0] if args else next(iter(kwargs.values()))
        row = whole_weight(module)[ids[:1, :1]].to(output)
        feed.take("scale", torch.stack([output[:1, :1], row]))
    return feed.give(output)


def _around_head(original: Any, module: Any, args: tuple, kwargs: dict) -> Any:
    feed = _FEED.get()
    if feed is not None:
        value = args[0] if args else next(iter(kwargs.values()))
        feed.take("unembed", value if value.ndim == 3 else value[None])
    return original(*args, **kwargs)


def _fill_qkv(weights: HeadWeights, feed: _Feed, model: "Model", stack: Stack) -> None:
    heads, found = stack.heads, {}
    width = torch.cat(feed.found["embed"]).shape[-1]
    for site in ("q", "k", "v"):
        maps = [feed.linear((site, layer), width) for layer in weights.layers]
        if any(each is None for each in maps):
            layer = weights.layers[maps.index(None)]
            part = "ov" if site == "v" else "qk"
            weights.refused.setdefault(part, _bent(site, layer, model))
        found[site] = maps
    if "ov" not in weights.refused:
        weights.norms = [each.norm for each in found["v"]]
    for site in ("q", "k", "v"):
        if ("ov" if site == "v" else "qk") in weights.refused:
            continue
        matrices = torch.stack([each.matrix.movedim(1, 0) for each in found[site]])
        biases = torch.stack([each.bias for each in found[site]])
        times = heads // matrices.shape[1]
        setattr(weights, site, matrices.repeat_interleave(times, 1).contiguous())
        setattr(weights, f"{site}_bias", biases.repeat_interleave(times, 1))


def _bent(site: str, layer: int, model: "Model") -> str:
    """Why a site has no weights."""
    why = f"{site} of layer {layer} is no linear map of the normed stream at position 0"
    if model.hf.dtype in (torch.bfloat16, torch.float16):
        return f"{why}, or is hidden by the rounding of {model.hf.dtype}: open it in float32."
    return (
        f"{why} (a norm on {site}, a compression, a clip; or a prompt= of positions that turn it)."
    )


def _fill_tokens(weights: HeadWeights, feed: _Feed, model: "Model", stack: Stack) -> None:
    """The embedding as the first layer receives it, and the unembedding behind the last norm."""
    reads = stack.name == ("encoder" if "encoder" in model.stacks else "text")
    writes = stack.name in ("text", "decoder") or model.kind == "encoder"
    if not reads or "scale" not in feed.found:
        weights.refused["embed"] = f"the table of tokens is not what feeds the {stack.name} stack."
    else:
        _fill_embed(weights, feed, whole_weight(model.hf.get_input_embeddings()))
    if not writes or "unembed" not in feed.found:
        weights.refused["unembed"] = f"no language-model head reads the {stack.name} stack."
        return
    head = model.hf.get_output_embeddings()
    width = torch.cat(feed.found["embed"]).shape[-1]
    through = feed.linear("unembed", width)
    if through is None:
        weights.refused["unembed"] = "what stands before the language-model head is no norm."
        return
    rows = whole_weight(head).to(through.matrix)
    weights.unembed, weights.final_norm = through.matrix @ rows.T, through.norm
    own = getattr(head, "bias", None) is not None
    bias = whole_weight(head, "bias").to(rows) if own else 0.0
    weights.unembed_bias = through.bias @ rows.T + bias


def _fill_embed(weights: HeadWeights, feed: _Feed, table: Tensor) -> None:
    through = feed.linear("embed", table.shape[1])
    looked_up, row = feed.found["scale"][0].flatten(0, 1).flatten(1)
    times = looked_up @ row / (row @ row).clamp_min(torch.finfo(row.dtype).tiny)
    if through is None or through.norm.kind != "none" or not torch.allclose(looked_up, times * row):
        weights.refused["embed"] = "what stands between embedding and first layer is not linear."
        return
    weights.embed = times * table.detach().to(through.matrix) @ through.matrix


def _fill_o(weights: HeadWeights, model: "Model", stack: Stack, prompt: Prompt) -> None:
    """From z through the output projection, and from there through what the layer does with it."""
    assert weights.v is not None
    feed, layers, whole = _Feed(model.hf.dtype), weights.layers, True
    for site in ("attn_out", "mlp_out"):
        try:
            choose_layers(stack, layers, site)
        except LookupError as problem:
            if site == "attn_out":
                weights.refused["ov"] = str(problem)
                return
            whole = False
    feed.run(model, prompt, _writing(feed, layers, stack.name, whole))
    heads, size = weights.v.shape[1], weights.v.shape[3]
    width = torch.cat(feed.found["attn_out", layers[0]]).shape[-1]
    matrices, biases, alone = [], [], []
    for layer in layers:
        projection = feed.linear(("attn_out", layer), heads * size)
        if projection is None or projection.norm.kind != "none":
            weights.refused["ov"] = (
                f"layer {layer} does not project z alone, linearly (a gate, or a norm of z)."
            )
            return
        after = feed.linear(("resid_post", layer), width) if whole else None
        alone += [layer] if after is None else []
        matrix = projection.matrix if after is None else projection.matrix @ after.matrix
        matrices.append(matrix.view(heads, size, -1))
        biases.append(projection.bias)
    if alone:
        weights.notes.append(
            f"In layers {alone} what follows the output projection is not linear or not told apart from "
            "the MLP, so that o is the projection alone."
        )
    weights.o, weights.o_bias = torch.stack(matrices), torch.stack(biases)


def _writing(feed: _Feed, layers: list[int], stack: str, whole: bool) -> list[Hook]:
    """Unit vectors as z and as what the projection returns; nothing else joins the stream."""

    def project(value: Tensor, at: At) -> Tensor:
        feed.take((at.site, at.layer), value)
        return feed.give(value)

    def leave(value: Tensor, at: At) -> None:
        feed.take((at.site, at.layer), value - feed.aside(value))

    hooks = [
        Hook("resid_pre", lambda value, at: feed.aside(value), layers, stack),
        Hook("z", lambda value, at: feed.give(value), layers, stack),
        Hook("attn_out", project, layers, stack),
    ]
    if whole:
        hooks.append(Hook("mlp_out", lambda value, at: torch.zeros_like(value), layers, stack))
        hooks.append(Hook("resid_post", leave, layers, stack))
    return hooks
