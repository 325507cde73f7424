"""Idefics3 and SmolVLM: an image is cut into crops, and shown whole after them."""

from typing import TYPE_CHECKING

from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, image_in_text
from interp.families.tiny import GROUPED, IMAGE, IMAGE_START, PAD, VISION, part, tiny
from interp.layouts import idefics3

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# IMAGE_START stands around every crop (<fake_token_around_image>); other markers say which it is.
_LEFT, _RIGHT, _WHOLE = 7, 8, 9
_CROP = [IMAGE] * 4


def _cropped(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    """An image of one row and two columns of crops."""
    middle = []
    for marker in (_LEFT, _RIGHT, _WHOLE):
        middle += [IMAGE_START, marker, *_CROP]
    size = model.config.vision_config.image_size
    return image_in_text(model, batch, length, seed, [*middle, IMAGE_START], (3, 3, size, size))


for _name in ("idefics3", "smolvlm"):
    FAMILIES.add(
        _name,
        Family(
            name=_name,
            kind="vlm",
            auto="AutoModelForImageTextToText",
            tiny=tiny(
                _name,
                {},
                text_config=part("llama", GROUPED),
                vision_config=part(f"{_name}_vision", VISION | {"image_size": 56}),
                image_token_id=IMAGE,
                pad_token_id=PAD,
            ),
            inputs=_cropped,
            layout=idefics3,
        ),
    )
