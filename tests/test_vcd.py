"""VCD against loops over numbers, against runs with no cache at all, and on questions that mislead."""

import math

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList

import interp
from interp import Hook
from interp.interventions import VCD
from interp.responses import respond
from interp.scoring import score
from interp.steering.contrast import STATE, Beside, beside
from tests.tiny_vlm import opened

GREEDY = {"max_new_tokens": 6, "do_sample": False}
LOWEST = torch.finfo(torch.float32).min


@pytest.fixture(scope="module")
def llava():
    return opened(batch=2)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-vlm")


# The formula, in loops over numbers.


def contrasted(logits, away, strength, cut):
    least = max(logits) + math.log(cut) if cut else -math.inf
    return [
        (1 + strength) * a - strength * b if a >= least else LOWEST
        for a, b in zip(logits, away, strict=True)
    ]


@pytest.mark.parametrize("strength", [0.5, 1.0, 4.0])
@pytest.mark.parametrize("cut", [0.0, 0.1, 0.5, 1.0])
def test_the_formula(strength, cut):
    made = torch.Generator().manual_seed(3)
    logits, away = (torch.randn(2, 3, 11, generator=made) * 2 for _ in range(2))
    found = VCD(strength=strength, cut=cut).contrast(logits, away)
    for row in range(2):
        for place in range(3):
            pair = logits[row, place].tolist(), away[row, place].tolist()
            assert found[row, place].tolist() == pytest.approx(
                contrasted(*pair, strength, cut), 1e-5
            )


def test_numbers_worked_by_hand():
    """Two and one less log 10 of the most stay; the third falls below, and is out."""
    logits, away = torch.tensor([2.0, 1.0, -1.0]), torch.tensor([3.0, -1.0, -9.0])
    assert VCD().contrast(logits, away).tolist() == [1.0, 3.0, LOWEST]
    assert VCD(cut=0).contrast(logits, away).tolist() == [1.0, 3.0, 7.0]
    assert VCD(strength=0.5, cut=1).contrast(logits, away).tolist() == [1.5, LOWEST, LOWEST]


def test_the_noise_is_a_step_of_diffusion(llava):
    """By the definition: beta by beta, what is left of the image and what has come."""
    model, prompt = llava
    clean = prompt.inputs["pixel_values"]
    draws = torch.randn(
        clean.shape[1:], generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )
    for step in (0, 10, 500, 999):
        left = 1.0
        for number in range(step + 1):
            x = -6 + 12 * number / 999
            left *= 1 - (1 / (1 + math.exp(-x)) * (0.5e-2 - 1e-5) + 1e-5)
        noisy = VCD(step=step, seed=7).distorted(model, prompt).inputs["pixel_values"]
        expected = math.sqrt(left) * clean.double() + math.sqrt(1 - left) * draws
        assert (noisy - expected).abs().max() < 1e-5
    assert not torch.equal(
        VCD(seed=1).distorted(model, prompt).inputs["pixel_values"],
        VCD(seed=2).distorted(model, prompt).inputs["pixel_values"],
    )
    assert not VCD(noise="blank").distorted(model, prompt).inputs["pixel_values"].any()


@pytest.mark.parametrize(
    "name", ["llava", "llava_next", "qwen2_vl", "idefics3", "internvl", "mllama"]
)
def test_an_image_has_the_same_noise_in_any_batch(name):
    """Ours is the second of two with the same picture as the first."""
    model, single = opened(name)
    both = {key: torch.cat([value, value]) for key, value in single.inputs.items()}
    both = interp.Prompt.from_inputs(model, both)
    one, two = (VCD().distorted(model, each).inputs["pixel_values"] for each in (single, both))
    assert torch.equal(two, torch.cat([one, one]))
    noise = one - single.inputs["pixel_values"]
    assert noise.flatten().unique().numel() > 0.9 * one[0].numel()
    if name in ("llava_next", "idefics3"):  # tiles of an image differ in theirs
        assert not torch.equal(noise[0, 0], noise[0, 1])


# Against two plain forwards.


