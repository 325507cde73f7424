"""Aya Vision: SigLIP tiles, merged 2 x 2, before a Cohere decoder with windows."""

from interp.families import FAMILIES, Family
from interp.families.inputs import square_in_text
from interp.families.tiny import GROUPED, IMAGE, IMAGE_END, IMAGE_START, VISION, part, tiny
from interp.layouts import internvl

FAMILIES.add(
    "aya_vision",
    Family(
        name="aya_vision",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "aya_vision",
            {},
            text_config=part(
                "cohere2", GROUPED, sliding_window=6, sliding_window_pattern=2, logit_scale=0.5
            ),
            vision_config=part(
                "siglip_vision_model", VISION | {"image_size": 56}, vision_use_head=False
            ),
            image_token_index=IMAGE,
        ),
        inputs=square_in_text(4, before=[IMAGE_START], after=[IMAGE_END]),
        layout=internvl,
    ),
)
