"""Qwen VL: images of any size, flattened into one row of patches; positions in three directions."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, image_in_text
from interp.families.tiny import (
    GROUPED,
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    VIDEO,
    WIDE_SPREAD,
    part,
    tiny,
)
from interp.layouts import qwen_vl

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PATCH = 14
_PATCH_VALUES = 3 * 2 * _PATCH * _PATCH  # an image is two equal frames
_VISION: dict[str, Any] = {
    "depth": 3,
    "num_heads": 4,
    "patch_size": _PATCH,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "initializer_range": WIDE_SPREAD,
}


def _patches(rows: int, columns: int) -> Callable[..., Inputs]:
    """Inputs with an image of so many patches, of which each 2 x 2 become one token."""

    def made(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
        import torch

        middle = [IMAGE_START, *[IMAGE] * (rows * columns // 4), IMAGE_END]
        shape = (rows * columns, _PATCH_VALUES)
        inputs = image_in_text(model, batch, length, seed, middle, shape)
        grid = torch.tensor([[1, rows, columns]], device=model.device)
        return inputs | {
            "pixel_values": inputs["pixel_values"].flatten(0, 1),
            "image_grid_thw": grid.expand(batch, -1),
            "mm_token_type_ids": (inputs["input_ids"] == IMAGE).int(),
        }

    return made


def _add(
    name: str,
    text: dict[str, Any],
    vision: dict[str, Any],
    rope: dict[str, Any],
    inputs: Callable[..., Inputs],
    between: tuple[str, ...] = (),
) -> None:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]} | rope
    FAMILIES.add(
        name,
        Family(
            name=name,
            kind="vlm",
            auto="AutoModelForImageTextToText",
            tiny=tiny(
                name,
                {},
                text_config=part(f"{name}_text", text, rope_parameters=rope),
                vision_config=part(f"{name}_vision", _VISION, **vision),
                image_token_id=IMAGE,
                video_token_id=VIDEO,
                vision_start_token_id=IMAGE_START,
                vision_end_token_id=IMAGE_END,
            ),
            inputs=inputs,
            layout=qwen_vl,
            # Positions need the images' grids: see get_rope_index of each model.
            own_positions=True,
            between=between,
        ),
    )


_add("qwen2_vl", GROUPED, {"embed_dim": 32, "hidden_size": 64, "mlp_ratio": 2}, {}, _patches(4, 6))
# Windows of 2 x 2 tokens in all layers but one: a 3 x 4 image has four, of two sizes.
_add(
    "qwen2_5_vl",
    GROUPED,
    {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "window_size": 4 * _PATCH,
        "fullatt_block_indexes": [1],
    },
    {},
    _patches(6, 8),
)
# DeepStack: the features of two vision layers are added to the image's tokens after text layers
# 0 and 1, outside those layers.
_add(
    "qwen3_vl",
    GROUPED | {"head_dim": 16},
    {
        "hidden_size": 32,
        "intermediate_size": 48,
        "out_hidden_size": 64,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    },
    {"mrope_interleaved": True},
    _patches(4, 6),
    between=("text",),
)
