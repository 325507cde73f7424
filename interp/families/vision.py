"""Image encoders, alone or beside a text encoder."""

from typing import Any

from interp.families import FAMILIES, Family
from interp.families.inputs import image, image_beside_text
from interp.families.tiny import TEXT, VISION, part, tiny


def _classifier(name: str, **more: Any) -> None:
    FAMILIES.add(
        name,
        Family(
            name=name,
            kind="vision",
            auto="AutoModelForImageClassification",
            tiny=tiny(name, VISION, num_labels=10, **more),
            inputs=image,
        ),
    )


_classifier("vit")
# The Auto class knows two classifiers of DeiT, and chooses by what the checkpoint was.
_classifier("deit", architectures=["DeiTForImageClassification"])
_classifier("dinov2", mlp_ratio=2)

FAMILIES.add(
    "clip",
    Family(
        name="clip",
        kind="dual",
        auto="AutoModel",
        # CLIP draws weights by a scheme of its own, of which only a factor can be set.
        tiny=tiny(
            "clip",
            {},
            text_config=part("clip_text_model", TEXT, initializer_factor=4.0),
            vision_config=part("clip_vision_model", VISION, initializer_factor=4.0),
            projection_dim=24,
            initializer_factor=4.0,
        ),
        inputs=image_beside_text,
        causal=("text",),  # told to the attention call by call
    ),
)
FAMILIES.add(
    "siglip",
    Family(
        name="siglip",
        kind="dual",
        auto="AutoModel",
        tiny=tiny(
            "siglip",
            {},
            text_config=part("siglip_text_model", TEXT, projection_size=32),
            vision_config=part("siglip_vision_model", VISION),
        ),
        inputs=image_beside_text,
    ),
)
