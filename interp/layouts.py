"""How each family of vision-language models lays image tokens out over the image.

A layout is a function of a `Seen` image; families name theirs in `Family.layout`. Regions index
the image's own tokens, 0 to count - 1; with `cross`, the keys of cross attention.
"""

from typing import Any

import torch

from interp.images import WHOLE, Box, Layout, Region, Seen, patch_grid, visible_box


def block(start: int, rows: int, columns: int, box: Box = WHOLE, gap: int = 0) -> Region:
    """A grid of consecutive tokens; `gap` tokens (a newline) end each row."""
    index = start + torch.arange(rows * (columns + gap)).view(rows, columns + gap)
    return Region((rows, columns), index[:, :columns], box)


def tiles(
    start: int, down: int, along: int, side: int, spread: tuple[float, float] = (1.0, 1.0)
) -> list[Region]:
    """Square grids one after the other, row by row; none for 0 and 0.

    `spread` is their canvas in image heights and widths, more than 1 where it is padded.
    """
    tall, wide = spread[0] / max(down, 1), spread[1] / max(along, 1)
    places = [(row, column) for row in range(down) for column in range(along)]
    return [
        block(
            start + order * side * side,
            side,
            side,
            (column * wide, row * tall, (column + 1) * wide, (row + 1) * tall),
        )
        for order, (row, column) in enumerate(places)
    ]


def one_grid(seen: Seen) -> Layout:
    """PaliGemma, Gemma 3: a square of tokens over the whole image."""
    count = getattr(seen.config, "mm_tokens_per_image", None)
    if count is None:
        (rows, columns), _ = patch_grid(seen.config)
    else:
        rows = columns = round(count**0.5)
    box = visible_box(seen.processor, seen.size)
    return Layout(rows * columns, (block(0, rows, columns, box),))


def llava(seen: Seen) -> Layout:
    """One grid of patches; "full" keeps the tower's class token in front, "default" drops it."""
    if seen.config.vision_config.model_type == "pixtral":
        return mistral3(seen)
    (rows, columns), leading = patch_grid(seen.config)
    first = _kept(seen.config, leading)
    box = visible_box(seen.processor, seen.size)
    return Layout(first + rows * columns, (block(first, rows, columns, box),))


def _kept(config: Any, leading: int) -> int:
    """Tokens before the patches that are left of `leading`: "default" drops the first of all."""
    strategy = getattr(config, "vision_feature_select_strategy", "default")  # VipLLaVA has no other
    kept = leading - 1 if strategy == "default" else leading
    if kept < 0:
        raise ValueError(
            "the model drops its tower's first patch, so its image tokens are no grid."
        )
    return kept


def llava_next(seen: Seen) -> Layout:
    """The whole image, then its tiles joined to one grid, unpadded, each row with a newline."""
    (rows, columns), leading = patch_grid(seen.config)
    first = _kept(seen.config, leading)
    base = block(first, rows, columns)
    grid, box = _unpadded(seen, rows)
    start = first + rows * columns
    large = block(start, *grid, box, gap=1)
    return Layout(start + grid[0] * (grid[1] + 1), (base, large))


