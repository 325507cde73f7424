"""What planted faults are made with: two dimensions of the stream that only the fault uses.

The two that the text stack uses least are emptied: nothing writes them, nothing reads them. One then
marks the tokens that a fault is about, the other every word. In chosen layers one number of each key
holds the first and the same number of each query the second, in the slowest of the rotary pairs: so
attention from any word to a marked token rises or falls by about the asked number of nats. Sizes come from a
few training scenes, always the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.tasks import TASKS

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt
    from interp.trace import Trace

WORDS_MARK = 4.0  # of a word embedding's root mean square
ASKING = 1.0  # what a query holds in the planted number
WORDS = "words"  # all that is not image
STOPS = "stops"  # full stops


def scenes(model: "Model") -> "Prompt":
    """Questions about a few training scenes, or contexts."""
    if model.kind == "text":
        return TASKS["open_book"](48, "train", sentences=8).encode(model)
    return TASKS["existence"](48, "train").encode(model)


def stops(model: "Model") -> int:
    """The id of a full stop as a sentence ends with it."""
    return model.tokenizer("a.", add_special_tokens=False)["input_ids"][-1]


def marked_by(model: "Model", prompt: "Prompt", name: str) -> Tensor:
    """A span of the prompt, WORDS or STOPS."""
    if name == WORDS:
        return prompt.mask & ~prompt.where("image")
    if name == STOPS and prompt.ids is not None:
        return prompt.mask & (prompt.ids == stops(model))
    return prompt.where(name)


def projector(model: "Model") -> Any:
    return model.hf.model.multi_modal_projector


def projection(model: "Model", layer: int, name: str) -> Any:
    return getattr(model.stacks["text"].layers[layer].attention, name)


@dataclass(frozen=True)
class Channel:
    """The emptied dimensions: `mark` for keys, `word` for queries."""

    mark: int
    word: int


def open_channel(model: "Model") -> Channel:
    """Empty the two least used dimensions, and write one of them into every word."""
    trace = model.trace(scenes(model), "resid_pre", stack="text")
    mark, word = _least_used(trace)
    _empty(model, [mark, word])
    words = model.hf.get_input_embeddings().weight
    words[:, word] = WORDS_MARK * words.pow(2).mean().sqrt()
    return Channel(mark, word)


def _least_used(trace: "Trace") -> list[int]:
    layers = trace.layers("resid_pre")
    sizes = torch.stack([_normed(trace, layer).abs().mean((0, 1)) for layer in layers])
    return sizes.amax(0).argsort()[:2].tolist()


def _normed(trace: "Trace", layer: int) -> Tensor:
    """The stream before a layer, each token divided by its root mean square."""
    stream = trace["resid_pre", layer]
    return stream / stream.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


def _empty(model: "Model", dimensions: Sequence[int]) -> None:
    columns = [model.hf.get_input_embeddings(), model.hf.get_output_embeddings()]
    rows = [projector(model).linear_2] if model.kind == "vlm" else []
    for layer in model.stacks["text"].layers.values():
        attention, mlp = layer.attention, layer.mlp
        columns += [getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj")]
        columns += [getattr(mlp, name) for name in ("gate_proj", "up_proj")]
        rows += [getattr(attention, "o_proj"), getattr(mlp, "down_proj")]  # noqa: B009
    for module in columns:
        module.weight[:, dimensions] = 0.0
    for module in rows:
        module.weight[dimensions] = 0.0
        if module.bias is not None:
            module.bias[dimensions] = 0.0


def pull(model: "Model", channel: Channel, layers: Sequence[int], marked: str, nats: float) -> None:
    """In these layers, attention from words to the marked span (`marked_by`) changes by about `nats`."""
    prompt = scenes(model)
    trace = model.trace(prompt, "resid_pre", stack="text")
    span, asking = marked_by(model, prompt, marked), text_rows(prompt)
    stack = model.stacks["text"]
    slowest = torch.arange(stack.d_head // 2 - 1, stack.heads * stack.d_head, stack.d_head)
    for layer in layers:
        stream = _normed(trace, layer)
        module: Any = stack.layers[layer].module
        gain = module.input_layernorm.weight
        query = gain[channel.word] * stream[asking][:, channel.word].mean()
        key = gain[channel.mark] * stream[span][:, channel.mark].mean()
        wanted = nats * stack.d_head**0.5 / ASKING
        for name, rows, dimension, size in (
            ("q_proj", slowest, channel.word, ASKING / query),
            ("k_proj", slowest[: stack.kv_heads], channel.mark, wanted / key),
        ):
            weight = projection(model, layer, name).weight
            weight[rows] = 0.0  # what else they said would swing with the mark's size
            weight[rows, dimension] = size


def text_rows(prompt: "Prompt") -> Tensor:
    """The real positions after the image, [batch, position]; of a text all."""
    if "image" not in prompt.names:
        return prompt.mask.clone()
    image = prompt.where("image")
    last = image.shape[1] - 1 - image.int().flip(1).argmax(1)
    return prompt.mask & (torch.arange(image.shape[1]) > last[:, None])


def patch_features(model: "Model", prompt: "Prompt") -> Tensor:
    """[image, patch, d]: what the projector reads."""
    kept: list[Tensor] = []
    first = projector(model).linear_1
    handle = first.register_forward_pre_hook(lambda module, given: kept.append(given[0]))
    try:
        model.logits(prompt)
    finally:
        handle.remove()
    return kept[0]
