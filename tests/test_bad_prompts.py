"""What encode and where refuse, and what they say would do."""

import functools
from typing import Any

import pytest
import torch
from PIL import Image

import interp
from interp.families import FAMILIES
from tests.processors import processor_of

RED = Image.new("RGB", (42, 42), (200, 30, 30))
MESSAGES = [{"role": "user", "content": "is it red?"}]


@functools.cache
def model_of(family: str, processor: bool = True) -> Any:
    entry = FAMILIES[family]
    return interp.wrap(entry.model(), processor_of(family, entry.tiny()) if processor else None)


def test_a_name_not_found_says_what_there_is() -> None:
    prompt = model_of("llava").encode("The Eiffel Tower stands in Paris", images=RED)
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
