"""Text, messages and ids as prompts: rows, padding, and finding words again; what is refused."""

import functools
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import interp
from interp import Prompt
from interp.families import FAMILIES
from interp.processors import open_processor
from interp.spelling import pieces
from tests.processors import processor_of
from tests.tiny_tokenizer import tokenizer

PARIS = "The Eiffel Tower stands in the city of Paris"
RED = Image.new("RGB", (42, 42), (200, 30, 30))


@functools.cache
def model_of(family: str, processor: bool = True) -> Any:
    entry = FAMILIES[family]
    return interp.wrap(entry.model(), processor_of(family, entry.tiny()) if processor else None)


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
    assert "st" in read(prompt, "st")  # the whole of every token that it overlaps
    assert len(read(prompt, "st")) < len(" stands in")
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


def test_a_decoder_that_drops_the_first_space() -> None:
    """As those of SentencePiece do: a token's own space shows only after another token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({"▁the": 10, "▁red": 11, "▁square": 12}, unk_token="▁the"))
    made.pre_tokenizer, made.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    words = PreTrainedTokenizerFast(tokenizer_object=made)
    assert list(pieces(words, [10, 11, 12])) == [("the", 1), (" red", 1), (" square", 1)]
    prompt = interp.wrap(FAMILIES["gpt2"].model(), words).encode(torch.tensor([[10, 11, 12]]))
    assert prompt.where("red square").tolist() == [[False, True, True]]


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
    prompt = model.encode([ids, ids[:6]])
    assert prompt.text[0] == "<s>" + PARIS
    assert prompt.text[1] == "".join(prompt.tokens[0][:6])
    assert read(prompt, "The", 0) == read(prompt, "The", 1) == "The"
    assert read(model.encode(ids), "Eiffel Tower") == "Eiffel Tower"


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


READY = ["gpt2", "bert", "bart", "llava", "mllama", "vit", "clip", "whisper"]


@pytest.mark.parametrize("family", READY)
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
