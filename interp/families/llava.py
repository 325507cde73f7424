"""LLaVA and what grew out of it: a vision tower's patches, projected, in place of placeholders."""

from typing import TYPE_CHECKING

from interp import layouts
from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, image_in_text, square_in_text
from interp.families.tiny import GROUPED, IMAGE, VIDEO, VISION, part, tiny

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# A tile is 2 x 2 patches. An image of 28 x 56 is padded into 1 x 3 tiles: 2 x 6 patches, of which
# the padding is cut off again, one column at each side.
_TILE = VISION | {"image_size": 28}
_PINPOINTS = [[28, 84], [56, 28]]
_IMAGE_SIZE = [28, 56]
_TILES = 4  # the whole image, small, and the three
_KEPT = 4 + 2 * (4 + 1)  # the small image; then two rows of four patches, each with its newline


def _tiled(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    import torch

    middle = [IMAGE] * _KEPT
    inputs = image_in_text(model, batch, length, seed, middle, (_TILES, 3, 28, 28))
    sizes = torch.tensor([_IMAGE_SIZE], device=model.device).expand(batch, -1)
    return inputs | {"image_sizes": sizes}


FAMILIES.add(
    "llava",
    Family(
        name="llava",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "llava",
            {},
            text_config=part("llama", GROUPED),
            vision_config=part("clip_vision_model", VISION, initializer_factor=4.0),
            image_token_index=IMAGE,
            image_seq_length=9,
        ),
        inputs=square_in_text(9),
        layout=layouts.llava,
    ),
)
FAMILIES.add(
    "vipllava",
    Family(
        name="vipllava",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "vipllava",
            {},
            text_config=part("llama", GROUPED),
            vision_config=part("clip_vision_model", VISION, initializer_factor=4.0),
            image_token_index=IMAGE,
            image_seq_length=9,
            vision_feature_layer=[-2, -3],
        ),
        inputs=square_in_text(9),
        layout=layouts.llava,
    ),
)
FAMILIES.add(
    "llava_next",
    Family(
        name="llava_next",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "llava_next",
            {},
            text_config=part("mistral", GROUPED, sliding_window=None),
            vision_config=part("clip_vision_model", _TILE, initializer_factor=4.0),
            image_token_index=IMAGE,
            image_grid_pinpoints=_PINPOINTS,
        ),
        inputs=_tiled,
        layout=layouts.llava_next,
    ),
)
FAMILIES.add(
    "llava_onevision",
    Family(
        name="llava_onevision",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "llava_onevision",
            {},
            text_config=part("qwen2", GROUPED),
            vision_config=part("siglip_vision_model", _TILE, vision_use_head=False),
            image_token_index=IMAGE,
            video_token_index=VIDEO,
            image_grid_pinpoints=_PINPOINTS,
        ),
        inputs=_tiled,
        layout=layouts.llava_onevision,
    ),
)