def llava_onevision(seen: Seen) -> Layout:
    """As LLaVA-NeXT; too many tiles are scaled down, and several images have no tiles."""
    (rows, columns), _ = patch_grid(seen.config)
    if seen.beside > 1:
        height, width = seen.size
        tall, wide = max(seen.size) / height, max(seen.size) / width
        above, before = (max(seen.size) - height) // 2, (max(seen.size) - width) // 2
        left, top = -before / width, -above / height
        region = block(0, rows, columns, (left, top, left + wide, top + tall))
        return Layout(rows * columns + 1, (region,))
    (down, along), box = _unpadded(seen, rows)
    most = int(seen.config.vision_aspect_ratio.removeprefix("anyres_max_"))
    ratio = (down * along / (most * rows**2)) ** 0.5
    if ratio > 1.1:
        down, along = int(down // ratio), int(along // ratio)
    start = rows * columns
    large = block(start, down, along, box, gap=1)
    return Layout(start + down * (along + 1), (block(0, rows, columns), large))


def _unpadded(seen: Seen, side: int) -> tuple[tuple[int, int], Box]:
    """The joined grid of tiles without its padding, and the box it shows.

    The processor pads in pixels and the model takes whole patches off again, so that a sliver of
    padding can stay and the box can reach a little outside the image.
    """
    from transformers.image_processing_utils import select_best_resolution

    (height, width), tile = seen.size, seen.config.vision_config.image_size
    tall, wide = select_best_resolution(seen.size, seen.config.image_grid_pinpoints)
    rows, columns = tall // tile * side, wide // tile * side
    if width / height > columns / rows:
        shown = round(height * (columns / width), 7)
        cut = ((rows - int(shown)) // 2, 0)
    else:
        shown = round(width * (rows / height), 7)
        cut = (0, (columns - int(shown)) // 2)
    scale = min(tall / height, wide / width)
    pixels = min(-int(-height * scale // 1), tall), min(-int(-width * scale // 1), wide)
    margin = (tall - pixels[0]) // 2, (wide - pixels[1]) // 2
    top, left = ((cut[axis] * tile / side - margin[axis]) / pixels[axis] for axis in (0, 1))
    bottom = ((rows - cut[0]) * tile / side - margin[0]) / pixels[0]
    right = ((columns - cut[1]) * tile / side - margin[1]) / pixels[1]
    return (rows - 2 * cut[0], columns - 2 * cut[1]), (left, top, right, bottom)


def qwen_vl(seen: Seen) -> Layout:
    """One grid as large as the image asks for; merged patches are one token."""
    merge = seen.config.vision_config.spatial_merge_size
    _, height, width = seen.inputs["image_grid_thw"][seen.flat].tolist()
    rows, columns = height // merge, width // merge
    return Layout(rows * columns, (block(0, rows, columns),))


def mistral3(seen: Seen) -> Layout:
    """Mistral 3, Pixtral: one grid as large as the image asks for; its markers are other tokens."""
    merge = getattr(seen.config, "spatial_merge_size", 1)
    patch = seen.config.vision_config.patch_size * merge
    height, width = seen.inputs["image_sizes"][seen.flat].tolist()
    rows, columns = height // patch, width // patch
    return Layout(rows * columns, (block(0, rows, columns),))


def internvl(seen: Seen) -> Layout:
    """InternVL, Aya Vision: tiles row by row; then, if there are several, the whole image."""
    from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

    processor = seen.processor
    (rows, _), _ = patch_grid(seen.config)
    factor = getattr(seen.config, "downsample_factor", None)
    side = rows // factor if factor else round(rows * seen.config.downsample_ratio)
    tile = processor.size["height"], processor.size["width"]
    along, down = get_optimal_tiled_canvas(
        seen.size, tile, processor.min_patches, processor.max_patches
    )
    regions = tiles(0, down, along, side)
    if len(regions) > 1:
        regions.append(block(len(regions) * side * side, side, side))
    return Layout(len(regions) * side * side, tuple(regions))


def idefics3(seen: Seen) -> Layout:
    """Tiles row by row, if the image is larger than one; then the whole image."""
    (rows, _), _ = patch_grid(seen.config)
    side = rows // seen.config.scale_factor
    down, along = _split(seen.processor, *seen.size)
    regions = tiles(0, down, along, side)
    regions.append(block(len(regions) * side * side, side, side))
    return Layout(len(regions) * side * side, tuple(regions))


def _split(processor: Any, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of tiles; 0 and 0 for an image that is one tile as it is.

    The sums of the processor, in its order: to the longest edge with the other side even, then
    up to whole tiles.
    """
    if not processor.do_image_splitting:
        return 0, 0
    tile, long = processor.max_image_size["longest_edge"], processor.size["longest_edge"]
    many = -(-long // tile)
    if width >= height:
        height = max(int(long / (width / height)), 1)
        ratio = long / (height + height % 2)
        down, along = -(-int(many * tile / ratio) // tile), many
    else:
        width = max(int(long * (width / height)), 1)
        ratio = (width + width % 2) / long
        down, along = many, -(-int(many * tile * ratio) // tile)
    return (down, along) if down * along > 1 else (0, 0)


def mllama(seen: Seen) -> Layout:
    """Keys of cross attention: for each image all tiles, each a class token and its patches.

    In the text an image is one token. The image lies in the top left of its canvas of tiles.
    """
    from transformers.models.mllama.image_processing_pil_mllama import get_image_size_fit_to_canvas

    vision = seen.config.vision_config
    side, tile = vision.image_size // vision.patch_size, vision.image_size
    ratio = int(seen.inputs["aspect_ratio_ids"][seen.row, seen.image]) - 1
    down, along = vision.supported_aspect_ratios[ratio]
    fitted = get_image_size_fit_to_canvas(*seen.size, down * tile, along * tile, tile)
    spread = down * tile / int(fitted[0]), along * tile / int(fitted[1])
    step, start = side * side + 1, seen.image * vision.max_num_tiles * (side * side + 1)
    regions = [
        Region(region.grid, region.index + start + 1 + order * (step - side * side), region.box)
        for order, region in enumerate(tiles(0, down, along, side, spread))
    ]
    return Layout(1, tuple(regions), cross=True)


def blip_2(seen: Seen) -> Layout:
    """Query tokens, none of which has a place."""
    return Layout(
        seen.config.num_query_tokens,
        why="BLIP-2's image tokens are queries of its Q-Former, each of which looks at the whole "
        "image: there is no grid to fold onto. Fold the vision tower's attention instead.",
    )
