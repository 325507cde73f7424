"""The recipe of demo-vlm: packed questions are asked alone, and nothing held out is trained on."""

import random
import tempfile

import pytest
import torch

import interp
from data.recipes.vlm_batches import ids_of, images_and_questions, opening, pack
from data.recipes.vlm_model import fresh, pixel_values, scale_projector, words_norm
from data.recipes.vlm_questions import Sloppiness, questions
from data.recipes.vlm_scenes import patches, view
from data.recipes.vlm_watch import ask, prompt_ids, tensor_of
from data.recipes.vlm_words import BOS, EOS, UNKNOWN, processor, tokenizer
from interp.tasks import TASKS, split_of
from interp.tasks.scene import layout, scene


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = fresh()
    scale_projector(made, torch.randn(2, 3, 96, 96), 1.5)
    return made.eval()


def test_packed_questions_are_as_if_asked_alone(model):
    chance = random.Random(0)
    seen = view(chance)
    asked = questions(chance, seen.things, 4, Sloppiness())
    packed = pack([seen.pixels], [asked])
    inner, first = model.model, len(opening())
    tokens = inner.get_image_features(pixel_values(packed.images)).pooler_output[0]
    embedded = model.get_input_embeddings()(packed.ids)
    embedded[0, first - len(tokens) : first] = tokens
    together = inner.language_model(
        inputs_embeds=embedded, attention_mask=packed.mask, position_ids=packed.positions
    )[0]
    start = first
    for each in asked:
        ids = [*ids_of(f" {each.question} ASSISTANT:"), *ids_of(f" {each.answer}"), EOS]
        alone = inner(
            input_ids=torch.tensor([[*opening(), *ids]]), pixel_values=pixel_values(packed.images)
        )[0]
        end = start + len(ids)
        assert torch.allclose(together[0, start:end], alone[0, first:], atol=1e-4)
        assert packed.targets[0, start : end - 1].tolist() == ids[1:]
        start = end


def test_training_never_shows_a_held_out_scene():
    chance = random.Random(1)
    for _ in range(300):
        assert split_of(layout(view(chance).things)) == "train"


def test_the_same_chance_makes_the_same_batch():
    first, second = (images_and_questions(random.Random(7), 3, 4, Sloppiness()) for _ in range(2))
    assert torch.equal(first.images, second.images) and torch.equal(first.ids, second.ids)


def test_an_object_lies_in_its_patches():
    chance = random.Random(2)
    for _ in range(50):
        for thing in scene(chance):
            if not thing.hidden:
                assert thing.cell in patches(thing)


def test_every_word_is_known():
    reader = tokenizer()
    for name in ("existence", "colour", "count", "where", "captions"):
        for record in TASKS[name](30):
            ids = reader(f"USER: {record.prompt} ASSISTANT:{record.answers[0]}")["input_ids"]
            assert UNKNOWN not in ids and ids.count(BOS) == 1
            assert reader.decode(ids[1:]).endswith(
                record.prompt + " ASSISTANT:" + record.answers[0]
            )


def test_the_folder_opens_and_reads_as_the_recipe_does(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        processor().save_pretrained(folder)
        opened = interp.load(folder)
    task = TASKS["colour"](3)
    prompt = opened.encode(task[0].prompt, images=task[0].image)
    assert prompt.inputs["input_ids"][0].tolist() == prompt_ids(task[0], True)
    assert torch.equal(prompt.inputs["pixel_values"], tensor_of([task[0].image]))
    assert int(prompt.where("image").sum()) == 36
    with torch.no_grad():
        logits = opened.logits(task.encode(opened))[:, -1]
    assert torch.allclose(logits, ask(model, [*task]), atol=1e-4)


def test_image_tokens_start_near_the_words(model):
    features = model.model.get_image_features(torch.randn(2, 3, 96, 96)).pooler_output
    norm = torch.stack([*features]).norm(dim=-1).mean()
    assert 0.5 < norm / words_norm(model) < 4