@pytest.mark.parametrize("noise", ["diffusion", "blank"])
@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "paligemma"])
def test_one_forward_contrasts_every_position(name, noise):
    model, prompt = opened(name, batch=2)
    method = VCD(noise=noise, strength=1.5)
    with torch.no_grad():
        logits, away = model.logits(prompt), model.logits(method.distorted(model, prompt))
        found = model.logits(prompt, using=method)
    for place in (0, prompt.length - 1):
        expected = contrasted(logits[1, place].tolist(), away[1, place].tolist(), 1.5, 0.1)
        assert found[1, place].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)
    kept = found > LOWEST
    assert ((2.5 * logits - 1.5 * away) - found)[kept].abs().max() < 1e-4


def test_without_an_image_only_what_follows_has_a_counterpart(demo):
    """Rows of unequal length: each position is held against its own word in the bare text."""
    task = interp.Task.load("existence", count=2, split="validation")
    more = interp.Task.load("count", count=2, split="validation")
    records = [*task, *more]
    prompt = demo.encode([one.prompt for one in records], images=[[one.image] for one in records])
    with torch.no_grad():
        plain = demo.logits(prompt)
        found = demo.logits(prompt, using=VCD(noise="none", strength=2.0, cut=0.0))
        cut = demo.logits(prompt, using=VCD(noise="none"))
    image = demo.config.image_token_id
    for row in range(4):
        ids = prompt.ids[row].tolist()
        places = [place for place in range(prompt.length) if prompt.mask[row, place]]
        words = [place for place in places if ids[place] != image]
        with torch.no_grad():
            alone = demo.logits(demo.encode([ids[place] for place in words]))[0]
        last = max(place for place in places if ids[place] == image)
        for order, place in enumerate(words):
            expected = plain[row, place]
            if place > last:
                expected = 3 * plain[row, place] - 2 * alone[order]
            assert (found[row, place] - expected).abs().max() < 1e-3, (row, place)
        before, after = places[: places.index(last) + 1], places[places.index(last) + 1 :]
        assert torch.equal(found[row, before], plain[row, before])
        assert torch.equal(cut[row, before], plain[row, before])
        assert (cut[row, after] == LOWEST).any(-1).all()


class Slowly(LogitsProcessor):
    """The same with no cache: the distorted prompt and all that was written, at each step anew."""

    def __init__(self, model, prompt, method):
        self.model, self.method, self.length = model, method, prompt.length
        self.other = method.distorted(model, prompt)
        self.beams = False  # they add up log probabilities

    def __call__(self, ids, scores):
        away = []
        each = len(ids) // len(self.other)
        written = ids[:, self.length :]
        for beam in range(each):
            own = written[beam::each]
            whole = respond(self.model, self.other, own) if own.shape[1] else self.other
            away.append(self.model.logits(whole)[:, -1])
        away = torch.stack(away, 1).flatten(0, 1)
        rows = [
            contrasted(a, b, self.method.strength, self.method.cut)
            for a, b in zip(scores.tolist(), away.tolist(), strict=True)
        ]
        found = torch.tensor(rows)
        if not self.beams:
            return found
        return found.log_softmax(-1) + scores.exp().sum(-1, keepdim=True).log()


WAYS = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3, "num_return_sequences": 2},
    "sampling": {"do_sample": True, "temperature": 1.5},
    "sampling several": {"do_sample": True, "num_return_sequences": 3},
    "sampling beams": {"do_sample": True, "num_beams": 3},
    "uncached": {"do_sample": False, "use_cache": False},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
@pytest.mark.parametrize("noise", ["diffusion", "none"])
def test_generate_says_what_runs_without_a_cache_say(name, way, noise):
    model, prompt = opened(name, batch=2)
    method, options = VCD(noise=noise, strength=2.0), {"max_new_tokens": 6, **WAYS[way]}
    slow = Slowly(model, prompt, method)
    slow.beams = "beams" in way
    with torch.no_grad():
        torch.manual_seed(0)
        expected = model.generate(prompt, logits_processor=LogitsProcessorList([slow]), **options)
        torch.manual_seed(0)
        assert torch.equal(model.generate(prompt, using=method, **options), expected)
        torch.manual_seed(0)
        with model.using(method):
            assert torch.equal(model.hf.generate(**prompt.inputs, **options), expected)
        torch.manual_seed(0)
        assert not torch.equal(model.generate(prompt, **options), expected)


