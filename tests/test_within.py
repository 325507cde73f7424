"""Hooks shown some heads and rows only: as a whole map changed there; the rest is untouched to the bit."""

import functools
import math

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from tests.test_padding import pad

GREEDY = {"max_new_tokens": 5, "do_sample": False}
# Absolute and rotary positions, grouped heads, soft caps, learned sinks, windows, biases of position,
# image tokens in four ways, a prefix that sees ahead.
FAMILY_NAMES = [
    "gpt2",
    "llama",
    "gemma2",
    "gpt_oss",
    "mistral",
    "t5",
    "llava",
    "paligemma",
    "qwen2_vl",
]
TEXT_ONLY = [
    name for name in FAMILY_NAMES if name in ("gpt2", "llama", "gemma2", "gpt_oss", "mistral")
]


@functools.cache
def opened(name, lengths=(12, 7, 9)):
    family = FAMILIES[name]
    hf = family.model()
    hf.generation_config.eos_token_id = None  # every answer runs to its full length
    image = getattr(hf.config, "image_token_id", None)
    if image is not None:  # a placeholder among new tokens would ask for another image
        hf.generation_config.suppress_tokens = [image]
    model = interp.wrap(hf)
    inputs = [family.inputs(hf, length=length, seed=length) for length in lengths]
    stack = "decoder" if family.kind == "encoder-decoder" else "text"
    if stack == "decoder":  # its rows are those of the decoder's own tokens
        inputs = [family.inputs(hf, batch=2, length=lengths[0] + 4)]
    prompt = interp.Prompt.from_inputs(model, inputs[0] if len(inputs) == 1 else pad(inputs, 0))
    return model, prompt, stack


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def family(request):
    return opened(request.param)


def places(value, at):
    """Absolute positions of the rows and keys that are shown: wrong if either count is off."""
    rows = torch.arange(at.first, at.first + value.shape[2])[:, None]
    keys = torch.arange(at.first_key, at.first_key + value.shape[3])[None]
    return rows.to(value), keys.to(value)


def slanted(scores, at):
    rows, keys = places(scores, at)
    return scores + torch.sin(rows + 2) * torch.cos(3 * keys)


def weighed(pattern, at):
    rows, keys = places(pattern, at)
    changed = pattern * (1.5 + torch.cos(rows + 5 * keys))
    return changed / changed.sum(-1, keepdim=True).clamp_min(1e-9)


def uncovering(scores, at):
    """Asks for keys that the mask hides."""
    return scores * 0.5 if scores.shape[-1] == 1 else scores.clamp_min(-3.0)


def to_the_first(pattern, at):
    """Rows look at one key, where it has not left the window."""
    if at.first_key > 0:
        return None
    changed = pattern * 0.25
    changed[..., 0] = changed[..., 0] + 0.75 * pattern.sum(-1)
    return torch.where(pattern[..., :1] > 0, changed, pattern)


# Each list of hooks: (site, function, layers, heads, rows, within).
CASES = {
    "scores": [("scores", slanted, [1, 2], [1, 3], True, (5, None))],
    "pattern": [("pattern", weighed, [1], [0], False, (3, 9))],
    "one row": [("pattern", weighed, [0, 2], None, True, (11, 12))],
    "writing": [("scores", slanted, [0, 1, 2], None, True, (11, None))],
    "heads": [("pattern", weighed, [1, 2], [2, 3], True, None)],
    "apart": [("scores", slanted, [2], [3, 0], False, None)],
    "uncovering": [("scores", uncovering, [0, 1], [1, 2], True, (2, None))],
    "first": [("pattern", to_the_first, [0, 1], [0, 2, 3], True, (4, 10))],
    "two sites": [
        ("scores", slanted, [1], [0, 2], True, (2, None)),
        ("pattern", weighed, [1, 2], [2, 3], True, (6, None)),
    ],
    "two of one site": [
        ("pattern", weighed, [1], [0, 1], True, (4, 8)),
        ("pattern", to_the_first, [1], [1, 3], False, (6, None)),
    ],
    "four at once": [
        ("scores", slanted, [1], [3], True, (1, 5)),
        ("scores", uncovering, [1, 2], [1, 3], True, (3, 7)),
        ("pattern", weighed, [1], None, True, (8, 9)),
        ("pattern", weighed, [1, 2], [3, 2, 1], True, (10, None)),
    ],
}


def narrow(case, stack):
    return [
        Hook(site, fn, layers, stack, heads, rows=rows, within=within)
        for site, fn, layers, heads, rows, within in CASES[case]
    ]


