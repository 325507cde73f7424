"""Metrics by hand, and streamed against stored wherever attention is odd."""

import dataclasses
import math

import pytest
import torch

import interp
import interp.structure
from interp import Hook
from interp.families import FAMILIES
from interp.forward import check_padding
from interp.metrics import AXES, METRICS, SiteMetric, owns
from interp.metrics.fai import PUBLISHED
from interp.metrics.value_drain import output_weight
from interp.sites import SITES

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


# Their vision towers run attention image by image, or window by window.
CALLED_OFTEN = ("mistral3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl")
# What a metric needs before it means something on a bare pattern.
BARE = {
    "duplicate": {"period": 3},
    "induction": {"period": 3},
    "neighbours": {"grid": (2, 3)},
    "image_distance": {"grid": (2, 3)},
}
NEEDS_SPANS = ("visual_share", "retrieval")


@pytest.mark.parametrize("metric", METRICS)
def test_metrics_are_small_and_frozen(metric):
    made = METRICS[metric](**BARE.get(metric, {}))
    assert made.name == metric and made.per in AXES and METRICS[metric].__doc__
    assert dataclasses.is_dataclass(made) and METRICS[metric].__dataclass_params__.frozen
    if isinstance(made, SiteMetric):
        value = torch.randn(2, 6, *[4] * (len(SITES[made.site]) - 2)).bfloat16()
        layer = interp.structure.Layer(None, out=torch.nn.Linear(16, 8))
        found = made(value, None, layer)
    elif metric in NEEDS_SPANS:
        with pytest.raises(ValueError, match="needs to know the prompt"):
            made(uniform(6))
        return
    else:
        found = made(uniform(6).expand(2, 3, 6, 6).bfloat16())
    assert found.ndim == len(AXES[made.per]) and found.shape[0] == 2
    assert found.dtype == torch.float32


def allowed(model, stack, prompt):
    """Metrics that have a meaning on this stack and prompt, set so that they have something to do."""
    tower = model.stacks[stack]
    made = whole(stack, tower, owns(stack, prompt) and prompt.ids is not None)
    if owns(stack, prompt) and prompt.ids is not None:
        made |= of_spans(prompt, tower)
    return {name: metric for name, metric in made.items() if fits(model, metric, tower)}


def whole(stack, tower, spoken):
    """Metrics that need no spans."""
    found = {}
    for name, metric in METRICS.items():
        if metric.one_sequence and "cross" in stack or metric.only_causal and not tower.causal:
            continue
        found[name] = metric
    for name in ("neighbours", "image_distance"):
        found.pop(name, None)
    if not spoken:
        for name in ("visual_share", "retrieval", "duplicate", "induction"):
            found.pop(name, None)
    made = {name: metric() for name, metric in found.items()}
    if tower.causal:
        made["fai near"] = METRICS["fai"](2, 5)
        made["span without"] = METRICS["span"](without_first=True)
    if "cross" not in stack:
        made["chunks"] = METRICS["chunks"](starts=(0, 3, 9))
        made["two back"] = METRICS["previous"](back=2)
    made["value norm"] = METRICS["value_drain"](projected=False, relative=False)
    for name in ("visual_share", "retrieval"):  # they come with the spans
        made.pop(name, None)
    return made


def of_spans(prompt, tower):
    made = {
        "visual_share": METRICS["visual_share"](span="middle"),
        "entropy there": METRICS["entropy"](keys="middle"),
        "matched": METRICS["induction"](matched=True),
    }
    if "image" in prompt.names:
        made["image share"] = METRICS["visual_share"]()
        made["image entropy"] = METRICS["entropy"](keys="image")
    if tower.causal:
        made["retrieval"] = METRICS["retrieval"](needle="middle", response="end")
        made["fai of the end"] = METRICS["fai"](1, 6, rows="end")
        made["span of the end"] = METRICS["span"](rows="end")
    return made


def fits(model, metric, tower):
    """Whether the stack has the metric's site, and its projection is one."""
    from interp.asking import choose_layers

    try:
        choose_layers(tower, None, metric.site)
    except LookupError:
        return False
    projects = metric.name == "written" or getattr(metric, "projected", False)
    return not projects or plain_output(tower)


def plain_output(tower):
    try:
        return all(
            output_weight(layer) is not None for layer in tower.layers.values() if layer.attention
        )
    except ValueError:
        return False


