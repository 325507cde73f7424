"""Mistral 3: Pixtral sees images of any size, packed; a marker ends each row of tokens."""

from typing import TYPE_CHECKING

from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, image_in_text
from interp.families.tiny import GROUPED, IMAGE, IMAGE_END, VISION, part, tiny
from interp.layouts import mistral3

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_ROW_END = 7
_HIGH, _WIDE = 56, 84  # 4 x 6 patches, merged into 2 x 3 tokens


def _rows(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    import torch

    middle = [*[IMAGE] * 3, _ROW_END, *[IMAGE] * 3, IMAGE_END]
    inputs = image_in_text(model, batch, length, seed, middle, (3, _HIGH, _WIDE))
    sizes = torch.tensor([[_HIGH, _WIDE]], device=model.device).expand(batch, -1)
    return inputs | {"image_sizes": sizes}


FAMILIES.add(
    "mistral3",
    Family(
        name="mistral3",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "mistral3",
            {},
            text_config=part("mistral", GROUPED, sliding_window=None),
            vision_config=part("pixtral", VISION | {"image_size": 84}),
            image_token_index=IMAGE,
            spatial_merge_size=2,
        ),
        inputs=_rows,
        layout=mistral3,
    ),
)
