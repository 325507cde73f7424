"""PASTA: the paper's weights, row by row, and what a highlight is."""

import math

import pytest
import torch

import interp
from interp.interventions import INTERVENTIONS, PASTA, Found
from tests.pressed import agree, called, marked, padded, tiny


def steered(weights, lit, spared, alpha):
    """One row by the paper's rule: weights outside times alpha, and the row divided by its new sum."""
    kept = [w if k in lit or k in spared else alpha * w for k, w in enumerate(weights)]
    total = sum(kept)
    return [w / total for w in kept]


def pattern(model, prompt, layer, **more):
    with torch.no_grad():
        return model.trace(prompt, "pattern", layers=[layer], **more)["pattern", layer]


def expected(plain, prompt, lit, spared, alpha, heads):
    made = plain.clone()
    for row in range(plain.shape[0]):
        real = [k for k in range(plain.shape[-1]) if prompt.mask[row, k]]
        for head in heads:
            for query in real:
                weights = [float(plain[row, head, query, k]) for k in real]
                own = [i for i, k in enumerate(real) if lit[row, k]]
                free = [i for i, k in enumerate(real) if spared[row, k]]
                for k, w in zip(real, steered(weights, own, free, alpha), strict=True):
                    made[row, head, query, k] = w
    return made


def test_a_row_by_hand():
    model, prompt = tiny("llama", length=3)
    prompt.spans["key"] = marked(prompt, 2)
    _, (hook,) = PASTA(alpha=0.25).plan(model, prompt)
    scores = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().view(1, 1, 1, 3)
    found = called(hook, scores).softmax(-1).flatten()
    # 0.125, 0.075 and 0.2 are left, of 0.4
    torch.testing.assert_close(found, torch.tensor([0.3125, 0.1875, 0.5], dtype=torch.float64))


def test_beams_of_a_row_have_its_highlight():
    model, prompt = tiny("llama", batch=2, length=3)
    prompt.spans["key"] = marked(prompt, 0, row=0) | marked(prompt, 2, row=1)
    _, (hook,) = PASTA(alpha=0.1).plan(model, prompt)
    low = math.log(0.1)
    after = called(hook, torch.zeros(4, 1, 1, 4))[:, 0, 0]
    wanted = [[0, low, low, 0]] * 2 + [[low, low, 0, 0]] * 2
    torch.testing.assert_close(after, torch.tensor(wanted))


@pytest.mark.parametrize("alpha", [1e-4, 0.01, 0.3, 0.9])
@pytest.mark.parametrize("family", ["llama", "gpt2", "llava"])
def test_the_mask_form_is_the_papers_weights(family, alpha):
    model, prompt = tiny(family, batch=2, double=True)
    prompt.spans["key"] = marked(prompt, 4, 5)
    prompt.spans["key"][1] = marked(prompt, 2, 7, 8)[1]
    prompt.spans["other"] = marked(prompt, 9)
    for layer in (0, 3):
        plain = pattern(model, prompt, layer)
        for heads in ([1], [0, 3], [0, 1, 2, 3]):
            using = PASTA(alpha=alpha, heads={layer: heads}, spare="other")
            found = pattern(model, prompt, layer, using=using)
            wanted = expected(
                plain, prompt, prompt.spans["key"], prompt.spans["other"], alpha, heads
            )
            torch.testing.assert_close(found, wanted, atol=1e-9, rtol=0)


def test_several_highlights_are_their_union():
    model, prompt = tiny("llama")
    prompt.spans |= {
        "one": marked(prompt, 3),
        "two": marked(prompt, 6, 7),
        "both": marked(prompt, 3, 6, 7),
    }
    apart = model.logits(prompt, using=PASTA(highlight=["one", "two"]))
    assert torch.equal(apart, model.logits(prompt, using=PASTA(highlight="both")))
    assert (apart - model.logits(prompt)).abs().max() > 0.01


