"""Each family's own processor, with nothing downloaded: around its PIL image processor, sized to
the tiny configs, and the tiny tokenizer with the family's special tokens where the config has them.
"""

import functools
from collections.abc import Callable
from typing import Any

from interp.families.tiny import IMAGE, IMAGE_END, IMAGE_START, VIDEO
from interp.processors import without_video
from tests.tiny_tokenizer import tokenizer
from tests.tower_processors import TOWERS

CHAT = (
    "{{ bos_token }}{% for message in messages %}{{ message.role | upper }}: "
    "{% if message.content is string %}{{ message.content | trim }}{% else %}"
    "{% for part in message.content %}{% if part.type == 'image' %}MARK{% else %}"
    "{{ part.text | trim }}{% endif %}{% endfor %}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def _chat(mark: str) -> str:
    return CHAT.replace("MARK", mark)


def _llava(config: Any, chat: bool = True) -> Any:
    from transformers import LlavaImageProcessorPil, LlavaProcessor

    side = config.vision_config.image_size
    return LlavaProcessor(
        LlavaImageProcessorPil(
            size={"shortest_edge": side}, crop_size={"height": side, "width": side}
        ),
        tokenizer({IMAGE: "<image>"}),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=getattr(config, "vision_feature_select_strategy", "default"),
        num_additional_image_tokens=1,
        chat_template=_chat("<image>") if chat else None,
    )


def _llava_next(config: Any) -> Any:
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    side = config.vision_config.image_size
    return LlavaNextProcessor(
        LlavaNextImageProcessorPil(
            size={"shortest_edge": side},
            crop_size={"height": side, "width": side},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer({IMAGE: "<image>"}),
        patch_size=config.vision_config.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,
        chat_template=_chat("<image>"),
    )


def _llava_onevision(config: Any) -> Any:
    from transformers import LlavaOnevisionImageProcessorPil, LlavaOnevisionProcessor

    side = config.vision_config.image_size
    return without_video(LlavaOnevisionProcessor)(
        LlavaOnevisionImageProcessorPil(
            size={"height": side, "width": side},
            image_grid_pinpoints=config.image_grid_pinpoints,
        ),
        tokenizer({IMAGE: "<image>", VIDEO: "<video>"}),
        num_image_tokens=(side // config.vision_config.patch_size) ** 2,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_aspect_ratio=config.vision_aspect_ratio,
        chat_template=_chat("<image>"),
    )


def _qwen(kind: str, config: Any) -> Any:
    import transformers

    names = {
        IMAGE: "<|image_pad|>",
        VIDEO: "<|video_pad|>",
        IMAGE_START: "<|vision_start|>",
        IMAGE_END: "<|vision_end|>",
    }
    vision = config.vision_config
    return without_video(getattr(transformers, kind))(
        transformers.Qwen2VLImageProcessorPil(
            patch_size=vision.patch_size,
            merge_size=vision.spatial_merge_size,
            temporal_patch_size=vision.temporal_patch_size,
            size={"shortest_edge": 28 * 28, "longest_edge": 12 * 28 * 28},
        ),
        tokenizer(names),
        chat_template=_chat("<|vision_start|><|image_pad|><|vision_end|>"),
    )


def _tile_processor(side: int) -> Any:
    from transformers import GotOcr2ImageProcessorPil

    return GotOcr2ImageProcessorPil(
        size={"height": side, "width": side}, crop_to_patches=True, max_patches=6
    )


def _internvl(config: Any) -> Any:
    from transformers import InternVLProcessor

    names = {IMAGE: "<IMG_CONTEXT>", VIDEO: "<video>", IMAGE_START: "<img>", IMAGE_END: "</img>"}
    return without_video(InternVLProcessor)(
        _tile_processor(config.vision_config.image_size[0]),
        tokenizer(
            names,
            extra_special_tokens={
                "context_image_token": "<IMG_CONTEXT>",
                "video_token": "<video>",
                "start_image_token": "<img>",
                "end_image_token": "</img>",
            },
        ),
        image_seq_length=config.image_seq_length,
        chat_template=_chat("<IMG_CONTEXT>\n"),
    )


def _aya_vision(config: Any) -> Any:
    from transformers import AyaVisionProcessor

    names = {
        IMAGE: "<|IMG_PATCH|>",
        IMAGE_START: "<|START_OF_IMG|>",
        IMAGE_END: "<|END_OF_IMG|>",
        7: "<image>",
        8: "TILE",
        9: "TILE_GLOBAL",
    }
    side = config.vision_config.image_size
    return AyaVisionProcessor(
        _tile_processor(side),
        tokenizer(names),
        patch_size=config.vision_config.patch_size,
        img_size=side,
        downsample_factor=config.downsample_factor,
        chat_template=_chat("<image>"),
    )


def _idefics3(config: Any) -> Any:
    """SmolVLM's own processor is the same in what it writes, and asks for num2words."""
    from transformers import Idefics3ImageProcessorPil, Idefics3Processor

    names = {
        IMAGE: "<image>",
        IMAGE_START: "<fake_token_around_image>",
        IMAGE_END: "<end_of_utterance>",
        7: "<row_1_col_1>",
        8: "<row_1_col_2>",
        9: "<global-img>",
    }
    vision = config.vision_config
    return Idefics3Processor(
        Idefics3ImageProcessorPil(
            size={"longest_edge": 2 * vision.image_size},
            max_image_size={"longest_edge": vision.image_size},
        ),
        tokenizer(names),
        image_seq_len=(vision.image_size // vision.patch_size // config.scale_factor) ** 2,
        chat_template=_chat("<image>"),
    )


def _paligemma(config: Any) -> Any:
    from transformers import PaliGemmaProcessor, SiglipImageProcessorPil

    vision = config.vision_config
    images = SiglipImageProcessorPil(size={"height": vision.image_size, "width": vision.image_size})
    images.image_seq_length = (vision.image_size // vision.patch_size) ** 2
    # The processor writes the first token itself, after the image.
    return PaliGemmaProcessor(images, tokenizer({IMAGE: "<image>"}, begins=False))


def _gemma3(config: Any) -> Any:
    from transformers import Gemma3ImageProcessorPil, Gemma3Processor

    names = {
        IMAGE: "<image_soft_token>",
        IMAGE_START: "<start_of_image>",
        IMAGE_END: "<end_of_image>",
    }
    side = config.vision_config.image_size
    return Gemma3Processor(
        Gemma3ImageProcessorPil(size={"height": side, "width": side}),
        tokenizer(
            names,
            extra_special_tokens={
                "image_token": "<image_soft_token>",
                "boi_token": "<start_of_image>",
                "eoi_token": "<end_of_image>",
            },
        ),
        image_seq_length=config.mm_tokens_per_image,
        chat_template=_chat("<start_of_image>"),
    )


def _mllama(config: Any) -> Any:
    from transformers import MllamaImageProcessorPil, MllamaProcessor

    vision = config.vision_config
    return MllamaProcessor(
        MllamaImageProcessorPil(
            size={"height": vision.image_size, "width": vision.image_size},
            max_image_tiles=vision.max_num_tiles,
        ),
        tokenizer({IMAGE: "<|image|>", 7: "<|python_tag|>"}),
        chat_template=_chat("<|image|>"),
    )


def _blip2(config: Any) -> Any:
    from transformers import Blip2Processor, BlipImageProcessorPil

    side = config.vision_config.image_size
    return Blip2Processor(
        BlipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer({IMAGE: "<image>"}),
        num_query_tokens=config.num_query_tokens,
    )


PROCESSORS: dict[str, Callable[[Any], Any]] = {
    "aya_vision": _aya_vision,
    "blip-2": _blip2,
    "gemma3": _gemma3,
    "idefics3": _idefics3,
    "internvl": _internvl,
    "llava": _llava,
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "mllama": _mllama,
    "paligemma": _paligemma,
    "qwen2_5_vl": functools.partial(_qwen, "Qwen2_5_VLProcessor"),
    "qwen2_vl": functools.partial(_qwen, "Qwen2VLProcessor"),
    "qwen3_vl": functools.partial(_qwen, "Qwen3VLProcessor"),
    "smolvlm": _idefics3,
    "vipllava": _llava,
}


def processor_of(family: str, config: Any) -> Any:
    """The tiny processor of a vision family for this config; a tokenizer for any other family."""
    made = PROCESSORS.get(family) or TOWERS.get(family)
    return made(config) if made else tokenizer()
