"""The processors of vision towers that stand alone or beside a text encoder."""

import functools
from collections.abc import Callable
from typing import Any

from tests.tiny_tokenizer import tokenizer


def _vision(name: str, config: Any) -> Any:
    """The image processor of a tower that stands alone, made to crop as the real ones do."""
    import transformers

    side = config.image_size
    square = {"height": side, "width": side}
    kinds = {
        "vit": ("ViTImageProcessorPil", {"size": square}),
        "deit": (
            "DeiTImageProcessorPil",
            {"size": {"height": side + 14, "width": side + 14}, "crop_size": square},
        ),
        "dinov2": ("BitImageProcessorPil", {"size": {"shortest_edge": side}, "crop_size": square}),
    }
    kind, sizes = kinds[name]
    return getattr(transformers, kind)(**sizes)


def _clip(config: Any) -> Any:
    from transformers import CLIPImageProcessorPil, CLIPProcessor

    side = config.vision_config.image_size
    return CLIPProcessor(
        CLIPImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer(),
    )


def _siglip(config: Any) -> Any:
    from transformers import SiglipImageProcessorPil, SiglipProcessor

    side = config.vision_config.image_size
    return SiglipProcessor(
        SiglipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer(begins=False, model_input_names=["input_ids"]),
    )


TOWERS: dict[str, Callable[[Any], Any]] = {
    "clip": _clip,
    "deit": functools.partial(_vision, "deit"),
    "dinov2": functools.partial(_vision, "dinov2"),
    "siglip": _siglip,
    "vit": functools.partial(_vision, "vit"),
}
