"""Configs small enough for a test: four text layers of width 64, three vision layers of width 32.

Weights are drawn wide (`SPREAD`; wider where layers are narrow), so that attention is far from uniform; a trained model's is too.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PretrainedConfig

SPREAD = 0.15
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
    "initializer_range": SPREAD * 4 / 3,
}


def config(model_type: str, sizes: dict[str, Any], **more: Any) -> "PretrainedConfig":
    """A config of this type from one of the tables above, with what differs or is added."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model_type, **sizes | more)


def tiny(model_type: str, sizes: dict[str, Any], **more: Any) -> Callable[[], "PretrainedConfig"]:
    """The same, made when it is asked for: importing a family must not import transformers."""
    return lambda: config(model_type, sizes, **more)


def part(model_type: str, sizes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A sub-config as a composite config takes it."""
    return {"model_type": model_type, **sizes, **more}
