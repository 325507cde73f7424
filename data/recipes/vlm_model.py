"""demo-vlm before training: a LLaVA of 1.1 million parameters."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from data.recipes.vlm_words import BOS, EOS, IMAGE, PAD, vocabulary
from interp.tasks.scene import CELL, CELLS, SIDE

WORDS_NORM = 1.0  # of a fresh word embedding; image tokens are held near it


def fresh() -> LlavaForConditionalGeneration:
    vision = CLIPVisionConfig(
        hidden_size=96,
        intermediate_size=192,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=SIDE,
        patch_size=CELL,
        projection_dim=96,
        attention_dropout=0.0,
    )
    text = LlamaConfig(
        vocab_size=len(vocabulary()),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        max_position_embeddings=512,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.03,
        rope_parameters={"rope_type": "default", "rope_theta": 1000.0},
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="default",
        image_seq_length=CELLS,
        tie_word_embeddings=False,
    )
    model: Any = LlavaForConditionalGeneration(config)
    words = model.get_input_embeddings().weight
    nn.init.normal_(words, std=WORDS_NORM / words.shape[1] ** 0.5)
    return model


def pixel_values(images: Tensor) -> Tensor:
    """What the image processor makes of [image, y, x, RGB] bytes of the right size."""
    return (images.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25


def patch_features(model: Any, pixels: Tensor) -> Tensor:
    """[image, patch, d]: what the tower hands to the projector."""
    tower = model.model.vision_tower(pixels, output_hidden_states=True)
    return tower.hidden_states[-1][:, 1:]


def words_norm(model: Any) -> Tensor:
    """The mean norm of the embeddings of the words, special tokens left out."""
    return model.get_input_embeddings().weight[IMAGE + 1 :].norm(dim=-1).mean()


@torch.no_grad()
def scale_projector(model: Any, pixels: Tensor, times: float) -> None:
    """Give the fresh projector an output of `times` the norm of a word embedding."""
    projector = model.model.multi_modal_projector
    features = patch_features(model, pixels)
    spread = features.pow(2).mean().sqrt()
    first, second = projector.linear_1.weight, projector.linear_2.weight
    first.normal_(0, 1 / (first.shape[1] ** 0.5 * spread.item()))
    second.normal_(0, second.shape[1] ** -0.5)
    norm = projector(features).norm(dim=-1).mean()
    second.mul_(times * words_norm(model) / norm)


class HeadDropout:
    """Silences whole heads of the language model now and then while it learns.

    No head can then be the only one that looks at the image.
    """

    def __init__(self, model: Any, share: float):
        self.share, self.chance = share, torch.Generator()
        self.on = False
        config = model.config.text_config
        self.heads = config.num_attention_heads
        for layer in model.model.language_model.layers:
            layer.self_attn.o_proj.register_forward_pre_hook(self._drop)

    def _drop(self, module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if not self.on or not self.share:
            return None
        mixed = args[0]
        rows, length, width = mixed.shape
        kept = torch.rand(rows, 1, self.heads, 1, generator=self.chance) >= self.share
        by_head = mixed.view(rows, length, self.heads, -1) * kept / (1 - self.share)
        return (by_head.reshape(rows, length, width),)
