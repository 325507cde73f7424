"""VHR against loops written from its rules and against runs that decide one layer at a time."""

import gc
import math
import threading
import time

import pytest
import torch

import interp
from interp import Hook
from interp.interventions import VHR
from interp.responses import respond
from interp.scoring import score
from interp.steering.companion import Companion
from tests.tiny_vlm import opened

GREEDY = {"max_new_tokens": 6, "do_sample": False}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def llava():
    return opened(batch=2)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-vlm")


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


# The rules, in loops over numbers.


def spread(values):
    mean = sum(values) / len(values)
    return mean, math.sqrt(sum((one - mean) ** 2 for one in values) / (len(values) - 1))


def heads_of(full, alone, outliers, squared):
    """Which heads of one row are reinforced; full and alone are [head][number]."""
    moved = [
        math.sqrt(sum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
        for x, y in zip(full, alone, strict=True)
    ]
    if squared:
        moved = [one**2 for one in moved]
    active = [sum(b * b for b in y) for y in alone]
    if outliers:
        (m, s), (n, t) = spread(moved), spread(active)
        moved = [0.0 if v > m + s and a > n + t else v for v, a in zip(moved, active, strict=True)]
    middle = sorted(moved)[(len(moved) - 1) // 2]  # the lower of two
    return [one > middle for one in moved]


@pytest.mark.parametrize("heads", [2, 4, 7, 8])
@pytest.mark.parametrize("official", [False, True])
@pytest.mark.parametrize("outliers", [False, True])
def test_the_choice_is_the_papers(heads, official, outliers):
    made = torch.Generator().manual_seed(heads)
    method, met = VHR(outliers=outliers, official=official), 0
    for _ in range(40):
        alone = torch.randn(3, heads, 5, generator=made, dtype=torch.float64)
        alone[:, 0] *= 3
        full = alone + torch.randn(3, heads, 5, generator=made, dtype=torch.float64)
        full[:, 0] += 2
        expected = [
            heads_of(*pair, outliers, official)
            for pair in zip(full.tolist(), alone.tolist(), strict=True)
        ]
        assert method.chosen(full, alone).tolist() == expected
        met += (
            method.chosen(full, alone).tolist() != VHR(outliers=False).chosen(full, alone).tolist()
        )
    assert (met > 0) == (outliers and heads > 2)  # the filter does something


def test_a_choice_worked_by_hand():
    """VHD 1, 2, 3, 10 and |z alone| 0, 0, 0, 5: the last is an outlier, the median of 1, 2, 3, 0 is 1."""
    alone = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [3.0, 4.0]])
    full = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [3.0, 14.0]])
    assert VHR().chosen(full, alone).tolist() == [False, True, True, False]
    assert VHR(outliers=False).chosen(full, alone).tolist() == [False, False, True, True]
    assert not VHR().chosen(full, full).any()  # streams that say the same choose nothing


def test_squares_change_which_heads_are_outliers():
    made = torch.Generator().manual_seed(0)
    differ = 0
    for _ in range(300):
        alone = torch.randn(8, 4, generator=made).abs() * torch.rand(8, 1, generator=made) * 3
        full = alone * (1 + torch.rand(8, 1, generator=made) * 2)
        one, other = (VHR(official=flag).chosen(full, alone) for flag in (False, True))
        differ += bool((one != other).any())
    assert differ > 5


# Against a slow run: layer by layer, both streams anew, with what is decided so far.


def slowly(model, prompt, blind, layers, method):
    """[layer][row][head], decided in 2 forwards a layer."""
    decided = {}

    def scaled(z, at):
        if at.layer not in decided:
            return None
        factor = [[method.alpha if on else 1.0 for on in row] for row in decided[at.layer]]
        return z * torch.tensor(factor)[:, None, :, None].to(z)

    for layer in layers:
        seen = []
        for one in (prompt, blind):
            with torch.no_grad():
                trace = model.trace(one, "z", layers=[layer], hooks=[Hook("z", scaled, layers)])
            last = [max(p for p, real in enumerate(row) if real) for row in one.mask.tolist()]
            seen.append([trace["z", layer][row, place].tolist() for row, place in enumerate(last)])
        decided[layer] = [
            heads_of(full, alone, method.outliers, method.official)
            for full, alone in zip(*seen, strict=True)
        ]
    with torch.no_grad():
        return decided, model.logits(prompt, hooks=[Hook("z", scaled, layers)])


