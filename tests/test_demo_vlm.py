"""demo-vlm and demo-vit do what their cards say, offline, and are small."""

import json

import pytest
import torch

import interp
from data.recipes import report_vlm
from data.recipes.bounds import WANTED, agrees, verdict
from data.recipes.saving import MODELS
from interp.plots import image_map
from interp.tasks import TASKS

NUMBERS = {
    name: json.loads((MODELS / name / "report.json").read_text())["shipped"]
    for name in ("demo-vlm", "demo-vit")
}


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-vlm")


@pytest.mark.parametrize("name", report_vlm.ASKED)
def test_the_card_is_true(model, name):
    """Measured again on fewer questions: within the sampling error of what the card says."""
    task, settings = report_vlm.ASKED[name]
    asked = report_vlm.held_out(task, 100, **settings)
    for image, row in ((True, name), (False, f"{name}, blind")):
        said = report_vlm.said(model, asked, image=image)
        right = [text == record.answers[0] for text, record in zip(said, asked, strict=True)]
        assert agrees(sum(right) / 100, NUMBERS["demo-vlm"][row], 100), row


@pytest.mark.parametrize(("name", "row"), [(name, row) for name in NUMBERS for row in WANTED[name]])
def test_what_was_asked_is_reached(name, row):
    assert verdict(name, row, NUMBERS[name][row]) == "reached"


def test_it_opens_as_any_hugging_face_folder():
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = MODELS / "demo-vlm"
    hf = LlavaForConditionalGeneration.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder, backend="pil")
    record = TASKS["colour"](1)[0]
    content = [{"type": "image"}, {"type": "text", "text": record.prompt}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(text=text, images=record.image, return_tensors="pt")
    bos = processor.tokenizer.bos_token_id
    assert (inputs["input_ids"] == bos).sum() == 1 and inputs["input_ids"][0, 0] == bos
    said = hf.generate(**inputs, max_new_tokens=8, do_sample=False)[
        0, inputs["input_ids"].shape[1] :
    ]
    assert (
        processor.tokenizer.decode(said, skip_special_tokens=True).strip()
        == record.answers[0].strip()
    )
    assert said[-1] == processor.tokenizer.eos_token_id and len(said) < 8


def test_its_template_takes_plain_strings_and_refuses_other_roles(model):
    ask = [{"role": "user", "content": "What colour is the square?"}]
    render = model.processor.apply_chat_template
    assert render(ask, add_generation_prompt=True) == "USER: What colour is the square? ASSISTANT:"
    with pytest.raises(Exception, match="user and assistant only"):
        render([{"role": "system", "content": "Be brief."}, *ask])


def test_all_that_is_shipped_is_small():
    sizes = {path: path.stat().st_size for path in MODELS.rglob("*") if path.is_file()}
    assert sum(sizes.values()) <= 25e6
    assert all(size <= 6e6 for path, size in sizes.items() if path.suffix == ".safetensors")
    assert not [path for path in sizes if path.suffix in (".bin", ".pt", ".pkl")]


def test_what_it_looks_at_can_be_drawn(model):
    record = TASKS["colour"](8)[3]
    prompt = model.encode(record.prompt, images=record.image)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern", layers=[1])
    heat = prompt.heatmap(trace["pattern", 1][0, 1, -1])
    figure = image_map(record.image, heat, "layer 1, head 1")
    assert len(figure.data) == 3
    left, top, right, bottom = record.notes["objects"][record.notes["asked"]]["box"]
    inside = heat[int(top) : int(bottom) + 1, int(left) : int(right) + 1]
    assert inside.mean() > 5 * heat.mean()
    with pytest.raises(ValueError, match="of the image's size"):
        image_map(record.image, heat[:50], "")
