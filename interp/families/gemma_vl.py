"""PaliGemma and Gemma 3: text decoders that see an image's tokens, or the whole prompt, both ways.

The mask is bidirectional where `token_type_ids` says so; the processors always give it.
"""

from typing import TYPE_CHECKING

from interp.families import FAMILIES, Family
from interp.families.inputs import Inputs, square_in_text
from interp.families.tiny import (
    GROUPED,
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    SPREAD,
    VISION,
    part,
    tiny,
)
from interp.layouts import one_grid

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def _prefix(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    """A prompt without an answer: every token sees every other."""
    inputs = square_in_text(9)(model, batch, length, seed)
    return inputs | {"token_type_ids": inputs["input_ids"].new_zeros(inputs["input_ids"].shape)}


def _marked(model: "PreTrainedModel", batch: int = 1, length: int = 12, seed: int = 0) -> Inputs:
    """The image's tokens see each other; text sees what came before."""
    inputs = square_in_text(4, [IMAGE_START], [IMAGE_END])(model, batch, length, seed)
    return inputs | {"token_type_ids": (inputs["input_ids"] == IMAGE).long()}


FAMILIES.add(
    "paligemma",
    Family(
        name="paligemma",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "paligemma",
            {},
            text_config=part("gemma", GROUPED, head_dim=16),
            vision_config=part("siglip_vision_model", VISION, vision_use_head=False),
            image_token_index=IMAGE,
            projection_dim=64,
            hidden_size=64,
        ),
        inputs=_prefix,
        layout=one_grid,
        causal=("text",),  # but for the prefix, which its mask opens
        written=1,  # 0 would make the answer part of the prefix
    ),
)
FAMILIES.add(
    "gemma3",
    Family(
        name="gemma3",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "gemma3",
            {},
            text_config=part(
                "gemma3_text",
                GROUPED,
                head_dim=32,
                query_pre_attn_scalar=24,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention"] * 2,
            ),
            vision_config=part(
                "siglip_vision_model", VISION | {"image_size": 56}, vision_use_head=False
            ),
            image_token_index=IMAGE,
            boi_token_index=IMAGE_START,
            eoi_token_index=IMAGE_END,
            mm_tokens_per_image=4,
            initializer_range=SPREAD,
        ),
        inputs=_marked,
        layout=one_grid,
    ),
)
