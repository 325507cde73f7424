"""The analysis `attention` and the reader of what it saved, held against the maps themselves."""

import numpy as np
import pytest
import torch

import interp
from analyses import ANALYSES
from interp.looking import Look
from interp.plots import attention_figure

attention = ANALYSES["attention"]


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def text(lm):
    task = interp.Task.load("open_book", count=2, sentences=8)
    prompt = task[1:2].encode(lm)
    with torch.no_grad():
        return task, prompt, lm.trace(prompt, "pattern", keep=["entropy", "distance"])


def test_short_texts_are_kept_as_they_are(lm, text, tmp_path):
    task, prompt, trace = text
    result = attention(lm, task, record=1, whole=200)
    look = Look.of(interp.Result.load(result.save(tmp_path / "look")))
    assert look.whole and look.stretch == 1 and look.tokens == list(prompt.tokens[0])
    for layer in look.layers:
        for head in range(look.heads):
            assert torch.equal(
                torch.tensor(look.map(layer, head)), trace["pattern", layer][0, head]
            )
    assert np.array_equal(look.row(2, 3, -1), look.map(2, 3)[-1])


def test_long_texts_keep_each_querys_largest_shares_and_maps_of_stretches(lm, text):
    task, prompt, trace = text
    look = Look.of(attention(lm, task, record=1, whole=10, cells=7, top=5))
    size, stretch = prompt.length, look.stretch
    assert not look.whole and stretch == -(-size // 7)
    for layer in look.layers:
        for head in range(look.heads):
            full = trace["pattern", layer][0, head]
            for query in (0, 3, size // 2, size - 1):
                row = torch.tensor(look.row(layer, head, query))
                largest = full[query].topk(5).values
                assert torch.allclose(row.topk(5).values, largest, atol=1e-6)
                kept = row > 0
                assert kept.sum() <= 5 and torch.allclose(row[kept], full[query][kept], atol=1e-6)
            starts = range(0, size, stretch)
            expected = torch.stack([
                torch.stack([full[a : a + stretch, b : b + stretch].sum(1).mean() for b in starts])
                for a in starts
            ])  # fmt: skip
            assert torch.allclose(torch.tensor(look.map(layer, head)), expected, atol=1e-5)


def test_the_table_has_means_over_queries_and_what_comes_next(lm, text):
    task, prompt, trace = text
    result = attention(lm, task, record=1)
    row = result.table.query("layer == 2 and head == 3").iloc[0]
    pattern = trace["pattern", 2][0, 3]
    assert row["first"] == pytest.approx(float(pattern[:, 0].mean()), abs=1e-5)
    assert row["entropy"] == pytest.approx(float(trace["entropy", 2][0, 3].mean()), abs=1e-5)
    assert row["distance"] == pytest.approx(float(trace["distance", 2][0, 3].mean()), abs=1e-4)
    with torch.no_grad():
        shares = lm.logits(prompt)[0, -1].softmax(-1)
    found = result.tables["next"].iloc[0]
    assert found["token"] == lm.tokenizer.decode([int(shares.argmax())])
    assert found["probability"] == pytest.approx(float(shares.max()), abs=1e-6)
    assert "image" not in result.table and "image" not in result.tensors


@pytest.mark.parametrize(("name", "task"), [("demo-vlm", "colour"), ("demo-vit", "digits")])
def test_a_saved_look_lies_over_the_image_as_the_prompt_does(name, task, tmp_path):
    model, records = interp.load(name), interp.Task.load(task, count=1)
    result = attention(model, records)
    look = Look.of(interp.Result.load(result.save(tmp_path / "look")))
    prompt = records.encode(model)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern", stack=result.made["stack"])
    query = look.on_image.argmax() if name == "demo-vit" else -1
    expected = prompt.heatmap(trace["pattern", 1][0, 1, query], size=look.image.size[::-1])
    assert np.allclose(look.heat(1, 1, int(query)), expected.numpy(), atol=1e-5)
    assert np.array_equal(np.asarray(look.image), np.asarray(records[0].image.convert("RGB")))
    share = float(trace["pattern", 1][0, 1][:, torch.tensor(look.on_image)].sum(-1).mean())
    own = result.table.query("layer == 1 and head == 1").iloc[0]
    assert own["image"] == pytest.approx(share, abs=1e-5)
    assert attention_figure.overlay(look, 1, 1, int(query)) is not None


def test_the_tower_of_a_vision_language_model_can_be_asked():
    model, records = interp.load("demo-vlm"), interp.Task.load("colour", count=1)
    look = Look.of(attention(model, records, stack="vision"))
    assert (
        len(look.tokens) == 37 and look.heat(0, 0, 0) is None
    )  # its keys are no positions of the text


def test_thumbnails_stand_in_the_order_of_the_table(lm, text):
    """A click gives the number of a point, which is read as a row of the table."""
    result = attention(lm, text[0])
    figure = attention_figure.sheet(Look.of(result), 1, 2)
    points = figure.data[1]
    where = [(int(layer), int(head)) for layer, head in points.customdata]
    assert where == list(zip(result.table["layer"], result.table["head"], strict=True))
    across = {head: x for (_, head), x in zip(where, points.x, strict=True)}
    assert [across[head] for head in sorted(across)] == sorted(across.values())


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda lm, task: attention(lm, task, record=7), "records 0 to 1"),
        (lambda lm, task: attention(lm, lm.encode(["one two", "three four"])), "2 rows"),
        (
            lambda lm, task: Look.of(ANALYSES["sinks"](lm, task, ablate="none")),
            "a result of 'sinks'",
        ),
        (lambda lm, task: Look.of(attention(lm, task)).row(9, 0, 0), "layers are 0 to 3"),
        (lambda lm, task: Look.of(attention(lm, task)).row(0, 0, 999), "no query 999"),
        (lambda lm, task: attention(lm, task, whole=1, top=0), "count=0"),
    ],
)
def test_what_cannot_be_looked_at_is_told(lm, text, ask, says):
    with pytest.raises((ValueError, LookupError), match=says):
        ask(lm, text[0])
