"""Random models that generate under interventions: text alone, or an image in the middle of a prompt."""

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlavaConfig, LlavaForConditionalGeneration

import interp
from benchmarks.shapes import VOCABULARY, Shape, build, text_config, token_ids

PROMPT, NEW = 512, 64
IMAGE_TOKEN, SIDE, PATCH = VOCABULARY - 1, 224, 14  # 16 x 16 patches
BEFORE = 100  # positions before the image


def opened(family: str, image: bool) -> tuple[interp.Model, interp.Prompt]:
    """A model of GPT-2 small's size and a prompt of 512 positions, half of them an image's if asked."""
    shape = Shape(family, PROMPT + NEW)
    if not image:
        model = interp.wrap(build(shape, "sdpa"))
        prompt = model.encode(token_ids(shape, PROMPT))
        spans = {"key": slice(100, 140), "question": slice(490, 508)}
        prompt.spans.update({name: _marked(prompt, where) for name, where in spans.items()})
        return model, prompt
    model = interp.wrap(_seeing(shape))
    return model, interp.Prompt.from_inputs(model, _inputs(shape))


def _marked(prompt: interp.Prompt, where: slice) -> torch.Tensor:
    mask = torch.zeros_like(prompt.mask)
    mask[:, where] = True
    return mask


def _seeing(shape: Shape) -> Any:
    """The tower is small: what is measured is the text stack."""
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=3, num_attention_heads=4,
        image_size=SIDE, patch_size=PATCH, projection_dim=64,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text_config(shape), image_token_index=IMAGE_TOKEN,
        image_seq_length=(SIDE // PATCH) ** 2,
    )  # fmt: skip
    config._attn_implementation = "sdpa"
    model = LlavaForConditionalGeneration(config).eval().requires_grad_(False)
    model.generation_config.suppress_tokens = [IMAGE_TOKEN]
    return model


def _inputs(shape: Shape) -> dict[str, torch.Tensor]:
    ids = token_ids(shape, PROMPT) % (VOCABULARY - 1)
    ids[:, BEFORE : BEFORE + (SIDE // PATCH) ** 2] = IMAGE_TOKEN
    generator = torch.Generator().manual_seed(2)
    pixels = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
