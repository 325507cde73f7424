"""From a map of attention on an image to the image that shows its peaks alone, enlarged."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from interp.prompt import Prompt

if TYPE_CHECKING:
    from PIL.Image import Image

STEPS = ("full", "first", "last")


@dataclass(frozen=True, eq=False)
class Refined:
    """One image of a prompt, what was seen in it, and what is left of it."""

    row: int
    original: "Image"
    image: "Image"
    map: Tensor  # [height, width]: attention of the question over that of the general instruction
    mask: Tensor  # [height, width]: pixels that are kept
    box: tuple[int, int, int, int]  # left, top, right, bottom of what is shown, in pixels


def contrasted(asked: Tensor, general: Tensor, steps: str, floor: float) -> Tensor:
    """Attention [step, layer, token] of a question over that of the instruction, summed: [token].

    Over the steps that both have, the later the heavier ("full": 1, 2, 3, ...), or one of them.
    """
    common = min(len(asked), len(general))
    ratio = (asked[:common].double() / (general[:common].double() + floor)).sum(1)
    if steps == "first":
        return ratio[0]
    if steps == "last":
        return ratio[-1]
    weight = torch.arange(1, common + 1, dtype=ratio.dtype, device=ratio.device)
    return (weight[:, None] * ratio).sum(0)


def on_image(prompt: Prompt, tokens: Tensor, row: int, image: int) -> Tensor:
    """Values of an image's tokens, in order, over its pixels [height, width], bilinear."""
    picture = prompt.images[row][image]
    over = tokens.new_zeros(prompt.length)
    over[picture.positions.to(tokens.device)] = tokens
    cells = prompt.fold(over, row, image)[None, None]
    return torch.nn.functional.interpolate(
        cells, size=picture.size, mode="bilinear", align_corners=False
    )[0, 0]


def peaks(values: Tensor, keep: float, regions: int | None) -> Tensor:
    """The share `keep` of the pixels with the largest values, of these the `regions` largest regions.

    Regions are pixels that touch by an edge, ordered by their sum of values; None: the share `keep` of
    them, at least three.
    """
    from scipy import ndimage

    grid = values.double().cpu().numpy()
    # Pixels that rounding alone tells apart are equal: a batch keeps what each row keeps by itself.
    grid = numpy.round(grid / (numpy.abs(grid).max() or 1.0), 6)
    above = grid >= numpy.percentile(grid, (1 - keep) * 100)
    found: Any = ndimage.label(above)
    labels, count = found
    sums = ndimage.sum_labels(grid, labels, range(1, count + 1))
    most = max(3, int(count * keep)) if regions is None else regions
    kept = numpy.argsort(-numpy.asarray(sums), kind="stable")[:most] + 1
    return torch.from_numpy(numpy.isin(labels, kept))


def enlarged(
    image: "Image", mask: Tensor, black: bool = True
) -> tuple["Image", tuple[int, int, int, int]]:
    """The image black outside the mask, cut to what is left, and enlarged to reach its old size."""
    from PIL import Image

    pixels: Any = numpy.asarray(image.convert("RGB"))
    if black:
        pixels = pixels * mask.numpy()[..., None]
    row, column = mask.nonzero(as_tuple=True)
    box = (int(column.min()), int(row.min()), int(column.max()) + 1, int(row.max()) + 1)
    part = Image.fromarray(pixels.astype(numpy.uint8)).crop(box)
    scale = max(image.width / part.width, image.height / part.height)
    size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
    return part.resize(size, Image.Resampling.LANCZOS), box
