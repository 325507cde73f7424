"""From a folder on disk to a picture of where a vision-language model looks."""

import pytest
import torch
from PIL import Image

import interp
from interp.families import FAMILIES
from interp.trace import main_output
from tests.processors import processor_of

RED = Image.new("RGB", (70, 50), (200, 30, 30))


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "idefics3", "gemma3"])
def test_a_vision_language_model_from_its_folder(name, tmp_path):
    family = FAMILIES[name]
    hf, processor = family.model(), processor_of(name, family.tiny())
    hf.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    model = interp.load(tmp_path)
    assert type(model.hf) is type(hf) and model.kind == "vlm"
    prompt = model.encode("What colour is the square?", images=RED)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern", layers=[3])
    image = prompt.where("image")[0]
    looked = trace["pattern", 3][0, 3, -1]  # Gemma's layer 2 has a window short of the image
    seen = looked[image].sum()
    assert 0 < seen < 1
    folded = prompt.fold(looked)
    assert torch.isclose(folded.sum(), seen, atol=1e-5)
    assert prompt.heatmap(looked).shape == (50, 70)
    settings = {"max_new_tokens": 3, "do_sample": False}
    if (token := getattr(hf.config, "image_token_id", None)) is not None:
        settings["suppress_tokens"] = [token]
    answer = model.generate(prompt, **settings)
    assert torch.equal(answer, model.hf.generate(**prompt.inputs, **settings))
    assert len(model.decode(answer, prompt)) == 1


def test_a_text_model_and_its_tokenizer_from_a_folder(tmp_path, word_tokenizer):
    FAMILIES["gpt2"].model().save_pretrained(tmp_path)
    word_tokenizer.save_pretrained(tmp_path)
    model = interp.load(tmp_path, dtype="float32", device="cpu")
    assert model.tokenizer is not None and model.image_processor is None
    trace = model.trace("w20 w21 w30", "pattern")
    assert trace["pattern", 0].shape == (1, 4, 3, 3)
    assert trace.prompt.tokens[0][0].strip() == "w20"
    with pytest.raises(ValueError, match="(?i)image"):
        model.encode("w20", images=RED)
    batch = model.encode(["w20 w21 w30", "w40"])
    assert batch.mask.tolist() == [[True] * 3, [False, False, True]]


def test_forward_inputs_as_they_are(word_tokenizer):
    model = interp.wrap(FAMILIES["llama"].model(), word_tokenizer)
    inputs = word_tokenizer(["w20 w21 w30"], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    assert torch.equal(model.trace(inputs, "z").logits, model.trace("w20 w21 w30", "z").logits)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_every_family_opens_from_a_folder_as_what_it_is(name, tmp_path):
    """The class that a folder names is the one that is opened, with the same weights."""
    hf = FAMILIES[name].model()
    hf.save_pretrained(tmp_path)
    model = interp.load(tmp_path)
    assert type(model.hf) is type(hf)
    inputs = FAMILIES[name].inputs(hf)
    with torch.no_grad():
        kept, opened = main_output(hf(**inputs)), main_output(model.hf(**inputs))
    # Not to the bit: weights mapped from a file lie in memory otherwise, and kernels look at that.
    assert (kept - opened).abs().max() < 1e-5