@pytest.mark.parametrize("name", ["internvl", "gemma3", "idefics3", "mllama", "blip-2", "qwen3_vl"])
def test_generate_on_other_families(name):
    model, prompt = opened(name, batch=2)
    method = VCD(strength=2.0)
    slow = Slowly(model, prompt, method)
    if (
        name == "mllama"
    ):  # a response behind its cross mask is not served: against its own uncached run
        cached, bare = (
            model.generate(prompt, using=method, **GREEDY, use_cache=flag) for flag in (True, False)
        )
        assert torch.equal(cached, bare)
        return
    expected = model.generate(prompt, logits_processor=LogitsProcessorList([slow]), **GREEDY)
    assert torch.equal(model.generate(prompt, using=method, **GREEDY), expected)


def test_padded_rows_say_what_they_say_alone(demo):
    task = interp.Task.load("captions", count=2, split="validation")
    more = interp.Task.load("count", count=2, split="validation")
    records = [*task, *more]
    prompt = demo.encode([one.prompt for one in records], images=[[one.image] for one in records])
    assert not prompt.mask.all()
    for noise in ("diffusion", "none", "blank"):
        method = VCD(noise=noise)
        together = demo.decode(demo.generate(prompt, using=method, max_new_tokens=12), prompt)
        for text, one in zip(together, records, strict=True):
            alone = demo.encode(one.prompt, images=one.image)
            ids = demo.generate(alone, using=method, max_new_tokens=12)
            assert demo.decode(ids, alone) == [text]


# The second run.


def forwards(model):
    """Rows and positions of each forward of the model's text stack."""
    seen = []
    layer = model.stacks["text"].layers[0].module
    handle = layer.register_forward_pre_hook(
        lambda module, given: seen.append(tuple(given[0].shape[:2]))
    )
    return seen, handle


def test_its_cache_follows_beams(llava):
    model, prompt = llava
    seen, handle = forwards(model)
    try:
        model.generate(prompt, using=VCD(), max_new_tokens=6, num_beams=3, do_sample=False)
    finally:
        handle.remove()
    assert seen.count((6, prompt.length)) == seen.count((2, prompt.length)) == 1  # a prefill each
    assert seen.count((6, 1)) == len(seen) - 2 == 2 * 5


def test_rows_that_change_places_and_rows_that_nobody_knows(llava):
    """Any order of writing gives what the whole text gives."""
    model, prompt = llava
    made = torch.Generator().manual_seed(0)
    stream = Beside(model, prompt, prompt.length)
    rows = prompt.ids.repeat_interleave(2, 0)
    token = lambda: torch.randint(20, 60, (4, 1), generator=made)  # noqa: E731

    def check(written):
        whole = [
            beside(model, respond(model, prompt, written[beam::2]) if written.shape[1] else prompt)
            for beam in range(2)
        ]
        expected = torch.stack([one[:, -1] for one in whole], 1).flatten(0, 1)
        found = stream.next(torch.cat([rows, written], 1))
        assert (found - expected).abs().max() < 1e-4

    written = rows[:, :0]
    check(written)
    seen, handle = forwards(model)
    for order in ([0, 1, 2, 3], [1, 0, 2, 3], [1, 1, 3, 2], [0, 0, 2, 2]):
        written = torch.cat([written[order], token()], 1)
        check(written)
    assert seen.count((2, prompt.length)) == 0 and seen.count((4, 1)) == 4  # the cache followed
    seen.clear()
    check(torch.cat([written[:, :2], token()], 1))  # back, and another way
    assert seen.count((2, prompt.length)) == 1
    check(torch.cat([token(), token(), token()], 1))
    check(written[[2, 3, 0, 1]])  # rows of another prompt are not taken for its own
    handle.remove()


def test_the_same_words_about_two_pictures(llava):
    """Rows are told apart by their prompt, not by what they say."""
    model, prompt = llava
    inputs = {**prompt.inputs, "input_ids": prompt.ids[:1].expand(2, -1).contiguous()}
    prompt = interp.Prompt.from_inputs(model, inputs)
    stream = Beside(model, prompt, prompt.length)
    written = torch.tensor([[20], [20]])
    for count in range(3):
        ids = torch.cat([prompt.ids, written[:, :1].expand(2, count)], 1)
        found = stream.next(ids)
    assert not torch.allclose(found[0], found[1])


