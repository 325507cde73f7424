"""A tiny tokenizer, made here: ids fit the configs of `interp.families.tiny`.

Special tokens stand below 10, spelling from there on.
"""

import functools
import json
import string
from typing import Any

from interp.families.tiny import BOS, EOS, PAD, VOCABULARY

SENTENCES = [
    "The Eiffel Tower stands in the city of Paris, and the Louvre stands there too.",
    "What colour is the square in the image? The square is red, the circle is blue.",
    "You are a helpful assistant. Where is the circle: left, right, above or below?",
]
LETTERS = string.ascii_letters + string.digits + ".,?!:;'<>_|/-"
# What ByteLevel writes for a space, a newline, and the two bytes of an e with an accent.
BYTES = "ĠĊÃ©"


@functools.cache
def _spelling() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-level BPE of the sentences above: pieces with ids from 10, and merges."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 24, initial_alphabet=list(LETTERS + BYTES), show_progress=False
    )
    made.train_from_iterator(SENTENCES, trainer)
    model = json.loads(made.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return {piece: 10 + order for order, piece in enumerate(pieces)}, model["merges"]


def tokenizer(names: dict[int, str] | None = None, begins: bool = True, **settings: Any) -> Any:
    """A fast tokenizer; `names` are the special tokens of a family at their ids."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _spelling()
    special = {PAD: "<pad>", BOS: "<s>", EOS: "</s>"} | (names or {})
    vocabulary = vocabulary | {name: token for token, name in special.items()}
    # Without holes, tokens that a processor adds get ids above the model's vocabulary.
    holes = set(range(VOCABULARY)) - set(vocabulary.values())
    vocabulary |= {f"<unused{token}>": token for token in holes}
    made = Tokenizer(models.BPE(vocabulary, [tuple(merge) for merge in merges]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    if begins:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", BOS)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list((names or {}).values()),
        **settings,
    )