def test_the_released_codes_highlights_press_each_other_down():
    model, prompt = tiny("llama", length=4)
    prompt.spans |= {"one": marked(prompt, 0), "two": marked(prompt, 2)}
    _, (hook,) = PASTA(highlight=("one", "two"), alpha=0.1, official=True).plan(model, prompt)
    after = called(hook, torch.zeros(1, 1, 1, 6))  # two tokens of the answer follow
    low = math.log(0.1)
    torch.testing.assert_close(after.flatten(), torch.tensor([low, 2 * low, low, 2 * low, 0, 0]))
    _, (hook,) = PASTA(highlight=("one", "two"), alpha=0.1).plan(model, prompt)
    after = called(hook, torch.zeros(1, 1, 1, 6))
    torch.testing.assert_close(after.flatten(), torch.tensor([0, low, 0, low, 0, 0]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_hidden_keys_stay_hidden_in_every_precision(dtype):
    model, prompt = tiny("llama", batch=2)
    prompt = padded(model, prompt.inputs, 3)
    prompt.spans["key"] = marked(prompt, 8)
    model.hf.to(dtype)
    for alpha in (0.01, 1e-30):
        rows = pattern(model, prompt, 1, using=PASTA(alpha=alpha, layers=[1])).float()
        assert rows.isfinite().all()
        assert rows[:, :, 3:, :3].abs().max() == 0
        assert rows[:, :, 3:].triu(4).abs().max() == 0
        torch.testing.assert_close(rows[:, :, 3:].sum(-1), torch.ones(2, 4, 12), atol=2e-2, rtol=0)


def test_rows_before_the_highlight_and_heads_not_named_are_the_plain_ones():
    model, prompt = tiny("llama")
    prompt.spans["key"] = marked(prompt, 5, 6)
    plain = pattern(model, prompt, 2)
    found = pattern(model, prompt, 2, using=PASTA(heads=["2.1"]))
    assert torch.equal(found[:, :, :5], plain[:, :, :5])
    assert torch.equal(found[:, [0, 2, 3]], plain[:, [0, 2, 3]])
    assert (found[:, 1, 6:] - plain[:, 1, 6:]).abs().max() > 0.1


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "llava", "gpt_oss"])
def test_cached_uncached_and_at_once_agree(family):
    model, prompt = tiny(family, batch=2)
    prompt.spans["key"] = marked(prompt, 2, 3)
    prompt.spans["key"][1] = marked(prompt, 7)[1]
    agree(model, prompt, PASTA(alpha=0.02))
    agree(model, prompt, PASTA(alpha=1e-3, heads={1: [0, 2], 3: [1]}, spare="last"))


def test_a_row_in_a_padded_batch_is_the_row_alone():
    model, prompt = tiny("llama", batch=1)
    prompt.spans["key"] = marked(prompt, 4)
    wide = padded(model, prompt.inputs, 5)
    wide.spans["key"] = marked(wide, 9)
    alone = model.logits(prompt, using=PASTA())
    torch.testing.assert_close(model.logits(wide, using=PASTA())[:, 5:], alone, atol=1e-5, rtol=0)


def test_heads_are_named_in_every_way(tmp_path):
    model, prompt = tiny("llama")
    prompt.spans["key"] = marked(prompt, 4)
    pairs = [(1, 0), (1, 2), (3, 1)]
    found = Found.on(model, "heads", pairs)
    ways = [
        pairs,
        ["1.0", "1.2", "3.1"],
        {1: [0, 2], 3: [1]},
        found,
        found.save(tmp_path / "heads.json"),
    ]
    logits = [model.logits(prompt, using=PASTA(heads=heads)) for heads in ways]
    assert all(torch.equal(each, logits[0]) for each in logits)
    _, hooks = PASTA(heads="2.3").plan(model, prompt)
    assert [(hook.layers, hook.heads) for hook in hooks] == [([2], (3,))]
    other, _ = tiny("gpt2")
    with pytest.raises(ValueError, match="were found on"):
        PASTA(heads=found).plan(other, prompt)


