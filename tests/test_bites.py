"""The conformance tests fail when the seam is wrong: each fault is planted, and one of them must see it."""

import pytest
import torch

import interp
from interp import eager, model, rows, seam, structure
from tests import test_conformance as conformance

CHECKS = [
    conformance.test_idle_is_plain_attention_to_the_bit,
    conformance.test_reading_every_site_gives_the_eager_logits,
    conformance.test_patterns_are_the_eager_attentions,
    conformance.test_rows_sum_to_one_and_are_the_softmax_of_the_scores,
    conformance.test_z_through_the_output_projection_is_attn_out,
    conformance.test_layers_hand_on_what_the_next_receives,
    conformance.test_heads_and_sizes_are_those_of_the_run,
]


def failing(name):
    """Which checks fail on this family; also when opening it is already refused."""
    opened = conformance.open_family(name)
    names = set()
    for check in CHECKS:
        try:
            check(opened)
        except (AssertionError, RuntimeError, LookupError):
            names.add(check.__name__.removeprefix("test_"))
    return names


@pytest.fixture(autouse=True)
def trusting(monkeypatch):
    """The seam checks its arithmetic against the family's own and would step aside: not here."""
    monkeypatch.setattr(seam, "agrees", lambda module, call, extras: True)


@pytest.mark.parametrize("name", ["llama", "gpt_oss", "llava", "t5"])
def test_nothing_fails_as_it_is(name):
    assert failing(name) == set()


def shifted_triangle(monkeypatch):
    """The implicit causal mask, one key too far."""
    hide = rows._hide

    def wrong(scores, call, batch, heads, span):
        if call.mask is None and call.causal:
            row = torch.arange(span.top, span.bottom)[:, None] + 1
            column = torch.arange(span.left, span.right)[None, :]
            return scores.masked_fill(column > row, torch.finfo(scores.dtype).min)
        return hide(scores, call, batch, heads, span)

    monkeypatch.setattr(rows, "_hide", wrong)


def interleaved_groups(monkeypatch):
    """Query head h on KV head h % n instead of h // group."""

    def spread(tensor, heads):
        return tensor.repeat(1, heads // tensor.shape[1], 1, 1)

    monkeypatch.setattr(
        rows, "_product", lambda query, key: query @ spread(key, query.shape[1]).transpose(2, 3)
    )
    monkeypatch.setattr(
        rows, "_mix", lambda pattern, value: pattern @ spread(value, pattern.shape[1])
    )


def forgotten_sinks(monkeypatch):
    read_call = seam.read_call

    def wrong(*arguments):
        call = read_call(*arguments)
        call.sinks = None
        return call

    monkeypatch.setattr(seam, "read_call", wrong)


def forgotten_bias(monkeypatch):
    monkeypatch.setattr(rows, "_bend", lambda scores, *rest: scores)


def wrong_projection(monkeypatch):
    """attn_out taken from another linear layer of the attention."""
    monkeypatch.setattr(structure, "_OUT", ("q_proj", "q"))


def layers_off_by_one(monkeypatch):
    """resid sites standing one layer too high."""
    places = model.places_of

    def wrong(hf, stacks):
        result = places(hf, stacks)
        for stack in stacks.values():
            modules = [layer.module for layer in stack.layers.values()]
            if None not in modules and len(modules) > 1:
                result[modules[0]], result[modules[1]] = result[modules[1]], result[modules[0]]
        return result

    monkeypatch.setattr(model, "places_of", wrong)


def pattern_before_softmax(monkeypatch):
    monkeypatch.setattr(rows, "_softmax", lambda scores, call, heads: torch.sigmoid(scores))


def no_mask_entry(monkeypatch):
    """What transformers does with a name that has no mask: padding and windows are dropped."""
    names = seam.ALL_MASK_ATTENTION_FUNCTIONS._global_mapping
    monkeypatch.delitem(names, seam.OVER_SDPA)


FAULTS = {
    shifted_triangle: ("llama", "patterns_are_the_eager_attentions"),
    interleaved_groups: ("llama", "patterns_are_the_eager_attentions"),
    forgotten_sinks: ("gpt_oss", "patterns_are_the_eager_attentions"),
    forgotten_bias: ("t5", "patterns_are_the_eager_attentions"),
    wrong_projection: ("llama", "z_through_the_output_projection_is_attn_out"),
    layers_off_by_one: ("llama", "layers_hand_on_what_the_next_receives"),
    pattern_before_softmax: ("llava", "rows_sum_to_one_and_are_the_softmax_of_the_scores"),
    no_mask_entry: ("mistral", "idle_is_plain_attention_to_the_bit"),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_planted_fault_is_seen(fault, monkeypatch):
    name, check = FAULTS[fault]
    fault(monkeypatch)
    assert check in failing(name)


@pytest.mark.parametrize("name", ["gpt_oss", "llama", "gemma2", "t5", "clip"])
def test_the_way_out_through_the_family_s_eager_code_is_as_exact(name, monkeypatch):
    """Were no arithmetic known to the seam, every site would still be served."""
    monkeypatch.setattr(seam, "agrees", lambda module, call, extras: False)
    # gpt_oss takes each row's maximum off before its softmax: its scores are right but for a constant.
    known = {"rows_sum_to_one_and_are_the_softmax_of_the_scores"} if name == "gpt_oss" else set()
    assert failing(name) == known
    opened = conformance.open_family(name)
    wrapped, prompt = opened[1], opened[2]
    moved = wrapped.logits(prompt, hooks=interp.Hook("scores", lambda s, at: s * 0.5, layers=[1]))
    assert (moved - opened[3]).abs().max() > 1e-4
    with torch.no_grad():
        streamed = wrapped.trace(prompt, keep=["received"])
    expected = opened[5][streamed.stack]
    for layer in streamed.layers("received"):
        assert (streamed["received", layer] - expected["pattern", layer].sum(-2)).abs().max() < 1e-5


def test_strange_arithmetic_is_noticed(monkeypatch):
    """A family whose eager code is not plain attention does not agree, and goes through its own."""
    import sys

    from interp.families import FAMILIES

    monkeypatch.setattr(seam, "agrees", eager.agrees)
    hf = FAMILIES["qwen3"].model()
    file = sys.modules[type(hf.model.layers[0].self_attn).__module__]
    original = file.eager_attention_forward

    def halved(module, query, key, value, attention_mask, scaling, **more):
        return original(module, query * 0.5, key, value, attention_mask, scaling, **more)

    monkeypatch.setattr(file, "eager_attention_forward", halved)
    monkeypatch.setattr(eager, "_AGREES", {})
    wrapped = interp.wrap(hf)
    ids = torch.arange(20, 32)[None]
    trace = wrapped.trace(ids, "pattern", "scores", "q")
    layer = trace["q", 1].transpose(1, 2), wrapped.hf.model.layers[1].self_attn
    assert not any(eager._AGREES.values())
    expected = torch.softmax(trace["scores", 1], -1)
    assert (trace["pattern", 1] - expected).abs().max() < 1e-6
    assert layer[0].shape[1] == wrapped.stacks["text"].heads
