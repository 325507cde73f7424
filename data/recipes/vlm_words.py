"""The words of demo-vlm: a tokenizer of whole words, and the processor around it."""

from itertools import product

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import CLIPImageProcessor, LlavaProcessor, PreTrainedTokenizerFast

from interp.tasks.phrases import (
    DESCRIBE,
    NUMBERS,
    article,
    exists,
    how_many,
    where_is,
    which_colour,
)
from interp.tasks.scene import CELL, COLOURS, SHAPES, SIDE, Thing

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<image>")
PAD, BOS, EOS, UNKNOWN, IMAGE = range(len(SPECIAL))
# A word takes the space before it along; a mark stands by itself.
_WORD = Regex(r" ?[A-Za-z]+|[^ A-Za-z]")
# The tokenizer writes <bos>, and the template does not, as in LLaVA 1.5.
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER:"
    "{% elif message['role'] == 'assistant' %} ASSISTANT:"
    "{% else %}{{ raise_exception('demo-vlm knows the roles user and assistant only.') }}{% endif %}"
    "{% if message['content'] is string %} {{ message['content'] | trim }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] | trim }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
ASSISTANT = " ASSISTANT:"


def vocabulary() -> list[str]:
    """Special tokens, then every word of every question and answer, then both speakers."""
    things = [Thing(shape, colour, 0, 0, 1) for shape, colour in product(SHAPES, COLOURS)]
    texts = [DESCRIBE, how_many(), "and, yes no top bottom left right", " ".join(NUMBERS)]
    texts += [f"{exists(each.shape, each.colour)} {where_is(each)}" for each in things]
    texts += [f"{exists(shape)} {which_colour(shape)} {how_many(shape)}" for shape in SHAPES]
    texts += [article(word) for word in COLOURS] + ["ASSISTANT:"]
    split = pre_tokenizers.Split(_WORD, "removed", invert=True)
    words = {word for text in texts for word, _ in split.pre_tokenize_str(f" {text}")}
    return [*SPECIAL, *sorted(words | {"USER"})]


def tokenizer() -> PreTrainedTokenizerFast:
    words = {word: number for number, word in enumerate(vocabulary())}
    built = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    built.pre_tokenizer = pre_tokenizers.Split(_WORD, "removed", invert=True)  # pyright: ignore[reportAttributeAccessIssue]
    built.decoder = decoders.Fuse()  # pyright: ignore[reportAttributeAccessIssue]
    built.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<bos> $A", special_tokens=[("<bos>", BOS)]
    )
    built.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=built,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"},
        padding_side="left",
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def processor() -> LlavaProcessor:
    side = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessor(
        size=side, crop_size=side, image_mean=[0.5] * 3, image_std=[0.25] * 3
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer(),
        patch_size=CELL,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE,
    )
