"""Hooks in generate(): with and without cache, beams, sampling, streaming, positions."""

import threading

import pytest
import torch
from transformers import TextIteratorStreamer

import interp
from interp import Hook
from interp.families import FAMILIES

GREEDY = {"max_new_tokens": 8, "do_sample": False}


def opened(name, batch=1, length=12):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None  # every answer runs to its full length
    image = getattr(hf.config, "image_token_id", None)
    if image is not None:  # a placeholder among new tokens would ask for another image
        hf.generation_config.suppress_tokens = [image]
    model = interp.wrap(hf)
    return model, interp.Prompt.from_inputs(model, family.inputs(hf, batch=batch, length=length))


def sharpen(pattern, at):
    """Depends on each query's own row alone."""
    return torch.softmax(3 * pattern.clamp_min(1e-9).log(), -1)


def first_key_away(pattern, at):
    changed = pattern.clone()
    if at.first_key == 0:
        changed[..., 0] *= 0.1
    return changed / changed.sum(-1, keepdim=True)


def later_rows_louder(z, at):
    """By absolute position: wrong if `at.first` is."""
    position = torch.arange(at.first, at.first + z.shape[1])
    return z * (1 + 0.2 * position.view(1, -1, 1, 1))


def key_by_place(k, at):
    position = torch.arange(at.first_key, at.first_key + k.shape[1])
    return k * (1 + 0.05 * position.view(1, -1, 1, 1))


HOOKS = {
    "sharpen": Hook("pattern", sharpen, layers=[1, 2]),
    "rows": Hook("pattern", sharpen, layers=[1, 2], rows=True),
    "first_key": Hook("pattern", first_key_away, layers=[0, 1]),
    "z": Hook("z", later_rows_louder, layers=[1], heads=[1, 2]),
    "scores": Hook("scores", lambda scores, at: scores * 1.5, layers=0),
    "k": Hook("k", key_by_place, layers=[1]),
    "resid_post": Hook("resid_post", lambda value, at: value * 1.1, layers=[1]),
    "mlp_out": Hook("mlp_out", lambda value, at: value * 0.5, layers=[2]),
}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_oss", "t5", "llava"])
def test_cache_changes_nothing(name, hook):
    model, prompt = opened(name)
    asked = [HOOKS[hook]]
    cached = model.generate(prompt, hooks=asked, **GREEDY, use_cache=True)
    plain = model.generate(prompt, hooks=asked, **GREEDY, use_cache=False)
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
@pytest.mark.parametrize("way", [{"cache_implementation": "static"}, {"prefill_chunk_size": 5}])
def test_other_caches_change_nothing(name, way):
    model, prompt = opened(name)
    seen = []

    def look(pattern, at):
        seen.append((at.prefill, at.first, pattern.shape[2]))

    asked = [HOOKS["sharpen"], HOOKS["z"], HOOKS["k"], Hook("pattern", look, layers=[0])]
    expected = model.generate(prompt, hooks=asked, **GREEDY)
    seen.clear()
    assert torch.equal(model.generate(prompt, hooks=asked, **GREEDY, **way), expected)
    assert sum(rows for prefill, _, rows in seen if prefill) == 12
    assert [first for prefill, first, _ in seen if not prefill] == list(range(12, 19))


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_the_hooks_do_something(name):
    model, prompt = opened(name)
    base = model.logits(prompt)
    for hook in HOOKS.values():
        assert (model.logits(prompt, hooks=hook) - base).abs().max() > 1e-4


def test_cached_logits_equal_uncached_ones():
    model, prompt = opened("llama", batch=2)
    settings = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    runs = [
        model.generate(prompt, hooks=HOOKS["z"], use_cache=cache, **settings)
        for cache in (True, False)
    ]
    for cached, plain in zip(runs[0].logits, runs[1].logits, strict=True):
        assert (cached - plain).abs().max() < 1e-4


def test_beams_and_their_prompt_spans():
    model, prompt = opened("llava", batch=2)
    shapes = set()

    def look_away(pattern, at):
        image = at.where("image", pattern)
        shapes.add((pattern.shape[0], image.shape == (pattern.shape[0], pattern.shape[-1])))
        changed = pattern.masked_fill(image[:, None, None], 0)
        return changed / changed.sum(-1, keepdim=True).clamp_min(1e-9)

    hook = Hook("pattern", look_away, layers=[1])
    beams = model.generate(prompt, hooks=hook, num_beams=3, max_new_tokens=4, do_sample=False)
    assert beams.shape == (2, prompt.length + 4)
    assert shapes == {(6, True)}


