"""Text, messages and ids as prompts: rows, padding, and finding words again; what is refused."""

import functools
from typing import Any

import numpy
import pytest
import torch
from PIL import Image
from processors import PROCESSORS, processor_of, tokenizer

import interp
from interp import Prompt
from interp.families import FAMILIES
from interp.processors import open_processor
from interp.spelling import pieces

PARIS = "The Eiffel Tower stands in the city of Paris"
RED = Image.new("RGB", (42, 42), (200, 30, 30))


@functools.cache
def model_of(family: str, processor: bool = True) -> Any:
    entry = FAMILIES[family]
    return interp.wrap(entry.model(), processor_of(family, entry.tiny()) if processor else None)


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


def test_a_string_is_one_row() -> None:
    model = model_of("gpt2")
    prompt = model.encode(PARIS)
    assert (len(prompt), prompt.text, prompt.names) == (1, [PARIS], ["prompt", "first", "last"])
    assert prompt.mask.all()
    assert prompt.length == len(prompt.tokens[0])
    assert "".join(prompt.tokens[0]) == "<s>" + PARIS
    assert set(prompt.inputs) == {"input_ids", "attention_mask"}


def test_words_are_found_wherever_they_stand() -> None:
    prompt = model_of("gpt2").encode(PARIS)
    assert read(prompt, "Eiffel Tower") == "Eiffel Tower"
    assert read(prompt, "st") == " stands"  # the whole of a token that it overlaps
    spelled = prompt.where("the")[0].nonzero()[:, 0].tolist()
    assert [prompt.tokens[0][at] for at in spelled] == [" the"]
    assert read(prompt, "first") == "<s>"
    assert prompt.position("Paris").tolist() == [prompt.length - 1]


def test_spans_follow_their_tokens_through_padding() -> None:
    texts = ["in the city of Paris", PARIS + ", the city of the Louvre"]
    left, right = model_of("gpt2").encode(texts), model_of("bert").encode(texts)
    assert not left.mask[0, 0]
    assert not right.mask[0, -1]
    for prompt in (left, right):
        assert torch.equal(prompt.mask.long(), prompt.inputs["attention_mask"])
        for row in (0, 1):
            assert read(prompt, "city of", row).strip() == ["city of", "city of city of"][row]
            assert read(prompt, "first", row) == "<s>"
            assert texts[row].endswith(read(prompt, "last", row))
            assert read(prompt, "prompt", row) == "<s>" + texts[row]
    assert left.tokens[0][0] == "<pad>"
    assert left.position("last").tolist() == [left.length - 1] * 2


def test_padding_changes_no_answer() -> None:
    model = model_of("gpt2")
    texts = [PARIS, "the city"]
    together = model.encode(texts)
    for row, text in enumerate(texts):
        alone = model.logits(model.encode(text))[0, -1]
        assert torch.allclose(model.logits(together)[row, -1], alone, atol=1e-5)


def test_a_character_of_several_tokens() -> None:
    model = model_of("gpt2")
    ids = model.tokenizer("café")["input_ids"]
    assert list(pieces(model.tokenizer, ids))[-2:] == [("f", 1), ("é", 2)]
    for prompt in (model.encode("café the"), model.encode(torch.tensor([ids]))):
        assert int(prompt.where("é").sum()) == 2
        assert prompt.text[0].startswith(("café", "<s>café"))


def test_ids_in_every_form() -> None:
    model = model_of("gpt2", processor=False)
    tensor = model.encode(torch.tensor([[5, 6, 7], [8, 9, 10]]))
    assert tensor.ids.tolist() == [[5, 6, 7], [8, 9, 10]]
    assert model.encode([5, 6]).ids.tolist() == [[5, 6]]
    assert model.encode(torch.tensor([5, 6])).ids.tolist() == [[5, 6]]
    assert model.encode(numpy.array([[5, 6]])).ids.tolist() == [[5, 6]]
    ragged = model.encode([[5, 6, 7], torch.tensor([8])])
    assert ragged.ids[0].tolist() == [5, 6, 7]
    assert ragged.mask.tolist() == [[True] * 3, [False, False, True]]
    assert int(ragged.ids[1, -1]) == 8
    assert tensor.tokens == [["5", "6", "7"], ["8", "9", "10"]]
    model.hf.generate(**ragged.inputs, max_new_tokens=1, do_sample=False)
    with pytest.raises(LookupError, match="no tokenizer to look text up with. Names are: prompt"):
        tensor.where("Paris")