def broad(case, stack):
    """The same without heads=, rows= and within=: on whole maps, put back where it does not hold."""

    def laid(fn, heads, within):
        low, high = within or (0, None)

        def whole(value, at):
            changed = fn(value.clone(), at)
            if changed is None:
                return None
            start = at.run.start or 0
            rows, _ = places(value, at)
            held = (rows >= low + start) & (rows < (math.inf if high is None else high + start))
            own = torch.zeros(value.shape[1], dtype=torch.bool)
            own[list(range(value.shape[1])) if heads is None else heads] = True
            return torch.where(held & own[:, None, None], changed, value)

        return whole

    return [
        Hook(site, laid(fn, heads, within), layers, stack)
        for site, fn, layers, heads, _, within in CASES[case]
    ]


def reads(case, stack, seen):
    """Of z in the first changed layer, which no other change has reached."""
    layer = min(layer for _, _, layers, *_ in CASES[case] for layer in layers)
    return Hook("z", lambda z, at: seen.append(z.detach().clone()), [layer], stack)


def outside(case, positions):
    """[position, head] of the first changed layer outside the rectangle that the hooks are shown."""
    layer = min(layer for _, _, layers, *_ in CASES[case] for layer in layers)
    shown = [one for one in CASES[case] if layer in one[2]]
    free = torch.ones(positions, 4, dtype=torch.bool)
    heads = {head for one in shown for head in (one[3] or range(4))}
    spans = [one[5] or (0, None) for one in shown]
    low = min(span[0] for span in spans)
    high = max(positions if span[1] is None else span[1] for span in spans)
    free[low:high, sorted(heads)] = False
    return free


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_one_forward_is_that_of_the_whole_map(family, case):
    model, prompt, stack = family
    before, after = [], []
    plain = model.logits(prompt, hooks=reads(case, stack, before))
    given = model.logits(prompt, hooks=[*narrow(case, stack), reads(case, stack, after)])
    expected = model.logits(prompt, hooks=broad(case, stack))
    assert (given - expected).abs().max() < 1e-5
    assert (given - plain).abs().max() > 1e-4
    free = outside(case, before[0].shape[1])
    changed = (before[0] != after[0]).any(-1).any(0)
    assert not changed[free].any() and changed.any()


@pytest.mark.parametrize("case", ["scores", "one row", "first", "two of one site", "four at once"])
def test_metrics_at_the_same_time_and_gradients_see_the_same(family, case):
    model, prompt, stack = family
    with torch.no_grad():
        expected = model.trace(
            prompt, "pattern", "z", keep=["received"], stack=stack, hooks=broad(case, stack)
        )
        given = model.trace(
            prompt, "pattern", "z", keep=["received"], stack=stack, hooks=narrow(case, stack)
        )
        alone = model.trace(prompt, keep=["received"], stack=stack, hooks=narrow(case, stack))
        spliced = model.trace(prompt, "z", stack=stack, hooks=narrow(case, stack))
    for site in ("pattern", "z", "received"):
        for layer in range(3):
            assert (given[site, layer] - expected[site, layer]).abs().max() < 1e-5, (site, layer)
    for layer in range(3):
        assert (alone["received", layer] - expected["received", layer]).abs().max() < 1e-5
        assert (spliced["z", layer] - expected["z", layer]).abs().max() < 1e-5
    weight = model.stacks[stack].layers[0].out.weight
    slopes = []
    for hooks in (narrow(case, stack), broad(case, stack)):
        logits = model.logits(prompt, hooks=hooks)
        slopes.append(torch.autograd.grad(logits.logsumexp(-1).sum(), weight)[0])
    assert (logits - given.logits).abs().max() < 1e-5
    assert (slopes[0] - slopes[1]).abs().max() < 1e-4 * slopes[1].abs().max().clamp_min(1)


@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_hooks_that_return_nothing_leave_everything_to_the_bit(family, case):
    model, prompt, stack = family
    plain = model.logits(prompt)
    for sight in ({}, {"heads": None}, {"within": None}):
        hooks = [
            Hook(hook.site, lambda value, at: None, hook.layers, stack, **{
                "heads": hook.heads, "rows": hook.rows, "within": hook.within, **sight,
            })
            for hook in narrow(case, stack)
        ]  # fmt: skip
        given = model.logits(prompt, hooks=hooks)
        assert (given - plain).abs().max() < 1e-5
        # Shown in all heads and rows together, a whole map is opened, and rounds as such.
        assert sight or torch.equal(given, plain)