def blinded(model, prompt):
    """The words alone, as a user would write them."""
    image = model.config.image_token_id
    rows = [
        [token for token, real in zip(ids, mask, strict=True) if real and token != image]
        for ids, mask in zip(prompt.ids.tolist(), prompt.mask.tolist(), strict=True)
    ]
    return model.encode(rows)


@pytest.mark.parametrize(
    "name", ["llava", "llava_next", "qwen2_vl", "gemma3", "internvl", "mllama"]
)
@pytest.mark.parametrize("alpha", [2.0, 0.5])
def test_layers_decide_with_those_below_reinforced(name, alpha):
    model, prompt = opened(name, batch=2)
    method = VHR(alpha=alpha)
    layers = [
        layer for layer, one in model.stacks["text"].layers.items() if layer and one.attention
    ]
    decided, logits = slowly(model, prompt, blinded(model, prompt), layers, method)
    heads = method.heads(model, prompt)
    assert {layer: chosen.tolist() for layer, chosen in heads.items()} == decided
    with torch.no_grad():
        assert (model.logits(prompt, using=method) - logits).abs().max() < 1e-5


def test_deciding_at_once_would_be_another_choice(llava):
    """What makes the order of layers matter: later layers hear of earlier ones."""
    model, prompt = llava
    plain = VHR(alpha=1.0).heads(model, prompt)
    steered = VHR(alpha=6.0).heads(model, prompt)
    assert torch.equal(plain[1], steered[1])
    assert any(not torch.equal(plain[layer], steered[layer]) for layer in (2, 3))


def test_on_a_real_model_in_unequal_rows(demo):
    task = interp.Task.load("existence", count=3, split="validation")
    more = interp.Task.load("count", count=2, split="validation")
    records = [*task, *more]
    texts, images = [one.prompt for one in records], [[one.image] for one in records]
    prompt = demo.encode(texts, images=images)
    assert not prompt.mask.all()
    decided, logits = slowly(demo, prompt, blinded(demo, prompt), [1, 2, 3], VHR())
    found = VHR().heads(demo, prompt)
    assert {layer: chosen.tolist() for layer, chosen in found.items()} == decided
    for row, (text, image) in enumerate(zip(texts, images, strict=True)):
        alone = VHR().heads(demo, demo.encode(text, images=image))
        assert all(torch.equal(alone[layer][0], found[layer][row]) for layer in found)
    with torch.no_grad():
        far = (demo.logits(prompt, using=VHR()) - logits)[prompt.mask].abs().max()
    assert far < 1e-4


def test_layers_are_one_and_the_last_fourteen():
    class Deep:
        size, name, refused = 20, "text", {}
        layers = {
            layer: type("Layer", (), {"attention": 1, "out": 1, "mlp": 1, "module": 1})
            for layer in range(20)
        }

    from interp.interventions import vhr

    seen = {}
    before = vhr.writing_stack, vhr.image_span, vhr.without_image
    vhr.writing_stack = lambda model, who: Deep
    vhr.image_span = vhr.without_image = lambda *given: None
    try:
        prompt = interp.Prompt({}, torch.ones(1, 3, dtype=torch.bool))
        (hook,) = VHR().plan(None, prompt)[1]
        seen = list(hook.layers)
    finally:
        vhr.writing_stack, vhr.image_span, vhr.without_image = before
    assert seen == [1, *range(6, 20)]


# In generate: decided once, kept for every step.


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl"])
def test_heads_stay_in_generate(name):
    model, prompt = opened(name)
    heads = {
        layer: own[0].nonzero()[:, 0].tolist() for layer, own in VHR().heads(model, prompt).items()
    }
    by_hand = [Hook("z", lambda z, at: z * 2, [layer], heads=own) for layer, own in heads.items()]
    expected = model.generate(prompt, hooks=by_hand, **GREEDY)
    for more in ({"use_cache": True}, {"use_cache": False}):
        assert torch.equal(model.generate(prompt, using=VHR(), **GREEDY, **more), expected)
    with model.using(VHR()):
        assert torch.equal(model.hf.generate(**prompt.inputs, **GREEDY), expected)
    # One forward over the answer, too, decides where the question ends.
    whole = respond(model, prompt, expected[:, prompt.length :])
    with torch.no_grad():
        shot, hand = model.logits(whole, using=VHR()), model.logits(whole, hooks=by_hand)
    assert (shot - hand).abs().max() < 1e-5