def test_sampling_with_a_seed_repeats_and_the_hook_moves_it():
    model, prompt = opened("gpt2")
    settings = {"max_new_tokens": 12, "do_sample": True}
    answers = []
    for hooks in ((), (), HOOKS["z"], HOOKS["z"]):
        torch.manual_seed(3)
        answers.append(model.generate(prompt, hooks=hooks, **settings))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[2], answers[3])
    assert not torch.equal(answers[0], answers[2])


def test_a_streamer_in_another_thread(word_tokenizer):
    model, prompt = opened("llama")
    expected = model.generate(prompt, hooks=HOOKS["sharpen"], **GREEDY)
    streamer = TextIteratorStreamer(word_tokenizer, skip_prompt=True, timeout=60)
    settings = {"hooks": HOOKS["sharpen"], "streamer": streamer, **GREEDY}
    worker = threading.Thread(target=model.generate, args=(prompt,), kwargs=settings)
    worker.start()
    text = "".join(streamer)
    worker.join()
    assert text.split() == word_tokenizer.decode(expected[0, prompt.length :]).split()


@pytest.mark.parametrize("name", ["llama", "mistral", "t5", "whisper"])
def test_positions_and_prefill(name):
    model, prompt = opened(name)
    stack = "decoder" if "decoder" in model.stacks else "text"
    length = prompt.length if stack == "text" else 1
    seen = []

    def look(pattern, at):
        seen.append((at.prefill, at.first, pattern.shape[2], at.first_key + pattern.shape[3]))

    model.generate(prompt, hooks=Hook("pattern", look, layers=[0], stack=stack), **GREEDY)
    assert seen[0][:3] == (True, 0, seen[0][2])
    start = seen[0][2]
    assert start == length or stack == "decoder"
    for step, (prefill, first, rows, end) in enumerate(seen[1:]):
        assert (prefill, first, rows) == (False, start + step, 1)
        assert end == first + 1


def test_plain_code_under_using():
    model, prompt = opened("llama")
    expected = model.generate(prompt, hooks=HOOKS["z"], **GREEDY)
    plain = model.hf.generate(**prompt.inputs, **GREEDY)
    with model.using(HOOKS["z"]):
        inside = model.hf.generate(**prompt.inputs, **GREEDY)
        with model.using(HOOKS["mlp_out"]):
            both = model.hf.generate(**prompt.inputs, **GREEDY)
    assert torch.equal(inside, expected)
    assert torch.equal(both, model.generate(prompt, using=[HOOKS["z"], HOOKS["mlp_out"]], **GREEDY))
    assert torch.equal(model.hf.generate(**prompt.inputs, **GREEDY), plain)
    assert not torch.equal(inside, plain)


class Quieter:
    """A stand-in for an intervention: plans from the prompt, and keeps a memo."""

    def plan(self, model, prompt):
        marked = prompt.where("last")

        def quiet(z, at):
            at.memo["calls"] = at.memo.get("calls", 0) + 1
            assert marked.shape[1] == prompt.length
            return z * (0.5 if at.prefill else 1.0)

        return prompt, [Hook("z", quiet, layers=[1])]


class Longer:
    """Changes the prompt itself."""

    def plan(self, model, prompt):
        ids = torch.cat([prompt.ids, prompt.ids[:, :3]], dim=1)
        return model.encode(ids), []


@pytest.mark.parametrize("item", [Quieter(), Longer(), [Longer(), Quieter()]])
def test_interventions_plan_once_a_run_everywhere_alike(item):
    model, prompt = opened("llama")
    direct = model.generate(prompt, using=item, **GREEDY)
    with model.using(item):
        under = model.hf.generate(**prompt.inputs, **GREEDY)
        traced = model.trace(prompt, "z", layers=[1])
        forward = model.hf(**prompt.inputs).logits
    assert torch.equal(direct, under)
    assert torch.equal(traced.logits, model.logits(prompt, using=item))
    assert torch.equal(forward, traced.logits)


def test_parts_of_the_model_under_using():
    model, prompt = opened("llama")
    plain = model.hf.model(**prompt.inputs).last_hidden_state
    with model.using(HOOKS["z"]):
        changed = model.hf.model(**prompt.inputs).last_hidden_state
    assert (changed - plain).abs().max() > 1e-3
    with model.using(Quieter()):
        quieter = model.hf.model(**prompt.inputs).last_hidden_state
        first, *rest = model.hf.model.layers
        hidden = torch.randn(1, 3, 64)
        places = model.hf.model.rotary_emb(hidden, torch.arange(3)[None])
        with pytest.raises(RuntimeError, match="call the whole model"):
            first(hidden, position_embeddings=places)
    expected = model.trace(prompt, "resid_post", layers=-1, using=Quieter())["resid_post", -1]
    assert torch.allclose(model.hf.model.norm(expected), quieter, atol=1e-5)


