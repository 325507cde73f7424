"""Chat messages and questions about images: who said what, and where the image stands."""

import functools
from typing import Any

import pytest
import torch
from PIL import Image

import interp
from interp.families import FAMILIES
from tests.processors import PROCESSORS, processor_of
from tests.tiny_tokenizer import tokenizer

RED = Image.new("RGB", (42, 42), (200, 30, 30))


@functools.cache
def model_of(family: str) -> Any:
    entry = FAMILIES[family]
    return interp.wrap(entry.model(), processor_of(family, entry.tiny()))


@functools.cache
def talker() -> Any:
    """A language model whose tokenizer has a chat template."""
    template = (
        "{{ bos_token }}{% for message in messages %}<{{ message.role }}>"
        "{{ message.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    return interp.wrap(FAMILIES["llama"].model(), tokenizer(chat_template=template))


def read(prompt: Any, name: str, row: int = 0) -> str:
    """What the tokens of a span spell."""
    mask = prompt.where(name)[row].tolist()
    pairs = zip(prompt.tokens[row], mask, strict=True)
    return "".join(token for token, inside in pairs if inside)


MESSAGES = [
    {"role": "system", "content": "user"},
    {"role": "user", "content": " is it red? "},
    {"role": "assistant", "content": "is it"},
    {"role": "user", "content": "is it"},
]


def test_messages_keep_who_said_what() -> None:
    """The texts repeat each other and the template's own words."""
    model = talker()
    prompt = model.encode(MESSAGES)
    expected = "<s><system>user\n<user>is it red?\n<assistant>is it\n<user>is it\n<assistant>"
    assert prompt.text == [expected]
    assert "".join(prompt.tokens[0]) == expected  # the template's first token is not doubled
    assert {"system", "user", "assistant", "question"} <= set(prompt.names)
    assert read(prompt, "system") == "user"
    assert read(prompt, "user") == "is it red?is it"
    assert read(prompt, "assistant") == "is it"
    assert read(prompt, "question") == "is it"
    later, earlier = prompt.position("question"), prompt.position("assistant")
    assert bool(later > earlier)


def test_a_template_may_cut_what_was_said() -> None:
    """As reasoning models' templates do with thoughts; the rest keeps its place."""
    template = (
        "{% for message in messages %}<{{ message.role }}>{{ message.content.split('END')[-1] }}"
        "\n{% endfor %}"
    )
    model = interp.wrap(FAMILIES["llama"].model(), tokenizer(chat_template=template))
    prompt = model.encode(
        [
            {"role": "user", "content": "red?"},
            {"role": "assistant", "content": "is it red END yes"},
            {"role": "user", "content": "yes"},
        ]
    )
    assert prompt.text == ["<user>red?\n<assistant> yes\n<user>yes\n"]
    assert read(prompt, "assistant").strip() == "yes"
    assert read(prompt, "user") == "red?yes"
    assert read(prompt, "question") == "yes"


def test_an_answer_begun_is_gone_on_with() -> None:
    prompt = talker().encode([MESSAGES[:2], MESSAGES[:3]])
    assert prompt.text[0].endswith("<user>is it red?\n<assistant>")
    assert prompt.text[1].endswith("<assistant>is it")
    assert read(prompt, "question", 1) == "is it red?"


def test_messages_with_images_inside() -> None:
    model = model_of("qwen2_vl")
    content = [
        {"type": "text", "text": "What colour is"},
        {"type": "image", "image": RED},
        {"type": "text", "text": "the square?"},
    ]
    prompt = model.encode(
        [{"role": "system", "content": "the"}, {"role": "user", "content": content}]
    )
    assert read(prompt, "question") == "What colour isthe square?"
    assert read(prompt, "system") == " the"
    assert int(prompt.where("image").sum()) == 4
    bare = [{"role": "user", "content": [{"type": "image"}, content[2]]}]
    assert int(model.encode(bare, images=RED).where("image").sum()) == 4
    plain = [{"role": "user", "content": "the square?"}]
    assert torch.equal(model.encode(plain, images=RED).ids, model.encode(bare, images=RED).ids)


@pytest.mark.parametrize("family", sorted(PROCESSORS))
def test_a_question_about_an_image(family: str) -> None:
    model = model_of(family)
    questions = ["What colour is the square?", "Where is it?"]
    prompt = model.encode(questions, images=[RED, RED])
    for row in (0, 1):
        assert read(prompt, "question", row).strip() == questions[row]
        assert int((prompt.ids[row] == model.tokenizer.bos_token_id).sum()) == 1
        assert not (prompt.where("question") & prompt.where("image")).any()
    assert torch.equal(prompt.mask.long(), prompt.inputs["attention_mask"])
    blind = model.encode(questions[0])
    assert read(blind, "question") == questions[0]
    assert "image" not in blind.names


@pytest.mark.parametrize("family", sorted(set(PROCESSORS) - {"blip-2", "paligemma"}))
def test_some_rows_have_images_and_some_have_not(family: str) -> None:
    model = model_of(family)
    prompt = model.encode(["Where is it?", "Where?", "What is it?"], images=[[RED], [], [RED]])
    assert prompt.where("image").any(1).tolist() == [True, False, True]
    assert [len(row) for row in prompt.images] == [1, 0, 1]
    model.hf(**prompt.inputs)
    if family != "mllama":
        alone = model.encode("What is it?", images=RED)
        assert torch.equal(prompt.ids[2][prompt.mask[2]], alone.ids[0])
        own = prompt.regions(2)[0].index - prompt.regions(0)[0].index
        assert bool((own == own[0, 0]).all())


def test_placeholders_in_the_text_stay_where_they_are() -> None:
    model = model_of("llava")
    prompt = model.encode("What is <image>\nhere?", images=RED)
    assert prompt.text == ["What is <image>\nhere?"]
    assert read(prompt, "question").replace("\n", "") == "What ishere?"
    first = int(prompt.where("image")[0].nonzero()[0])
    assert prompt.tokens[0][first - 1] == " "


def test_without_a_template_images_come_first() -> None:
    entry = FAMILIES["qwen2_vl"]
    model = interp.wrap(entry.model(), processor_of("qwen2_vl", entry.tiny()))
    model.processor.chat_template = None
    text = model.encode("Where?", images=[RED, RED]).text[0]
    assert text == "<|vision_start|><|image_pad|><|vision_end|>" * 2 + "Where?"