@pytest.mark.parametrize("case", ["writing", "four at once"])
@pytest.mark.parametrize("way", [{}, {"use_cache": False}, {"num_beams": 3}])
def test_generation(family, case, way):
    model, prompt, stack = family
    if "decoder" in model.stacks and stack == "decoder":
        shifted = {name: [(*one[:5], None) for one in hooks] for name, hooks in CASES.items()}
        hooks = [
            Hook(s, fn, lay, stack, h, rows=r, within=(0, None))
            for s, fn, lay, h, r, _ in shifted[case]
        ]
        whole = [Hook(s, fn, lay, stack, h) for s, fn, lay, h, _, _ in shifted[case]]
    else:
        hooks, whole = narrow(case, stack), broad(case, stack)
    given = model.generate(prompt, hooks=hooks, **GREEDY, **way)
    assert torch.equal(given, model.generate(prompt, hooks=whole, **GREEDY, **way))
    if way == {"use_cache": False}:
        assert torch.equal(given, model.generate(prompt, hooks=hooks, **GREEDY))


@pytest.mark.parametrize("case", ["writing", "four at once"])
@pytest.mark.parametrize("name", TEXT_ONLY)
@pytest.mark.parametrize("way", [{"cache_implementation": "static"}, {"prefill_chunk_size": 5}])
def test_other_caches(name, case, way):
    model, prompt, stack = opened(name, (12,))
    settings = {**GREEDY, "output_logits": True, "return_dict_in_generate": True}
    given = model.generate(prompt, hooks=narrow(case, stack), **settings, **way)
    for other in (
        model.generate(prompt, hooks=narrow(case, stack), **settings),
        model.generate(prompt, hooks=broad(case, stack), **settings, **way),
    ):
        assert torch.equal(given.sequences, other.sequences)
        for one, two in zip(given.logits, other.logits, strict=True):
            assert (one - two).abs().max() < 1e-4


def grouped(heads, kv_heads):
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(heads)
    config = LlamaConfig(
        vocab_size=128, hidden_size=8 * heads, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=heads, num_key_value_heads=kv_heads, initializer_range=0.2,
    )  # fmt: skip
    return interp.wrap(AutoModelForCausalLM.from_config(config).eval())


# Heads of one KV head, of neighbours, with gaps, in any order; counts that only look like a row of heads.
CHOICES = [
    (0,),
    (5,),
    (0, 1),
    (2, 3, 4),
    (0, 1, 4),
    (0, 4, 5),
    (7, 0, 3),
    (1, 2, 5, 6),
    (0, 3, 4, 7),
    (6, 2),
]


@pytest.mark.parametrize("kv_heads", [1, 2, 4, 8])
@torch.no_grad()
def test_heads_are_query_heads_however_they_are_grouped(kv_heads):
    model = grouped(8, kv_heads)
    prompt = interp.Prompt.from_inputs(model, {"input_ids": torch.arange(20, 33)[None]})
    plain = model.trace(prompt, "z", layers=[0])["z", 0]
    whole = model.trace(prompt, "z", layers=[0], hooks=Hook("pattern", weighed, [0]))["z", 0]
    for heads in CHOICES:
        for within in (None, (4, None), (0, 6), (12, 13)):
            hook = Hook("pattern", weighed, [0], heads=list(heads), rows=True, within=within)
            given = model.trace(prompt, "z", layers=[0], hooks=hook)["z", 0]
            rows = slice(*within) if within else slice(None)
            expected = plain.clone()
            expected[:, rows, list(heads)] = whole[:, rows, list(heads)]
            assert (given - expected).abs().max() < 1e-5, (heads, within)
            given[:, rows, list(heads)] = plain[:, rows, list(heads)]
            assert torch.equal(given, plain), (heads, within)


@pytest.mark.parametrize("name", ["gpt_oss", "t5", "bart", "llava"])
@torch.no_grad()
def test_every_stack_can_be_shown_in_part(name):
    """Sinks and biases go with their heads; rows are those of the stack."""
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf, length=12))
    for stack in model.stacks:
        hooks = [Hook("pattern", weighed, [1], stack, [2, 0], rows=True, within=(2, 5))]
        seen = []

        def put_back(value, at):
            seen.append(at.first)
            changed = value.clone()
            changed[:, [0, 2], 2:5] = weighed(value, at)[:, [0, 2], 2:5]
            return changed

        given = model.trace(prompt, "z", layers=[1], stack=stack, hooks=hooks)["z", 1]
        whole = Hook("pattern", put_back, [1], stack)
        expected = model.trace(prompt, "z", layers=[1], stack=stack, hooks=whole)["z", 1]
        assert seen == [0] and (given - expected).abs().max() < 1e-6, stack


