"""Configs small enough for a test: four text layers of width 64, three vision layers of width 32.

Weights are drawn wide (`SPREAD`), so that attention is not uniform, as a trained model's is not;
but not so wide that rounding grows: two ways to compute attention agree to 1e-5 in the logits.
"""

from collections.abc import Callable
from copy import deepcopy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SPREAD = 0.13
WIDE_SPREAD = 0.2  # for narrow layers, and for families that stay well conditioned at it
# Special ids come first in every tiny vocabulary; `interp.families.inputs` draws text above them.
PAD, BOS, EOS, IMAGE, VIDEO, IMAGE_START, IMAGE_END = range(7)
FIRST_WORD, VOCABULARY = 10, 128

TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": SPREAD,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
GROUPED = TEXT | {"num_key_value_heads": 2}
VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 42,
    "patch_size": 14,
    "initializer_range": WIDE_SPREAD,
}


def tiny(model_type: str, sizes: dict[str, Any], **more: Any) -> Callable[[], "PretrainedConfig"]:
    """A config of one of the tables above, with what differs or is added, made when asked for."""

    def made() -> "PretrainedConfig":
        from transformers import AutoConfig

        # Configs fill in the nested dicts they are given, so each gets its own.
        return AutoConfig.for_model(model_type, **deepcopy(sizes | more))

    return made


def part(model_type: str, sizes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A sub-config as a composite config takes it."""
    return {"model_type": model_type, **sizes, **more}
