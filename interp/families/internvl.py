"""InternVL: square tiles whose patches are merged 2 x 2 into tokens."""

from interp.families import FAMILIES, Family
from interp.families.inputs import square_in_text
from interp.families.tiny import GROUPED, IMAGE, IMAGE_END, IMAGE_START, VISION, part, tiny
from interp.layouts import internvl

_TILE = VISION | {"image_size": [56, 56], "patch_size": [14, 14]}

FAMILIES.add(
    "internvl",
    Family(
        name="internvl",
        kind="vlm",
        auto="AutoModelForImageTextToText",
        tiny=tiny(
            "internvl",
            {},
            text_config=part("qwen2", GROUPED),
            vision_config=part(
                "internvl_vision", _TILE, attention_bias=True, layer_scale_init_value=1.0
            ),
            image_token_id=IMAGE,
            image_seq_length=4,
        ),
        inputs=square_in_text(4, before=[IMAGE_START], after=[IMAGE_END]),
        out={"vision": "attention.projection_layer"},
        layout=internvl,
    ),
)
