"""SpotLight: a highlight gets its least share, row by row."""

import math

import pytest
import torch

import interp
from interp.interventions import INTERVENTIONS, SpotLight
from tests.pressed import agree, called, marked, padded, tiny


def lightened(scores, lit, target):
    """A row of visible scores by the paper's rule, and its weights after it."""
    top = max(scores)
    psi = sum(math.exp(s - top) for k, s in enumerate(scores) if k in lit)
    psi /= sum(math.exp(s - top) for s in scores)
    if 0 < psi < target:
        scores = [s + math.log(target / psi) * (k in lit) for k, s in enumerate(scores)]
    weights = [math.exp(s - max(scores)) for s in scores]
    return [w / sum(weights) for w in weights]


def maps(model, prompt, site, layer, **more):
    with torch.no_grad():
        return model.trace(prompt, site, layers=[layer], **more)[site, layer]


def test_a_row_by_hand():
    model, prompt = tiny("llama", length=3)
    prompt.spans["key"] = marked(prompt, 2)
    _, (hook,) = SpotLight(target=0.4).plan(model, prompt)
    scores = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().view(1, 1, 1, 3)
    found = called(hook, scores).softmax(-1).flatten()
    # 0.2 becomes 0.4 beside 0.5 and 0.3: of 1.2
    torch.testing.assert_close(found, torch.tensor([0.5, 0.3, 0.4], dtype=torch.float64) / 1.2)
    _, (hook,) = SpotLight(target=0.2).plan(model, prompt)
    torch.testing.assert_close(called(hook, scores), scores)


@pytest.mark.parametrize("target", [0.02, 0.1, 0.5, 1.0])
def test_what_the_highlight_gets_lies_between_its_bounds(target):
    torch.manual_seed(0)
    model, prompt = tiny("llama", length=8)
    prompt.spans["key"] = marked(prompt, 1, 4, 5)
    _, (hook,) = SpotLight(target=target).plan(model, prompt)
    scores = torch.randn(1, 4, 50, 11, dtype=torch.float64) * 6
    before = scores.softmax(-1)[..., [1, 4, 5]].sum(-1)
    after = called(hook, scores, first=8).softmax(-1)[..., [1, 4, 5]].sum(-1)
    short = before < target
    assert short.any()
    assert (after[short] >= target / (1 + target) - 1e-12).all()
    assert (after[short] <= target + 1e-12).all()
    torch.testing.assert_close(after[~short], before[~short], atol=1e-12, rtol=0)


@pytest.mark.parametrize("target", [0.05, 0.4, 0.9])
@pytest.mark.parametrize("family", ["llama", "gpt2", "llava"])
def test_every_row_is_the_papers(family, target):
    model, prompt = tiny(family, batch=2, length=8, double=True)
    prompt.spans["key"] = marked(prompt, 3, 4)
    prompt.spans["key"][1] = marked(prompt, 1, 6)[1]
    for layer, heads in ((0, None), (3, [1])):
        scores = maps(model, prompt, "scores", layer)
        chosen = {layer: heads or [0, 1, 2, 3]}
        found = maps(model, prompt, "pattern", layer, using=SpotLight(target=target, heads=chosen))
        for row in range(2):
            lit = prompt.spans["key"][row].nonzero().flatten().tolist()
            for head in chosen[layer]:
                for query in range(prompt.length):
                    seen = scores[row, head, query, : query + 1].tolist()
                    wanted = torch.tensor(lightened(seen, lit, target), dtype=torch.float64)
                    own = found[row, head, query, : query + 1]
                    torch.testing.assert_close(own, wanted, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_rows_that_cannot_see_it_stay_and_nothing_hidden_appears(dtype):
    model, prompt = tiny("llama", batch=2)
    prompt = padded(model, prompt.inputs, 3)
    prompt.spans["key"] = marked(prompt, 6, row=0) | marked(prompt, 11, row=1)
    model.hf.to(dtype)
    plain = maps(model, prompt, "pattern", 1)
    rows = maps(model, prompt, "pattern", 1, using=SpotLight(target=0.9, layers=[1]))
    assert rows.isfinite().all()
    assert rows[:, :, 3:].triu(4).abs().max() == 0
    assert rows[:, :, 3:, :3].abs().max() == 0
    close = {"atol": 1e-2 if dtype != torch.float32 else 1e-6, "rtol": 0}
    torch.testing.assert_close(rows[0, :, 3:6], plain[0, :, 3:6], **close)
    torch.testing.assert_close(rows[1, :, 3:11], plain[1, :, 3:11], **close)
    assert (rows[0, :, 6:, 6] > 0.45).all()


@pytest.mark.parametrize("family", ["llama", "gemma2", "mistral", "llava"])
def test_cached_uncached_and_at_once_agree(family):
    model, prompt = tiny(family, batch=2)
    prompt.spans["key"] = marked(prompt, 2, 5)
    prompt.spans["key"][1] = marked(prompt, 7)[1]
    agree(model, prompt, SpotLight(target=0.6))
    agree(model, prompt, SpotLight(target=0.8, highlight=["first", "key"], layers=[1, 2]))


def test_a_row_in_a_padded_batch_is_the_row_alone():
    model, prompt = tiny("llama")
    prompt.spans["key"] = marked(prompt, 4)
    wide = padded(model, prompt.inputs, 5)
    wide.spans["key"] = marked(wide, 9)
    alone = model.logits(prompt, using=SpotLight(target=0.5))
    found = model.logits(wide, using=SpotLight(target=0.5))[:, 5:]
    torch.testing.assert_close(found, alone, atol=1e-5, rtol=0)


def test_gradients_reach_the_scores():
    model, prompt = tiny("llama", batch=2)
    prompt.spans["key"] = marked(prompt, 4)
    logits = model.logits(prompt, using=SpotLight(target=0.9))
    logits[:, -1].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.hf.parameters() if p.grad is not None)


def test_what_cannot_be_is_refused():
    model, prompt = tiny("llama")
    with pytest.raises(LookupError, match="no span 'key'"):
        SpotLight().plan(model, prompt)
    prompt.spans["key"] = marked(prompt)
    with pytest.raises(LookupError, match="row 0 has nothing of 'key'"):
        SpotLight().plan(model, prompt)
    for target in (-0.1, 1.1, float("nan"), "0.1", False):
        with pytest.raises(ValueError, match="target is a number from 0 to 1"):
            SpotLight(target=target)
    with pytest.raises(TypeError, match="exact text"):
        SpotLight(highlight=0)
    encoder, inputs = tiny("t5")
    with pytest.raises(ValueError, match="decoder-only"):
        SpotLight(highlight="first").plan(encoder, inputs)
    assert SpotLight.inert().plan(model, prompt) == (prompt, [])
    assert INTERVENTIONS["SpotLight"] is SpotLight


def test_the_highlighted_statement_is_believed_more_often():
    """Half a row's attention, in all heads, as the validation split has it; these are of the test split."""
    demo = interp.load("demo-lm")
    task = interp.Task.load("open_book", kind="where", sentences=6, conflict="statements", count=60)
    right = {
        target: interp.score(demo, task, using=SpotLight(target=target))["right"].mean()
        for target in (0.0, 0.5)
    }
    assert right[0.5] > right[0.0] + 0.15
