"""Where image tokens lie on the image, and folding attention back onto it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Box = tuple[float, float, float, float]  # left, top, right, bottom
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

# Tokens that a vision tower puts before its patches. Towers that merge or window their patches
# (Swin, Qwen-VL) have no one grid and are left out on purpose.
LEADING = {
    "beit": 1,
    "blip_2_vision_model": 1,
    "blip_vision_model": 1,
    "clip": 1,
    "clip_vision_model": 1,
    "data2vec-vision": 1,
    "deit": 2,  # class and distillation
    "dinov2": 1,
    "dinov2_with_registers": 1,
    "dinov3_vit": 1,
    "gemma3_vision": 0,
    "ijepa": 0,
    "idefics3_vision": 0,
    "instructblip_vision_model": 1,
    "internvl_vision": 1,
    "siglip": 0,
    "siglip_vision_model": 0,
    "smolvlm_vision": 0,
    "vit": 1,
    "vit_msn": 1,
}


@dataclass(frozen=True, eq=False)
class Region:
    """One grid of image tokens: the key of each cell, and the part of the image the grid shows.

    `box` is left, top, right, bottom as fractions of the original image; what lies outside
    0 to 1 is padding that the processor added.
    """

    grid: tuple[int, int]
    index: Tensor
    box: Box = WHOLE


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of a prompt: its height and width in pixels, its tokens, its regions.

    `positions` are the keys of its tokens in the text, in order; without regions, `why` says why.
    """

    size: tuple[int, int]
    positions: Tensor
    regions: tuple[Region, ...] = ()
    why: str = ""
    image: Any = None


@dataclass(frozen=True, eq=False)
class Seen:
    """One image of a prompt, with all that a layout may want to know."""

    config: Any
    processor: Any  # the image processor
    inputs: dict[str, Any]
    row: int
    image: int  # its place in the row
    flat: int  # its place in the batch
    beside: int  # how many images the row has
    size: tuple[int, int]  # height and width in pixels


@dataclass(frozen=True, eq=False)
class Layout:
    """How many text positions an image takes, and the grids among them."""

    count: int
    regions: tuple[Region, ...] = ()
    cross: bool = False
    why: str = ""  # there are no regions


def _shares(start: float, stop: float, cells: int, bins: int) -> Tensor:
    """[bins, cells]: how a cell's mass divides over equal bins of the image, along one axis.

    The cells divide start..stop equally, the bins 0..1. A cell that is partly padding gives all
    its mass to its visible part; one that is all padding gives none.
    """
    cell = torch.linspace(start, stop, cells + 1, dtype=torch.float64)
    edge = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[:, None]
    overlap = torch.minimum(cell[1:], edge[1:]) - torch.maximum(cell[:-1], edge[:-1])
    overlap = overlap.clamp(min=0).where(overlap > 1e-9, 0.0)
    return overlap / overlap.sum(0).clamp(min=1e-9)


def paint(regions: Sequence[Region], values: Tensor, rows: int, columns: int) -> Tensor:
    """Lay `[..., key]` onto rows x columns cells of the image, each token's mass by area."""
    reach = max(int(region.index.max()) for region in regions)
    if values.shape[-1] <= reach:
        raise ValueError(
            f"values of {values.shape[-1]} keys cannot be folded: this image's tokens reach "
            f"key {reach}. Give one value a key, such as trace['pattern', layer][row, head, query]."
        )
    values = values if values.is_floating_point() else values.float()
    total = torch.zeros(*values.shape[:-1], rows, columns, dtype=torch.float64)
    for region in regions:
        (height, width), (left, top, right, bottom) = region.grid, region.box
        cells = values[..., region.index.to(values.device)].double().cpu()
        down, along = _shares(top, bottom, height, rows), _shares(left, right, width, columns)
        total += down @ cells @ along.T
    return total.to(values)


def finest(regions: Sequence[Region]) -> tuple[int, int]:
    """Rows and columns that cover the image at the resolution of its finest region."""
    rows = max(region.grid[0] / (region.box[3] - region.box[1]) for region in regions)
    columns = max(region.grid[1] / (region.box[2] - region.box[0]) for region in regions)
    return max(1, round(rows)), max(1, round(columns))