def marked(model, inputs):
    """A prompt of ready inputs with spans in its middle and at its end."""
    prompt = interp.Prompt.from_inputs(model, inputs)
    if prompt.ids is not None:
        order = torch.arange(prompt.length)
        prompt.spans["middle"] = prompt.mask & (order > 6) & (order < 12)
        prompt.spans["end"] = prompt.mask & (order >= prompt.length - 5)
    return prompt


def padded(model, inputs):
    """The inputs with three positions of the first row hidden: on the left, or where the model counts
    positions over padding there, on the right. Images stay."""
    mask = inputs.get("attention_mask")
    if (
        mask is None
        or "input_ids" not in inputs
        or mask.shape != inputs["input_ids"].shape
        or len(mask) < 2
    ):
        return inputs, False
    for hidden in (slice(0, 3), slice(-3, None)):
        changed = mask.clone()
        changed[0, hidden] = 0
        prompt = interp.Prompt.from_inputs(model, {**inputs, "attention_mask": changed})
        inside = prompt.spans.get("image", torch.zeros_like(prompt.mask))
        try:
            check_padding(model.hf, prompt)
        except ValueError:
            continue
        if not bool((inside & ~prompt.mask).any()):
            return {**inputs, "attention_mask": changed}, True
    return inputs, False


def compare(model, prompt, stack, keep):
    """Every metric streamed against the same metric called on what was stored."""
    sites = sorted({metric.site for metric in keep.values()})
    with torch.no_grad():
        streamed = model.trace(prompt, keep=keep, stack=stack)
        stored = model.trace(prompt, *sites, stack=stack)
        both = model.trace(prompt, *sites, keep=keep, stack=stack)
    assert (streamed.logits - stored.logits).abs().max() < 1e-5
    for name, metric in keep.items():
        assert streamed.layers(name) == stored.layers(metric.site)
        for layer in streamed.layers(name):
            # A decoder's queries are not the prompt's positions, though there may be as many.
            own = prompt if "cross" not in stack or owns(stack, prompt, metric.site) else None
            expected = metric(stored[metric.site, layer], own, model.stacks[stack].layers[layer])
            scale = max(1, expected.nan_to_num().abs().max())
            for trace in (streamed, both):
                value = trace[name, layer]
                assert value.shape == expected.shape and value.ndim == len(AXES[metric.per])
                same = torch.allclose(value, expected, rtol=0, atol=1e-5 * scale, equal_nan=True)
                assert same, (name, stack, layer, (value - expected).abs().max())
    return streamed


CASES = [(name, 2) for name in FAMILIES] + [(name, 1) for name in NAMES]


@pytest.mark.parametrize(("name", "batch"), CASES)
def test_streamed_equals_stored(name, batch):
    """Two rows of unequal length, padded; or one."""
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    inputs, _ = padded(model, family.inputs(model.hf, batch=batch, length=20))
    prompt = marked(model, inputs)
    for stack in model.stacks:
        keep = allowed(model, stack, prompt)
        one_map = {each: metric for each, metric in keep.items() if metric.joins}
        calls_often = name in CALLED_OFTEN and stack == "vision"
        streamed = compare(model, prompt, stack, one_map if calls_often else keep)
        assert all(
            streamed[metric].nan_to_num().abs().sum() > 0
            for metric in ("received", "sink", "entropy")
        )


@pytest.mark.parametrize("length", [127, 128, 129, 700])
def test_blocks_meet_at_every_length(length):
    """Longer than a block of rows, and on both sides of its edge."""
    config = FAMILIES["llama"].tiny()
    config.max_position_embeddings = 1024
    import transformers

    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    model = interp.wrap(hf)
    ids = torch.randint(10, 120, (1, length), generator=torch.Generator().manual_seed(length))
    prompt = marked(model, {"input_ids": ids})
    keep = allowed(model, "text", prompt)
    keep["published"] = METRICS["fai"](*PUBLISHED["v2"])
    keep["grid"] = METRICS["neighbours"](grid=(10, 12), before=3)
    keep["distance on it"] = METRICS["image_distance"](grid=(10, 12), before=3)
    compare(model, prompt, "text", keep)


def test_the_families_are_padded_and_hold_image_tokens():
    """What the test above is about is really there."""
    left = images = 0
    for name in ("llama", "gpt2", "mistral", "llava", "qwen2_5_vl", "bert", "t5"):
        family = FAMILIES[name]
        model = interp.wrap(family.model())
        inputs, done = padded(model, family.inputs(model.hf, batch=2, length=20))
        prompt = interp.Prompt.from_inputs(model, inputs)
        left += done and not bool(prompt.mask[0, 0])
        images += "image" in prompt.names
    assert (left, images) == (7, 2)


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
