"""What planted faults are made with: one dimension of the stream, and keys that answer to it.

A dimension that the text stack hardly uses is written into the tokens that a fault is about. Keys of
chosen layers then read that dimension, along the direction in which queries point on average: so
attention to those tokens rises or falls by about the asked number of nats, with no other weight
touched. Directions and sizes come from a few training scenes, always the same.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.tasks import TASKS

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt
    from interp.trace import Trace


def scenes(model: "Model") -> "Prompt":
    """Questions about a few training scenes."""
    return TASKS["existence"](48, "train").encode(model)


def unused_dimension(trace: "Trace") -> int:
    """The residual dimension that is least of any token's size, over all layers."""
    found = []
    for layer in trace.layers("resid_pre"):
        found.append(normed(trace, layer).abs().flatten(0, 1).amax(0))
    return int(torch.stack(found).amax(0).argmin())


def normed(trace: "Trace", layer: int) -> Tensor:
    """The stream before a layer, each token divided by its root mean square."""
    stream = trace["resid_pre", layer]
    return stream / stream.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-6)


def projection(model: "Model", layer: int, name: str) -> Any:
    return getattr(model.stacks["text"].layers[layer].attention, name)


def pull(
    model: "Model", trace: "Trace", layer: int, dimension: int, nats: float, size: float
) -> None:
    """Keys gain `nats` along the mean query wherever the normed stream holds `size`.

    The queries are those of the text after the image, rotated as they are used.
    """
    attention = projection(model, layer, "k_proj")
    module: Any = model.stacks["text"].layers[layer].module
    gain = module.input_layernorm.weight[dimension]
    queries = trace["q", layer][text_rows(trace.prompt)]  # [row, head, d]
    groups = model.stacks["text"].kv_heads
    mean = queries.unflatten(1, (groups, -1)).mean((0, 2))  # [group, d]
    wanted = nats * mean.shape[-1] ** 0.5 * mean / mean.pow(2).sum(-1, keepdim=True)
    attention.weight[:, dimension] = (wanted / (gain * size)).flatten()


def text_rows(prompt: "Prompt") -> Tensor:
    """The real positions after the image, [batch, position]."""
    image = prompt.where("image")
    last = image.shape[1] - 1 - image.int().flip(1).argmax(1)
    return prompt.mask & (torch.arange(image.shape[1]) > last[:, None])


def projector(model: "Model") -> Any:
    return model.hf.model.multi_modal_projector


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