def test_what_cannot_be_is_refused():
    model, prompt = tiny("llama", batch=2)
    prompt.spans["key"] = marked(prompt, 4, row=0)
    with pytest.raises(LookupError, match="row 1 has nothing of 'key'"):
        PASTA().plan(model, prompt)
    prompt.spans["key"] = prompt.mask.clone()
    with pytest.raises(ValueError, match="nothing is left"):
        PASTA().plan(model, prompt)
    prompt.spans["key"] = marked(prompt, 4)
    with pytest.raises(ValueError, match="heads name their layers"):
        PASTA(heads=["1.0"], layers=[1]).plan(model, prompt)
    with pytest.raises(IndexError, match="out of range"):
        PASTA(heads=["1.9"]).plan(model, prompt)
    with pytest.raises(ValueError, match="take the rest of the prompt away"):
        PASTA(alpha=0)
    for alpha in (-0.1, 1.5, float("nan"), "0.1", True):
        with pytest.raises(ValueError, match="alpha is a number from 0 to 1"):
            PASTA(alpha=alpha)
    for highlight in (3, None, ["key", 3], marked(prompt, 1)):
        with pytest.raises(TypeError, match="the name of a span or an exact text"):
            PASTA(highlight=highlight)
    for highlight in ("", " ", []):
        with pytest.raises(ValueError, match="names nothing"):
            PASTA(highlight=highlight)
    encoder, inputs = tiny("t5")
    with pytest.raises(ValueError, match="decoder-only"):
        PASTA(highlight="first").plan(encoder, inputs)


def test_inert_is_nothing_and_the_registry_knows_it():
    model, prompt = tiny("llama")
    assert PASTA.inert().plan(model, prompt) == (prompt, [])
    assert INTERVENTIONS["PASTA"] is PASTA


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


def test_a_misspelt_highlight_is_told_the_nearest(demo):
    prompt = demo.encode("The ring is in the box. The hat is in the jar.")
    with pytest.raises(LookupError, match="Did you mean 'The hat is in the jar.'"):
        PASTA(highlight="The hat is in the car.").plan(demo, prompt)
    with pytest.raises(LookupError, match="no span 'key'"):
        PASTA().plan(demo, prompt)


def test_of_two_statements_the_highlighted_one_is_believed(demo):
    """A layer of heads, chosen on the validation split; these records are of the test split."""
    task = interp.Task.load("open_book", kind="where", sentences=6, conflict="statements", count=40)
    plain = interp.score(demo, task)["right"].mean()
    using = PASTA(layers=[3])
    key = interp.score(demo, task, using=using)["right"].mean()
    words = []
    for record in task:
        about = f"The {record.text('thing')} is"
        rival = [
            s for s in record.notes["sentences"] if s.startswith(about) and s != record.text("key")
        ]
        words.append(rival[0])
    prompt = task.encode(demo)
    prompt.spans["rival"] = prompt.locate(words)
    with torch.no_grad():
        logits = demo.logits(prompt, using=PASTA(highlight="rival", layers=[3]))[:, -1]
    said = demo.tokenizer.batch_decode(logits.argmax(-1)[:, None])
    rival = sum(word in sentence for word, sentence in zip(said, words, strict=True)) / len(task)
    assert plain < 0.7 < 0.95 <= key
    assert rival >= 0.95


def test_text_highlights_generate_under_using(demo):
    prompt = demo.encode(
        "Context: The ring is in the box. The ring is in the jar. Q: Where is the ring? A:"
    )
    said = {}
    for place in ("box", "jar"):
        with demo.using(PASTA(highlight=f"The ring is in the {place}.", layers=[3])):
            ids = demo.hf.generate(**prompt.inputs, max_new_tokens=1, do_sample=False)
        said[place] = demo.decode(ids, prompt)[0].strip()
    assert said == {"box": "box", "jar": "jar"}
