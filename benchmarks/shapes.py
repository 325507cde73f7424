"""Random models of a known shape: the same weights in every process that builds one."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
)

# Small, so that the unembedding takes no part in what is measured.
VOCABULARY = 256
# Wide enough for peaked attention, as trained models have it.
SPREAD = 0.05


@dataclass(frozen=True)
class Shape:
    """A model of the size of GPT-2 small, and the prompt it gets."""

    family: str  # "gpt2", or "llama" with 4 KV heads for 12 heads
    length: int
    layers: int = 12
    vocabulary: int = VOCABULARY

    def __str__(self) -> str:
        return f"{self.family} T={self.length} x {self.layers} layers"


def build(shape: Shape, attention: str) -> PreTrainedModel:
    """The model in float32, with the attention implementation that is asked for."""
    torch.manual_seed(0)
    config, kind = _config(shape)
    config._attn_implementation = attention
    return kind(config).eval().requires_grad_(False)


def token_ids(shape: Shape, length: int | None = None) -> Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.randint(shape.vocabulary, (1, length or shape.length), generator=random)


def text_config(shape: Shape) -> PretrainedConfig:
    return _config(shape)[0]


def _config(shape: Shape) -> tuple[PretrainedConfig, type[PreTrainedModel]]:
    ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    if shape.family == "gpt2":
        config = GPT2Config(
            vocab_size=shape.vocabulary,
            n_positions=shape.length,
            n_layer=shape.layers,
            initializer_range=SPREAD,
            **ends,
        )
        return config, GPT2LMHeadModel
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=shape.layers,
        num_attention_heads=12,
        num_key_value_heads=4,
        max_position_embeddings=shape.length,
        initializer_range=SPREAD,
        **ends,
    )
    return config, LlamaForCausalLM
