"""Which image tokens see a corner of the image, found out from the model alone.

With attention silenced in the vision tower, an image token depends on its own pixels alone: which
tokens move when part of the image changes tells where each of them lies, whatever a layout says.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from PIL import Image

from interp.images import Region

CORNERS = {"top left": (0, 0), "top right": (0, 1), "bottom left": (1, 0), "bottom right": (1, 1)}


def picture(size: tuple[int, int], corner: str | None = None) -> Image.Image:
    """Grey, with one corner bright up to four tenths of each side."""
    pixels = numpy.full((*size, 3), 90, dtype=numpy.uint8)
    if corner:
        down, along = CORNERS[corner]
        high, wide = int(0.4 * size[0]), int(0.4 * size[1])
        pixels[down * (size[0] - high) :, along * (size[1] - wide) :][:high, :wide] = 250
    return Image.fromarray(pixels)


@contextmanager
def silenced(model: Any) -> Iterator[None]:
    """No attention in the vision towers."""

    def zero(module: Any, arguments: Any, output: Any) -> Any:
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    layers = [
        layer
        for name, stack in model.stacks.items()
        if name.startswith("vision")
        for layer in stack.layers.values()
    ]
    hooks = [layer.attention.register_forward_hook(zero) for layer in layers]
    yield
    for hook in hooks:
        hook.remove()


def seen_keys(model: Any, prompt: Any) -> torch.Tensor:
    """[batch, key, width]: what the text attends to, as it enters the language model."""
    kept: list[torch.Tensor] = []

    def keep(module: Any, arguments: Any, named: Any) -> None:
        given = [*arguments, named.get("cross_attention_states"), named.get("hidden_states")]
        kept.append(next(each for each in given if each is not None))

    language = [stack for name, stack in model.stacks.items() if name in ("text", "encoder")]
    inner = language[0].layers[0].module
    if model.config.model_type == "mllama":
        inner = model.hf.model.language_model
    hook = inner.register_forward_pre_hook(keep, with_kwargs=True)
    with torch.no_grad(), silenced(model):
        model.hf(**prompt.inputs)
    hook.remove()
    return kept[0].reshape(len(prompt), -1, kept[0].shape[-1])


def moved_keys(plain: torch.Tensor, changed: torch.Tensor) -> torch.Tensor:
    return (changed - plain).abs().amax(-1) > 1e-5


def cells(region: Region) -> Iterator[tuple[int, tuple[float, float, float, float]]]:
    """Each cell's key and its left, top, right, bottom."""
    (rows, columns), (left, top, right, bottom) = region.grid, region.box
    tall, wide = (bottom - top) / rows, (right - left) / columns
    for row in range(rows):
        for column in range(columns):
            x, y = left + column * wide, top + row * tall
            yield int(region.index[row, column]), (x, y, x + wide, y + tall)


def overlap(box: tuple[float, ...], corner: str, side: float) -> float:
    """The share of a cell that lies in a corner of this side."""
    down, along = CORNERS[corner]
    left, top = along * (1 - side), down * (1 - side)
    wide = min(box[2], left + side) - max(box[0], left)
    tall = min(box[3], top + side) - max(box[1], top)
    return max(wide, 0) * max(tall, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def check_corner(
    prompt: Any, moved: torch.Tensor, corner: str, row: int = 0, image: int = 0
) -> None:
    """Keys moved in the corner and nowhere else, and fold puts them there."""
    for region in prompt.regions(row, image):
        for key, box in cells(region):
            if overlap(box, corner, 0.4) > 0.1:
                assert moved[key], (corner, region.grid, box)
            if overlap(box, corner, 0.5) == 0:
                assert not moved[key], (corner, region.grid, box)
    height, width = prompt.images[row][image].size
    heat = prompt.heatmap(moved.float(), row, image)
    assert heat.shape == (height, width)
    down, along = CORNERS[corner]
    tall, wide = (int(0.8 * height), int(0.2 * height)), (int(0.8 * width), int(0.2 * width))
    assert heat[tall[1 - down], wide[1 - along]] > 0
    assert heat[tall[down], wide[along]] == 0
