"""Llama 3.2 Vision: the image is not in the text; some layers attend to it instead of to text."""

from typing import TYPE_CHECKING

from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, image_in_text
from interp.families.tiny import GROUPED, IMAGE, WIDE_SPREAD, part, tiny
from interp.layouts import mllama

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MAX_TILES = 4
_SIDE_BY_SIDE = 2  # id of the aspect ratio 1 x 2 among those that the config supports
_TILES = 2


def _tiled(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    """An image of two tiles, behind one token; text before that token does not see it."""
    import torch

    size = model.config.vision_config.image_size
    inputs = image_in_text(model, batch, length, seed, [IMAGE], (1, _MAX_TILES, 3, size, size))
    inputs["pixel_values"][:, :, _TILES:] = 0
    used = (torch.arange(_MAX_TILES) < _TILES).long().to(model.device)
    seen = (inputs["input_ids"] == IMAGE).cumsum(1)
    return inputs | {
        "aspect_ratio_ids": torch.full((batch, 1), _SIDE_BY_SIDE, device=model.device),
        "aspect_ratio_mask": used.expand(batch, 1, -1),
        "cross_attention_mask": seen[:, :, None, None] * used,
    }


FAMILIES.add(
    "mllama",
    Family(
        name="mllama",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "mllama",
            {},
            text_config=part(
                "mllama_text_model",
                GROUPED | {"num_hidden_layers": 5},
                cross_attention_layers=[1, 3],
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
            ),
            vision_config=part(
                "mllama_vision_model",
                {
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 3,
                    "num_global_layers": 2,
                    "attention_heads": 4,
                    "image_size": 28,
                    "patch_size": 14,
                    "max_num_tiles": _MAX_TILES,
                    "intermediate_layers_indices": [0, 1],
                    "vision_output_dim": 32 * 3,  # the last layer and the two named above
                    "initializer_range": WIDE_SPREAD,
                },
            ),
            image_token_index=IMAGE,
        ),
        inputs=_tiled,
        layout=mllama,
    ),
)