def test_the_second_run_is_the_plain_model(llava):
    model, prompt = llava
    quiet = Hook("z", lambda z, at: z * 0.2, [1, 2])
    method = VCD(cut=0.0)
    with torch.no_grad():
        steered = model.logits(prompt, hooks=[quiet])
        away = model.logits(method.distorted(model, prompt))
        for found in (
            model.logits(prompt, using=[method, quiet]),
            model.logits(prompt, using=method, hooks=[quiet]),
        ):
            assert (found - (2 * steered - away)).abs().max() < 1e-4


@pytest.mark.parametrize("noise", ["diffusion", "none"])
def test_nothing_is_left_in_the_model(noise):
    """Qwen-VL keeps the offset of its positions: that of the run with the image must stay."""
    model, prompt = opened("qwen2_vl", batch=2)
    holder = next(module for module in model.hf.modules() if STATE in vars(module))
    expected = model.generate(prompt, **GREEDY)
    state = getattr(holder, STATE).clone()
    assert state.any()
    model.generate(prompt, using=VCD(noise=noise), **GREEDY)
    assert torch.equal(getattr(holder, STATE), state)
    assert torch.equal(model.generate(prompt, **GREEDY), expected)


def test_gradients_reach_the_run_with_the_image(llava):
    model, prompt = llava
    logits = model.logits(prompt, using=VCD(cut=0.0))
    logits[0, -1, 20].backward()
    weight = model.hf.get_output_embeddings().weight
    found, weight.grad = weight.grad.clone(), None
    model.logits(prompt)[0, -1, 20].backward()
    assert torch.allclose(found, 2 * weight.grad, atol=1e-5)
    model.hf.zero_grad()


# Wrong use.


WRONG = [
    ({"strength": -0.5}, ValueError, "strength is a number of at least 0"),
    ({"strength": "1"}, ValueError, "strength"),
    ({"cut": 1.5}, ValueError, "cut is a number from 0 to 1"),
    ({"cut": float("nan")}, ValueError, "cut"),
    ({"noise": "gauss"}, LookupError, "noise"),
    ({"step": 1000}, ValueError, "whole number from 0 to 999"),
    ({"step": 10.0}, ValueError, "whole number"),
    ({"seed": -1}, ValueError, "seed"),
    ({"seed": True}, ValueError, "seed"),
]


@pytest.mark.parametrize(("given", "kind", "why"), WRONG)
def test_wrong_settings_are_refused(given, kind, why):
    with pytest.raises(kind, match=why):
        VCD(**given)


def test_wrong_use_is_refused(llava):
    model, prompt = llava
    with pytest.raises(ValueError, match="needs an image"):
        model.logits(model.encode([[20, 21, 22]]), using=VCD())
    bare = {name: prompt.inputs[name] for name in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="no pixels to distort among .*input_ids"):
        VCD().plan(model, interp.Prompt.from_inputs(model, bare))
    ending = dict(prompt.inputs)
    ending["input_ids"] = torch.cat(
        [prompt.ids[:, :4], prompt.ids[prompt.where("image")].view(2, -1)], 1
    )
    ending["attention_mask"] = torch.ones_like(ending["input_ids"])
    with pytest.raises(ValueError, match="ends in its image"):
        model.logits(interp.Prompt.from_inputs(model, ending), using=VCD(noise="none"))
    blip, images = opened("blip-2")
    with pytest.raises(ValueError, match="reads no text without an image"):
        blip.logits(images, using=VCD(noise="none"))


# Questions whose answer one would guess, and be wrong.


def test_it_helps_where_guesses_mislead(demo):
    task = interp.Task.load("existence", count=120, split="validation", negatives="adversarial")
    right = {
        name: float(score(demo, task, using=using, batch=120)["right"].mean())
        for name, using in {
            "plain": None,
            "blank": VCD(noise="blank"),
            "cut alone": VCD(strength=1e-6),
        }.items()
    }
    assert right["blank"] > right["plain"] + 0.04, right
    assert right["cut alone"] == right["plain"]