@torch.no_grad()
def test_long_prompts_are_shown_in_blocks_with_their_keys_clipped():
    from interp.rows import BLOCK_ROWS

    model = grouped(4, 2)
    ids = torch.randint(0, 128, (2, 300), generator=torch.Generator().manual_seed(0))
    shown = []

    def look(pattern, at):
        shown.append((at.first, pattern.shape[2], pattern.shape[3]))
        return weighed(pattern, at)

    given = model.logits(ids, hooks=Hook("pattern", look, [1], rows=True, within=(40, None)))
    assert shown == [(40, 128, 168), (168, 128, 296), (296, 4, 300)] and BLOCK_ROWS == 128
    laid = Hook(
        "pattern", lambda p, at: torch.cat([p[:, :, :40], weighed(p, at)[:, :, 40:]], 2), [1]
    )
    assert (given - model.logits(ids, hooks=laid)).abs().max() < 1e-5
    assert (model.logits(ids, hooks=Hook("scores", look, [1], heads=[3], rows=True, within=(299, None)))
            - model.logits(ids)).abs()[:, :299].max() == 0  # fmt: skip


@torch.no_grad()
def test_positions_are_those_of_the_prompt_behind_an_earlier_turn():
    model, _, _ = opened("llama", (12,))
    ids = torch.arange(20, 34)[None]
    seen = []

    def look(pattern, at):
        seen.append((at.first, pattern.shape[2], at.first_key, pattern.shape[3]))
        return weighed(pattern, at)

    expected = model.logits(ids, hooks=Hook("pattern", look, [1], within=(10, 12)))
    assert seen == [(10, 2, 0, 14)]
    earlier = model.hf(input_ids=ids[:, :9], use_cache=True).past_key_values
    seen.clear()
    with model.using(Hook("pattern", look, [1], within=(1, 3))):
        given = model.hf(input_ids=ids[:, 9:], past_key_values=earlier).logits
    assert seen == [(10, 2, 0, 14)]
    assert (given - expected[:, 9:]).abs().max() < 1e-5


@pytest.mark.parametrize("grad", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_in_every_mode_and_one_after_another(grad):
    model, prompt, stack = opened("llama")
    hooks = narrow("two sites", stack)
    with grad():
        first = model.logits(prompt, hooks=hooks)
    with torch.inference_mode():
        second = model.logits(prompt, hooks=hooks)
    third = model.logits(prompt, hooks=hooks)
    assert (first - second).abs().max() < 1e-5 and (first - third).abs().max() < 1e-5
    third.sum().backward()
    model.hf.zero_grad()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision(dtype):
    hf = FAMILIES["llama"].model().to(dtype)
    model = interp.wrap(hf)
    prompt = interp.Prompt.from_inputs(model, FAMILIES["llama"].inputs(hf))
    for case in CASES:
        seen = []
        given = model.logits(prompt, hooks=[*narrow(case, "text"), reads(case, "text", seen)])
        expected = model.logits(prompt, hooks=[*broad(case, "text"), reads(case, "text", seen)])
        model.logits(prompt, hooks=reads(case, "text", seen))
        assert given.dtype == dtype and given.isfinite().all()
        assert (given - expected).abs().max() < 0.15 * expected.abs().max()
        assert (seen[0] - seen[1]).abs().max() < 0.02 * seen[1].abs().max()
        changed = (seen[0] != seen[2]).any(-1).any(0)
        assert not changed[outside(case, prompt.length)].any() and changed.any()


REFUSED = {
    "site": ("z", (0, 2), ValueError, "within= goes with the rows of scores and pattern"),
    "number": ("pattern", 3, TypeError, r"positions \(start, stop\), or \(start, None\)"),
    "list": ("pattern", [0, 2], TypeError, r"positions \(start, stop\)"),
    "three": ("pattern", (0, 2, 4), TypeError, r"positions \(start, stop\)"),
    "none": ("pattern", (None, 2), TypeError, "whole numbers, not None"),
    "float": ("scores", (0.5, 2), TypeError, "whole numbers, not 0.5"),
    "flag": ("scores", (True, 2), TypeError, "whole numbers, not True"),
    "negative": ("scores", (-1, None), ValueError, "holds no row: positions count from 0"),
    "empty": ("scores", (3, 3), ValueError, "holds no row"),
    "backwards": ("pattern", (4, 2), ValueError, "holds no row"),
    "behind the end": ("pattern", (50, None), LookupError, "never ran"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused(case):
    model, prompt, _ = opened("llama")
    site, within, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        model.logits(prompt, hooks=Hook(site, weighed, within=within))