def test_ids_of_a_tokenizer_read_as_text() -> None:
    model = model_of("gpt2")
    ids = model.tokenizer(PARIS)["input_ids"]
    prompt = model.encode([ids, ids[:4]])
    assert prompt.text[0] == "<s>" + PARIS
    assert prompt.text[1] == "<s>The Ei"
    assert read(prompt, "The Ei", 0) == read(prompt, "The Ei", 1) == "The Ei"
    assert read(model.encode(ids), "Eiffel Tower") == "Eiffel Tower"


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
        assert not (prompt.where("question") & prompt.where("image")).any()
    assert torch.equal(prompt.mask.long(), prompt.inputs["attention_mask"])
    blind = model.encode(questions[0])
    assert read(blind, "question") == questions[0]
    assert "image" not in blind.names


def test_placeholders_in_the_text_stay_where_they_are() -> None:
    model = model_of("llava")
    prompt = model.encode("What is <image>\nhere?", images=RED)
    assert prompt.text == ["What is <image>\nhere?"]
    assert read(prompt, "question").replace("\n", "") == "What ishere?"
    first = int(prompt.where("image")[0].nonzero()[0])
    assert prompt.tokens[0][first - 1] == " "


def test_without_a_template_images_come_first() -> None:
    model = interp.wrap(
        FAMILIES["qwen2_vl"].model(), PROCESSORS["qwen2_vl"](FAMILIES["qwen2_vl"].tiny())
    )
    model.processor.chat_template = None
    text = model.encode("Where?", images=[RED, RED]).text[0]
    assert text == "<|vision_start|><|image_pad|><|vision_end|>" * 2 + "Where?"


def test_spans_of_ones_own() -> None:
    model = model_of("gpt2")
    texts = ["the square is red", "the circle is blue"]
    prompt = model.encode(texts, spans={"subject": ["square", "circle"], "verb": "is"})
    assert [read(prompt, "subject", row) for row in (0, 1)] == [" square", " circle"]
    assert [read(prompt, "verb", row) for row in (0, 1)] == [" is", " is"]
    assert prompt.names[3:] == ["subject", "verb"]
    mask = torch.tensor([[True, False]])
    ids = model_of("gpt2", processor=False).encode([[5, 6]], spans={"mine": mask})
    assert torch.equal(ids.where("mine"), mask)


def test_the_same_prompt_on_another_image() -> None:
    model = model_of("llava")
    prompt = model.encode("What colour is the square?", images=RED, spans={"thing": "square"})
    other = model.encode(**{**prompt.source, "images": Image.new("RGB", (84, 42))})
    assert torch.equal(other.ids, prompt.ids)
    assert not torch.equal(other.inputs["pixel_values"], prompt.inputs["pixel_values"])
    assert read(other, "thing").strip() == "square"


def test_encoder_decoders_get_their_first_token() -> None:
    model = model_of("t5")
    prompt = model.encode(["the square is red", "the"])
    assert (
        prompt.inputs["decoder_input_ids"].tolist() == [[model.config.decoder_start_token_id]] * 2
    )
    assert not prompt.mask[1, -1]
    model.hf(**prompt.inputs)
    model.hf.generate(**prompt.inputs, max_new_tokens=2, do_sample=False)


def test_siglip_reads_rows_of_full_length() -> None:
    prompt = model_of("siglip").encode(["the square", "the circle is red"])
    assert set(prompt.inputs) == {"input_ids"}
    assert prompt.length == 256
    assert read(prompt, "prompt") == "the square"


@pytest.mark.parametrize(
    "family", ["gpt2", "bert", "bart", "llava", "mllama", "vit", "clip", "whisper"]
)
def test_ready_inputs_become_a_prompt(family: str) -> None:
    model = model_of(family)
    inputs = FAMILIES[family].inputs(model.hf, batch=2)
    prompt = Prompt.from_inputs(model, inputs)
    assert len(prompt) == 2
    assert prompt.inputs.keys() == inputs.keys()
    if "input_ids" in inputs:
        assert prompt.mask.shape == inputs["input_ids"].shape
    if FAMILIES[family].kind == "vlm":
        marked = inputs["input_ids"] == model.config.image_token_id
        assert torch.equal(prompt.where("image"), marked)
        with pytest.raises(LookupError, match="made without images that can be shown"):
            prompt.fold(torch.ones(prompt.length))


def test_a_processor_with_videos_opens_without_them(tmp_path: Any) -> None:
    model = model_of("qwen2_vl")
    model.processor.save_pretrained(tmp_path)
    opened = open_processor(str(tmp_path), model.config)
    asked = {"text": "<|image_pad|>Where?", "images": RED}
    assert opened(**asked)["input_ids"] == model.processor(**asked)["input_ids"]
    words = tokenizer()
    words.save_pretrained(tmp_path / "words")
    FAMILIES["gpt2"].tiny().save_pretrained(tmp_path / "words")
    opened = open_processor(str(tmp_path / "words"), FAMILIES["gpt2"].tiny())
    assert opened(PARIS)["input_ids"] == words(PARIS)["input_ids"]