def test_beams_of_a_prompt_share_its_heads(llava):
    model, prompt = llava
    found = VHR().heads(model, prompt)
    assert any(not torch.equal(own[0], own[1]) for own in found.values())

    def by_row(z, at):
        factor = torch.where(found[at.layer], 2.0, 1.0).repeat_interleave(len(z) // 2, 0)
        return z * factor[:, None, :, None]

    options = {"max_new_tokens": 5, "num_beams": 3, "num_return_sequences": 2, "do_sample": False}
    expected = model.generate(prompt, hooks=[Hook("z", by_row, [1, 2, 3])], **options)
    assert torch.equal(model.generate(prompt, using=VHR(), **options), expected)


def test_one_short_prefill_more_and_no_other(llava):
    model, prompt = llava
    seen = []
    handles = [
        layer.module.register_forward_pre_hook(
            lambda module, given, layer=number: seen.append((layer, given[0].shape[1]))
        )
        for number, layer in model.stacks["text"].layers.items()
    ]
    try:
        model.generate(prompt, using=VHR(), max_new_tokens=3, do_sample=False)
    finally:
        for handle in handles:
            handle.remove()
    words = int((prompt.ids[0] != model.config.image_token_id).sum())
    counts = {shape: seen.count(shape) for shape in set(seen)}
    assert counts == {
        (layer, length): times
        for length, times in ((prompt.length, 1), (words, 1), (1, 2))
        for layer in range(4)
    }
    # In step: the words alone are in layer k after the prompt came there, and before it leaves.
    ahead, behind = ([(layer, length) for layer in (0, 1)] for length in (prompt.length, words))
    rest = [(layer, length) for layer in (2, 3) for length in (prompt.length, words)]
    assert [shape for shape in seen if shape[1] > 1] == [*ahead, *behind, *rest]


def test_gradients_flow_and_settings_of_the_thread_are_taken_along(llava):
    model, prompt = llava
    plain = model.logits(prompt, using=VHR())
    assert plain.requires_grad
    with torch.inference_mode():
        assert torch.equal(model.logits(prompt, using=VHR()), plain.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        decided, logits = slowly(model, prompt, blinded(model, prompt), [1, 2, 3], VHR())
        found = VHR().heads(model, prompt)
        assert {layer: chosen.tolist() for layer, chosen in found.items()} == decided
        assert (model.logits(prompt, using=VHR()) - logits).abs().max() < 1e-5


# What goes wrong.


class Stop(KeyboardInterrupt):
    pass


@pytest.mark.parametrize("problem", [RuntimeError, Stop])
@pytest.mark.parametrize("layer", [1, 2])
def test_the_other_run_ends_with_this_one(llava, problem, layer):
    model, prompt = llava

    def fail(value, at):
        raise problem("inside")

    kept = []
    for ask, more in ((model.logits, {}), (model.generate, {"max_new_tokens": 2})):
        with pytest.raises(problem, match="inside") as caught:
            ask(prompt, using=VHR(), hooks=[Hook("resid_post", fail, [layer])], **more)
        kept.append(caught)  # and with it every frame of the run
        assert not [one for one in threading.enumerate() if one.name == "companion"]
    with model.using(VHR(), Hook("resid_post", fail, [layer])):
        with pytest.raises(problem, match="inside"):
            model.hf(**prompt.inputs)
        assert not [one for one in threading.enumerate() if one.name == "companion"]


def test_what_goes_wrong_in_the_other_run_is_raised_here(llava, monkeypatch):
    model, prompt = llava
    words = int((prompt.ids[0] != model.config.image_token_id).sum())
    module = model.stacks["text"].layers[2].module

    def fail(module, given):
        if given[0].shape[1] == words:
            raise FloatingPointError("in the words alone")

    handle = module.register_forward_pre_hook(fail)
    try:
        with pytest.raises(FloatingPointError, match="words alone"):
            model.logits(prompt, using=VHR())
    finally:
        handle.remove()
    with torch.no_grad():
        assert model.logits(prompt, using=VHR()).isfinite().all()


def test_a_companion_goes_step_by_step():
    said = []

    def body(offer):
        for number in range(3):
            said.append(offer(number))

    companion = Companion(body, CPU)
    assert [companion.send(), companion.send("a"), companion.send("b")] == [0, 1, 2]
    assert said == ["a", "b"]
    with pytest.raises(RuntimeError, match="ended before"):
        companion.send("c")
    with pytest.raises(RuntimeError, match="is over"):
        companion.send("d")
    companion.close()


def test_a_companion_that_is_closed_or_dropped_ends():
    def body(offer):
        try:
            while True:
                offer(1)
        except Exception:  # does not catch its end
            pytest.fail("caught")

    closed, dropped, idle = Companion(body, CPU), Companion(body, CPU), Companion(body, CPU)
    closed.send(), dropped.send()
    closed.close()
    closed.close()
    idle.close()
    thread = dropped._thread
    del dropped
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_companion_does_not_see_what_is_live_here(llava):
    model, prompt = llava
    words = blinded(model, prompt)
    with torch.no_grad():
        expected = model.logits(words)
        with model.using(Hook("z", lambda z, at: z * 0)):
            companion = Companion(lambda offer: offer(model.logits(words)), CPU)
            assert torch.equal(companion.send(), expected)
            companion.close()


def test_a_companions_error_comes_at_once():
    def body(offer):
        offer(1)
        raise ValueError("late")

    companion = Companion(body, CPU)
    companion.send()
    began = time.monotonic()
    with pytest.raises(ValueError, match="late"):
        companion.send()
    assert time.monotonic() - began < 2


def test_a_prompt_in_pieces_is_refused(llava):
    model, prompt = llava
    with torch.no_grad():
        cache = model.hf(**prompt.inputs, use_cache=True).past_key_values
    more = {**prompt.inputs, "input_ids": prompt.ids}
    more["attention_mask"] = torch.ones(2, 2 * prompt.length, dtype=torch.long)
    with pytest.raises(ValueError, match="in one piece"), torch.no_grad(), model.using(VHR()):
        model.hf(**more, past_key_values=cache)


WRONG = [
    ({"alpha": -1}, ValueError, "alpha is a number of at least 0"),
    ({"alpha": float("nan")}, ValueError, "alpha"),
    ({"alpha": True}, ValueError, "alpha"),
    ({"alpha": "2"}, ValueError, "alpha"),
    ({"outliers": 1}, TypeError, "outliers is True or False"),
    ({"official": "yes"}, TypeError, "official is True or False"),
]


@pytest.mark.parametrize(("given", "kind", "why"), WRONG)
def test_wrong_settings_are_refused(given, kind, why):
    with pytest.raises(kind, match=why):
        VHR(**given)


def test_wrong_use_is_refused(llava):
    model, prompt = llava
    with pytest.raises(IndexError, match="out of range"):
        model.logits(prompt, using=VHR(layers=[4]))
    with pytest.raises(ValueError, match="names none"):
        model.logits(prompt, using=VHR(layers=[]))
    with pytest.raises(ValueError, match="needs an image"):
        model.logits(model.encode([[20, 21, 22]]), using=VHR())
    text = interp.load("demo-lm")
    with pytest.raises(ValueError, match="reads text only"):
        text.logits("Mary and John", using=VHR())
    blip, images = opened("blip-2")
    with pytest.raises(ValueError, match="reads no text without an image"):
        blip.logits(images, using=VHR())


# The fault that it is meant to mend.


def test_it_mends_damped_visual_heads(demo):
    task = interp.Task.load("existence", count=120, split="validation")
    broken = interp.load("demo-vlm", fault="damped-visual-heads")
    plain = float(score(demo, task)["right"].mean())
    fault = float(score(broken, task)["right"].mean())
    mended = float(score(broken, task, using=VHR())["right"].mean())
    assert mended - fault > 0.5 * (plain - fault), (plain, fault, mended)
    wrong = Hook("z", lambda z, at: z * 2, [0])  # louder heads elsewhere do not
    assert float(score(broken, task, hooks=wrong)["right"].mean()) < mended - 0.05
