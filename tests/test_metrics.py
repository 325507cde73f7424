"""Metrics by hand, and streamed against stored wherever attention is odd."""

import dataclasses
import math

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.metrics import METRICS

# A triangle and a window, grouped heads, a soft cap, a learned sink, an open prefix, two-way towers, cross
# attention, towers called image by image.
NAMES = ["gpt2", "llama", "mistral", "gemma2", "gpt_oss", "deepseek_v3", "paligemma", "qwen2_5_vl",
         "mllama", "t5", "whisper", "vit", "modernbert"]  # fmt: skip


def uniform(length):
    causal = torch.ones(length, length).tril()
    return (causal / causal.sum(-1, keepdim=True))[None, None]


def test_by_hand_on_uniform_causal_attention():
    pattern = uniform(8)
    assert torch.allclose(METRICS["distance"]()(pattern).mean(), torch.tensor(1.75))
    expected = torch.tensor([0, 0.5, 1, 1.5, 1.8, 2, 2.142857, 2.25])
    assert torch.allclose(METRICS["waad"](window=3)(pattern)[0, 0], expected, atol=1e-6)
    entropy = METRICS["entropy"]()(pattern)[0, 0]
    assert torch.allclose(entropy, torch.tensor([math.log(n) for n in range(1, 9)]), atol=1e-6)
    received = METRICS["received"]()(pattern)[0, 0]
    assert torch.allclose(received[-1], torch.tensor(1 / 8))
    assert torch.allclose(received[0], sum(torch.tensor(1 / n) for n in range(1, 9)))


def test_three_tokens_that_look_only_at_the_first():
    pattern = torch.zeros(1, 1, 3, 3)
    pattern[..., 0] = 1
    assert METRICS["waad"]()(pattern)[0, 0].tolist() == [0, 1, 2]
    assert METRICS["distance"]()(pattern)[0, 0].tolist() == [0, 1, 2]
    assert METRICS["received"]()(pattern)[0, 0].tolist() == [3, 0, 0]
    assert METRICS["entropy"]()(pattern)[0, 0].tolist() == [0, 0, 0]


def test_a_cached_step_and_a_look_ahead():
    step = torch.tensor([0.5, 0.0, 0.5]).view(1, 1, 1, 3)  # the last query of three
    assert METRICS["distance"]()(step).item() == 1.0
    ahead = torch.tensor([[0.0, 1.0], [0.0, 1.0]])[None, None]
    assert METRICS["distance"]()(ahead)[0, 0].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_small_and_frozen(metric):
    made = METRICS[metric]()
    assert made.name == metric and made.per in ("query", "key") and METRICS[metric].__doc__
    assert dataclasses.is_dataclass(made) and METRICS[metric].__dataclass_params__.frozen
    shape = made(uniform(6).expand(2, 3, 6, 6)).shape
    assert shape == (2, 3, 6)
    assert made(uniform(6).bfloat16()).dtype == torch.float32


def allowed(model, stack):
    """Metrics that have a meaning on this stack."""
    tower = model.stacks[stack]
    return [
        name
        for name, metric in METRICS.items()
        if not (metric.one_sequence and "cross" in stack)
        and not (metric.only_causal and not tower.causal)
    ]


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_streamed_equals_stored(name, batch):
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf, batch=batch, length=20))
    for stack in model.stacks:
        keep = allowed(model, stack)
        with torch.no_grad():
            streamed = model.trace(prompt, keep=keep, stack=stack)
            stored = model.trace(prompt, "pattern", stack=stack)
            both = model.trace(prompt, "pattern", keep=keep, stack=stack)
        assert (streamed.logits - stored.logits).abs().max() < 1e-5
        for metric in keep:
            assert streamed.layers(metric) == stored.layers("pattern")
            for layer in streamed.layers(metric):
                value = streamed[metric, layer]
                assert value.abs().sum() > 0
                expected = METRICS[metric]()(stored["pattern", layer])
                assert (value - expected).abs().max() < 1e-5, (metric, stack, layer)
                assert (both[metric, layer] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("length", [127, 128, 129, 700])
def test_blocks_meet_at_every_length(length):
    """Longer than a block of rows, and on both sides of its edge."""
    config = FAMILIES["llama"].tiny()
    config.max_position_embeddings = 1024
    import transformers

    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    model = interp.wrap(hf)
    ids = torch.randint(10, 120, (1, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        streamed = model.trace(ids, keep=list(METRICS))
        stored = model.trace(ids, "pattern")
    assert (streamed.logits - stored.logits).abs().max() < 1e-5
    for metric, layer in streamed:
        expected = METRICS[metric]()(stored["pattern", layer])
        assert (streamed[metric, layer] - expected).abs().max() < 1e-5 * max(1, expected.max())


def test_metrics_see_what_hooks_made():
    model = interp.wrap(FAMILIES["llama"].model())
    ids = torch.arange(20, 40)[None]

    def first_only(pattern, at):
        changed = torch.zeros_like(pattern)
        changed[..., 0] = 1
        return changed

    for rows in (False, True):
        hook = Hook("pattern", first_only, layers=[2], rows=rows)
        trace = model.trace(ids, keep=["distance", "entropy", "received"], hooks=hook)
        assert trace["distance", 2][0, 1].tolist() == list(range(20))
        assert trace["entropy", 2].abs().max() == 0
        assert trace["received", 2][0, 0].tolist() == [20] + [0] * 19
        assert trace["distance", 1][0, 1].tolist() != list(range(20))


def test_large_scores_keep_the_entropy_exact():
    torch.manual_seed(0)
    scores = torch.randn(1, 2, 5, 64) * 300 + 2000
    pattern = torch.softmax(scores, -1)
    from interp.metrics.entropy import _from_scores

    exact = torch.special.entr(torch.softmax(scores.double(), -1)).sum(-1)
    assert (_from_scores(pattern, scores) - exact).abs().max() < 1e-4
