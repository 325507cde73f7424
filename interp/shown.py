"""Images as a user gives them, and prompts of images alone."""

from typing import Any

import torch

from interp.images import Picture, Region, patch_grid, visible_box
from interp.prompt import Prompt


def as_image(value: Any) -> Any:
    """A PIL image in RGB."""
    import numpy
    from PIL import Image

    if isinstance(value, numpy.ndarray) and value.ndim in (2, 3) and value.dtype == numpy.uint8:
        value = Image.fromarray(value)
    if not isinstance(value, Image.Image):
        raise ValueError(
            f"an image must be a PIL image or a uint8 array [height, width, 3], not "
            f"{type(value).__name__}. Open a file with PIL.Image.open(path)."
        )
    return value if value.mode == "RGB" else value.convert("RGB")


def check_images(model: Any) -> None:
    """Refuse images for a model that cannot take them in."""
    name = type(model.hf).__name__
    if model.kind not in ("vlm", "dual", "vision"):
        raise ValueError(
            f"images were given to {name}, which reads text only. Give the text alone, or load a "
            "vision-language model."
        )
    if model.image_processor is None:
        raise ValueError(
            f"images were given to {name}, and there is no processor to read them. Give one: "
            "interp.wrap(hf_model, processor)."
        )


def by_row(images: Any, rows: int, beside: bool = False) -> list[list[Any]]:
    """One list of RGB images for each row."""
    if images is None:
        return [[] for _ in range(rows)]
    if not isinstance(images, list | tuple):
        images = [images]
    if any(isinstance(each, list | tuple) for each in images):
        nested = [list(each) if isinstance(each, list | tuple) else [each] for each in images]
    else:
        nested = [list(images)] if rows == 1 else [[each] for each in images]
    if len(nested) != rows and not beside:
        raise ValueError(
            f"{len(nested)} images for {rows} prompts. Give one image a prompt, or a list of "
            "images for each."
        )
    return [[as_image(image) for image in own if image is not None] for own in nested]


def whole(model: Any, inputs: dict[str, Any], image: Any) -> Picture:
    """An image whose patches are the positions of the vision tower itself."""
    size = (image.height, image.width)
    try:
        grid, first = patch_grid(model.config, tuple(inputs["pixel_values"].shape[-2:]))
    except ValueError as unknown:
        return Picture(size, torch.arange(0), why=str(unknown), image=image)
    index = torch.arange(first, first + grid[0] * grid[1])
    region = Region(grid, index.view(grid), visible_box(model.image_processor, size))
    return Picture(size, index, (region,), image=image)


def without_text(model: Any, inputs: dict[str, Any]) -> Prompt:
    """Positions are those of the vision tower, where it has one grid."""
    pixels: Any = inputs.get("pixel_values")
    batch = next(iter(inputs.values())).shape[0]
    try:
        (rows, columns), first = patch_grid(model.config, tuple(pixels.shape[-2:]))
    except (ValueError, AttributeError):  # no grid, or no pixels: no positions are known
        return Prompt(inputs, torch.ones(batch, 0, dtype=torch.bool))
    mask = torch.ones(batch, first + rows * columns, dtype=torch.bool, device=pixels.device)
    patches = mask.clone()
    patches[:, :first] = False
    labels = ["class", *["register"] * (first - 1)][:first]
    labels += [f"{row},{column}" for row in range(rows) for column in range(columns)]
    return Prompt(inputs, mask, spans={"image": patches}, labels=labels)
