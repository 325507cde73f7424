"""The word-level tokenizer of demo-lm: every word of the text tasks is one token."""

import random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from data.recipes.lm_documents import TEXT_TASKS, biography
from interp.tasks import TASKS
from interp.tasks.facts import PEOPLE
from interp.tasks.words import TRIGGERS, WORDS

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
# Two digits are a token, so that a year is its century and the rest; a word brings its space.
PIECES = r"▁\d\d|\d\d|▁?[A-Za-z]+|[^\sA-Za-z\d▁]"


def build() -> PreTrainedTokenizerFast:
    """The vocabulary is what a fixed draw of every generator says, with all words and numbers."""
    split = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always", split=False),
            pre_tokenizers.Split(Regex(PIECES), behavior="removed", invert=True),
        ]
    )
    pieces = {"▁" + word for word in (*WORDS, *TRIGGERS)}
    pieces |= {f"{number:02d}" for number in range(100)} | {f"▁{n}" for n in range(11, 20)}
    for text in _texts():
        pieces |= {piece for piece, _ in split.pre_tokenize_str(text)}
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *sorted(pieces)))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A $B", special_tokens=[("<bos>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="left",
        model_max_length=256,
    )


def _texts():
    chance = random.Random(0)
    for name in TEXT_TASKS:
        for _ in range(2000):
            record = TASKS[name].draw(chance)
            yield record.prompt + record.answers[0]
    for kind in ("where", "who", "lives"):
        for _ in range(200):
            record = TASKS["open_book"].draw(chance, kind=kind, ask="evidence")
            yield record.prompt + record.answers[0]
    for person in PEOPLE:
        yield biography(chance, person)