def patch_grid(config: Any, pixels: tuple[int, int] | None = None) -> tuple[tuple[int, int], int]:
    """Rows and columns of patches in a vision tower's sequence, and how many tokens come first.

    `pixels` is the height and width the tower is given, where they may differ from its config's.
    """
    config = getattr(config, "vision_config", config)
    if config.model_type not in LEADING:
        raise ValueError(
            f"the patches of a {config.model_type} tower are not known to be one grid. Known are: "
            f"{', '.join(LEADING)}. Add it to LEADING in interp/images.py if they are."
        )
    height, width = pixels or _pair(config.image_size)
    down, along = _pair(config.patch_size)
    registers = getattr(config, "num_register_tokens", 0) or 0
    return (height // down, width // along), LEADING[config.model_type] + registers


def _pair(value: Any) -> tuple[int, int]:
    return tuple(value) if isinstance(value, list | tuple) else (value, value)


def visible_box(processor: Any, size: tuple[int, int]) -> Box:
    """The part of an image of this height and width that reaches a one-grid vision tower.

    Follows what image processors do: pad to a square, resize, cut out the centre.
    """
    top, left, (height, width) = 0, 0, size
    # Only LLaVA's processor means "to a square" when it says do_pad.
    if getattr(processor, "do_pad", None) and hasattr(processor, "pad_to_square"):
        side = max(size)
        top, left = -((side - height) // 2), -((side - width) // 2)
        height = width = side
    tall, wide = _resized(processor, height, width)
    bottom, right = top + height, left + width
    if getattr(processor, "do_center_crop", None) and processor.crop_size:
        crop = processor.crop_size
        above, before = (tall - crop["height"]) // 2, (wide - crop["width"]) // 2
        bottom = top + (above + crop["height"]) * height / tall
        right = left + (before + crop["width"]) * width / wide
        top, left = top + above * height / tall, left + before * width / wide
    return left / size[1], top / size[0], right / size[1], bottom / size[0]


def _resized(processor: Any, height: int, width: int) -> tuple[int, int]:
    """Height and width after the processor's resize; a side may be cut by a crop later."""
    size = getattr(processor, "size", None)
    if not getattr(processor, "do_resize", None) or not size:
        return height, width
    if size.get("height"):
        return size["height"], size["width"]
    short = size.get("shortest_edge")
    if not short or size.get("longest_edge"):
        # The whole image is kept whatever the size, so the box does not depend on it.
        return height, width
    if height <= width:
        return short, int(short * width / height)
    return int(short * height / width), short


def pictures(
    model: Any, inputs: dict[str, Any], ids: Tensor, images: list[list[Any]]
) -> list[list[Picture]]:
    """What is known of each row's images: sizes, their tokens in the text, their regions."""
    known = (model.config, model.image_processor, inputs)
    rows, flat = [], 0
    for row, shown in enumerate(images):
        positions = (ids[row] == model.config.image_token_id).nonzero()[:, 0].cpu()
        seen = [
            Seen(*known, row, place, flat + place, len(shown), _size(image))
            for place, image in enumerate(shown)
        ]
        flat += len(shown)
        rows.append(_placed(positions, _layouts(model, seen, len(positions)), shown))
    return rows


def _size(image: Any) -> tuple[int, int]:
    return image.height, image.width


def _layouts(model: Any, seen: list[Seen], tokens: int) -> list[Layout]:
    """What the family says; without its word, images share the row's tokens and have no place."""
    why = (
        f"the {model.config.model_type} family has no layout, so its image tokens have no known "
        "place on the image. Add layout= to its entry, after one in interp/layouts.py."
    )
    if model.family and model.family.layout:
        try:
            return [model.family.layout(image) for image in seen]
        except ValueError as unknown:  # a tower or a setting that the layout does not cover
            why = str(unknown)
    return [Layout(tokens // max(len(seen), 1), why=why)] * len(seen)


def _placed(positions: Tensor, layouts: list[Layout], shown: list[Any]) -> list[Picture]:
    """Layouts, one after the other, onto the image tokens of a row."""
    expected, start, placed = sum(layout.count for layout in layouts), 0, []
    for layout, image in zip(layouts, shown, strict=True):
        own = positions[start : start + layout.count]
        start += layout.count
        regions, why = layout.regions, layout.why
        if expected != len(positions):
            regions, own = (), positions[:0]
            why = (
                f"the row has {len(positions)} image tokens where the layout of its images has "
                f"{expected}: the processor has settings that interp/layouts.py does not know."
            )
        elif not layout.cross:
            regions = tuple(Region(each.grid, own[each.index], each.box) for each in regions)
        placed.append(Picture(_size(image), own, regions, why, image))
    return placed