def test_an_existing_pipeline(word_tokenizer):
    from transformers import pipeline

    model, _ = opened("llama")
    ask = pipeline("text-generation", model=model.hf, tokenizer=word_tokenizer)
    settings = {"max_new_tokens": 5, "do_sample": False, "return_full_text": False}
    plain = ask("w30 w31 w40", **settings)
    with model.using(HOOKS["z"]):
        under = ask("w30 w31 w40", **settings)
    ids = torch.tensor([[30, 31, 40]])
    expected = model.generate(ids, hooks=HOOKS["z"], max_new_tokens=5, do_sample=False)[0, 3:]
    assert under[0]["generated_text"].split() == word_tokenizer.decode(expected).split()
    assert under != plain


def reset(value, at):
    value.mul_(0)


def in_place(value, at):
    value[:, :, 1] *= 0.5
    return value


@pytest.mark.parametrize("site", ["q", "k", "v", "z"])
def test_changes_in_place_count_when_returned_and_spare_the_cache(site):
    model, prompt = opened("llama")
    copy = Hook(site, lambda value, at: in_place(value.clone(), at), layers=[1, 2])
    place = Hook(site, in_place, layers=[1, 2])
    expected = model.generate(prompt, hooks=copy, **GREEDY)
    assert torch.equal(model.generate(prompt, hooks=place, **GREEDY), expected)
    assert torch.equal(model.generate(prompt, hooks=place, **GREEDY, use_cache=False), expected)
    with pytest.raises(RuntimeError, match="in place and returned nothing"):
        model.logits(prompt, hooks=Hook(site, reset))


def test_what_was_recorded_is_not_changed_behind_the_trace():
    model, prompt = opened("llama")
    hook = Hook("resid_pre", lambda value, at: value.mul_(2), layers=[2])
    with torch.no_grad():
        trace = model.trace(prompt, "resid_pre", "resid_post", hooks=hook)
    assert trace["resid_pre", 2].shape == trace["resid_post", 2].shape
    with pytest.raises(RuntimeError, match="changed in place after it was recorded"):
        trace["resid_post", 1]


def test_a_hook_under_using_that_nothing_passes_is_an_error():
    model, prompt = opened("llava")
    text = {name: prompt.inputs[name][:, :3] for name in ("input_ids", "attention_mask")}
    hook = Hook("z", lambda z, at: z * 0, stack="vision")
    with pytest.raises(LookupError, match="never ran"), model.using(hook):
        model.hf(**text)
    with model.using(hook):
        assert model.stacks["vision"]  # nothing was run: nothing to complain of
    with model.using(hook):
        model.hf(**prompt.inputs)


@pytest.mark.parametrize("site", ["z", "attn_out", "pattern"])
def test_a_generate_inside_generate(site):
    """BLIP-2 hands its language model to `generate` by itself: its steps are steps all the same."""
    model, prompt = opened("blip-2", batch=2)
    seen = []

    def later_louder(value, at):
        seen.append((at.first, at.prefill))
        rows = value.shape[2] if site == "pattern" else value.shape[1]
        position = torch.arange(at.first, at.first + rows) % 3
        shape = (-1, 1) if site in ("pattern", "attn_out") else (-1, 1, 1)
        return value * (1 + 0.2 * position).view(*shape)

    answer = model.generate(prompt, hooks=Hook(site, later_louder, layers=[1]), **GREEDY)
    length = prompt.length
    assert seen == [(0, True), *((length + step, False) for step in range(7))]
    with model.using(Hook(site, later_louder, layers=[1])):
        assert torch.equal(model.hf.generate(**prompt.inputs, **GREEDY), answer)
    # Each token is the one that a forward over all before it says.
    whole = {"input_ids": answer[:, :-1], "attention_mask": torch.ones_like(answer[:, :-1])}
    whole["pixel_values"] = prompt.inputs["pixel_values"]
    logits = model.logits(whole, hooks=Hook(site, later_louder, layers=[1]))
    assert answer.shape[1] == length + 8
    assert torch.equal(logits[:, length - 1 :].argmax(-1), answer[:, length:])
