"""A prompt with its answer, and batches of one length."""

import pytest
import torch

import interp
from interp.batches import answered, batches
from interp.responses import respond


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def task():
    return interp.Task.load("ioi", count=6)


def test_one_forward_over_prompt_and_answer_writes_the_answer(model, task):
    prompt = model.encode(task[0].prompt)
    whole = respond(model, prompt, max_new_tokens=5, min_new_tokens=5)
    new = whole.where("response")[0]
    assert new.sum() == 5 and whole.length == prompt.length + 5
    said = model.logits(whole)[0, :-1][new[1:]]
    said[:, model.hf.generation_config.eos_token_id] = -torch.inf  # min_new_tokens forbids it
    assert torch.equal(said.argmax(-1), whole.ids[0, new])
    assert torch.equal(whole.where("question")[0].nonzero(), prompt.mask[0].nonzero())


def test_a_given_answer_and_the_records_spans(model, task):
    prompt = task[:1].encode(model)
    whole = respond(model, prompt, " Mary")
    assert whole.tokens[0][-1].strip() == "Mary" and whole.where("response").sum() == 1
    assert torch.equal(whole.where("S2")[:, :-1], prompt.where("S2"))


def test_an_image_prompt_keeps_its_image():
    model = interp.load("demo-vlm")
    record = interp.Task.load("colour", count=1)[0]
    prompt = model.encode(record.prompt, images=record.image)
    whole = respond(model, prompt, max_new_tokens=2, min_new_tokens=2)
    assert whole.where("image").sum() == 36 and whole.where("response").sum() == 2
    row = model.trace(whole, "pattern", layers=[3])["pattern", 3][0, 0, -1]
    assert whole.fold(row).shape == (6, 6)


def test_rows_that_end_early_are_padded_and_given_answers_are_taken_whole(model, monkeypatch):
    end = model.hf.generation_config.eos_token_id
    prompt = model.encode(["The river", "The big"])
    written = torch.tensor([[20, end, 0], [20, 21, 22]])
    whole = respond(model, prompt, written)
    assert whole.where("response").sum(1).tolist() == [3, 3]
    generated = torch.cat([prompt.ids, written], 1)
    monkeypatch.setattr(type(model), "generate", lambda *_, **__: generated)
    whole = respond(model, prompt)
    assert whole.where("response").sum(1).tolist() == [2, 3]
    assert whole.mask.sum(1).tolist() == [prompt.length + 2, prompt.length + 3]


def test_refusals(model):
    with pytest.raises(ValueError, match="an image classifier|does not go on"):
        respond(
            interp.load("demo-vit"),
            interp.load("demo-vit").encode(images=interp.Task.load("digits", count=1)[0].image),
        )
    with pytest.raises(ValueError, match="answer= is a text, or ids"):
        respond(model, "The river", torch.tensor([1.0]))
    with pytest.raises(TypeError, match="sinks takes a Task"):
        list(batches(model, 3, "sinks"))
    with pytest.raises(ValueError, match="a text of one token"):
        list(batches(model, "", "sinks"))
    with pytest.raises(ValueError, match="the response is empty: give at least one token"):
        respond(model, "The river", "")
    with pytest.raises(ValueError, match="99999"):
        respond(model, "The river", torch.tensor([[5, 99999]]))
    with pytest.raises(ValueError, match="256"):
        respond(model, "The river", torch.full((1, 300), 5))


def test_batches_hold_every_record_once_without_padding(model):
    task = interp.Task.load("open_book", count=9)
    found = list(batches(model, task, "sinks", 4))
    assert sorted(number for batch in found for number in batch.numbers) == list(range(9))
    for batch in found:
        assert bool(batch.prompt.mask.all()) and len(batch.prompt) == len(batch.records) <= 4
        assert all(
            task[number] is record
            for number, record in zip(batch.numbers, batch.records, strict=True)
        )
    assert answered(task[0]).prompt == task[0].prompt + task[0].answers[0]
    assert len(next(batches(model, "The river", "sinks")).records) == 1
    padded = model.encode(["The river", "The big river"])
    padded.spans["end"] = padded.where("last")
    found = list(batches(model, padded, "sinks"))
    assert [len(batch.prompt.tokens[0]) for batch in found] == [3, 4]
    assert all(
        batch.prompt.where("end")[0].tolist().index(True) + 1 == batch.prompt.length
        for batch in found
    )