def test_a_name_not_found_says_what_there_is() -> None:
    prompt = model_of("llava").encode(PARIS, images=RED)
    with pytest.raises(LookupError, match="Did you mean 'Eiffel Tower'.*Names are: .*question"):
        prompt.where("Eifel Towr")
    with pytest.raises(LookupError, match="Did you mean 'question'"):
        prompt.where("qestion")
    with pytest.raises(LookupError, match="no row has an image 3. Images a row: \\[1\\]"):
        prompt.where("image", image=3)
    with pytest.raises(LookupError, match="no image 1 in row 0. Images a row: \\[1\\]"):
        prompt.fold(torch.ones(prompt.length), image=1)
    batch = model_of("gpt2").encode(["the square", "the circle"])
    with pytest.raises(LookupError, match="row 1 does not contain it"):
        batch.where("square")
    with pytest.raises(LookupError, match="no span 'squar', and row 1 does not contain it"):
        model_of("gpt2").encode(["a square", "b"], spans={"thing": "squar"})


AUDIO = "reads audio, which encode does not. Make the prompt of ready"
BAD = {
    "an image for a text model": ("gpt2", ("a",), {"images": RED}, "which reads text only"),
    "text without a tokenizer": ("gpt2 alone", ("a",), {}, "there is no tokenizer to read it"),
    "images without a processor": ("llava alone", (), {"images": RED}, "no processor to read"),
    "text for an image model": ("vit", ("a",), {}, "reads images only"),
    "nothing": ("gpt2", (), {}, "the prompt is empty"),
    "an empty list": ("gpt2", ([],), {}, "the prompt \\[\\] is empty"),
    "an empty tensor": ("gpt2", (torch.zeros(1, 0).long(),), {}, "empty: ids of shape \\(1, 0\\)"),
    "an empty row": ("gpt2", ([[5], []],), {}, "empty"),
    "text of no tokens": ("paligemma", ("",), {}, "'' gives no tokens"),
    "ids too large": ("gpt2", ([5, 128],), {}, "token id 128 is outside .* 0 to 127"),
    "ids below nought": ("gpt2", ([5, -1],), {}, "token id -1 is outside"),
    "ids of floats": ("gpt2", (torch.ones(1, 2),), {}, "must be integers, not torch.float32"),
    "floats": ("gpt2", ([1.0],), {}, "must be integers, not float"),
    "ids of three axes": ("gpt2", (torch.ones(1, 2, 3).long(),), {}, "shape \\(1, 2, 3\\)"),
    "a long prompt": ("gpt2", ([5] * 257,), {}, "257 tokens.* positions for 256"),
    "a long prompt for RoBERTa": ("roberta", ([5] * 256,), {}, "256 tokens.* positions for 255"),
    "no image": ("llava", ("a",), {"images": "cat.png"}, "an image must be .* not str"),
    "two images, one place": ("llava", ("a <image>",), {"images": [RED, RED]}, "1 image placeh"),
    "one place, no image": ("llava", ("a <image>",), {}, "1 image placeholders .* 0 images given"),
    "one image for two": ("llava", (["a", "b"],), {"images": RED}, "1 images for 2 prompts"),
    "messages, no template": ("gpt2", (MESSAGES,), {}, "need a chat template, .* has none"),
    "a message without words": ("gpt2", ([{"role": "user"}],), {}, "needs a 'role' and a 'cont"),
    "images with ids": ("llava", ([5, 6],), {"images": RED}, "images were given with token ids"),
    "a number": ("gpt2", (5,), {}, "not int"),
    "a taken name": ("gpt2", ("a",), {"spans": {"last": "a"}}, "cannot be called 'last'"),
    "one span for two": ("gpt2", (["a", "b"],), {"spans": {"x": ["a"]}}, "1 texts for 2 rows"),
    "a mask of another size": (
        "gpt2",
        ([5, 6],),
        {"spans": {"x": torch.ones(1, 3)}},
        "shape \\(1, 3\\); the prompt's is \\(1, 2\\)",
    ),
    "audio": ("whisper", ("a",), {}, AUDIO),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_would_do(case: str) -> None:
    name, given, named, message = BAD[case]
    family, *alone = name.split()
    with pytest.raises(ValueError, match=message):
        model_of(family, not alone).encode(*given, **named)


def test_relative_positions_have_no_limit() -> None:
    assert model_of("t5").encode([5] * 300).length == 300
    assert model_of("roberta").encode([5] * 255).length == 255
