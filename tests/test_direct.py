"""Direct effects: they add up on every family, say what the weights say, and are refused otherwise."""

import pytest
import torch

import interp
from interp.direct import DirectEffects, direct_effects
from interp.direct.directions import NotLinear, elsewhere, frozen_direction
from interp.families import FAMILIES
from interp.metrics import divergence, logit, logit_diff, probability
from interp.prompt import Prompt
from interp.sites import Hook

# Of decoders that do the same around attention and MLP one is enough.
ALIKE = {"mistral", "starcoder2", "smollm3", "qwen2", "qwen2_moe", "qwen3_moe", "cohere2", "gemma"}
TEXT = [name for name, family in FAMILIES.items() if family.kind == "text" and name not in ALIKE]
VLMS = ["llava", "paligemma", "qwen3_vl", "mllama"]
RIGHT, WRONG = [3, 11], [7, 19]  # of the two rows


def opened(name, batch=2):
    family = FAMILIES[name]
    hf = family.model()
    model = interp.wrap(hf)
    return model, Prompt.from_inputs(model, family.inputs(hf, batch=batch))


def difference(logits):
    rows = torch.arange(len(logits))
    last = logits if logits.ndim == 2 else logits[:, -1]
    return last[rows, torch.tensor([3, 8])] - last[rows, torch.tensor([7, 9])]


@pytest.mark.parametrize("name", TEXT + VLMS)
def test_parts_add_up_to_the_metric(name):
    model, prompt = opened(name)
    found = direct_effects(model, prompt, logit_diff(RIGHT, WRONG))
    assert (found.sum - found.metric).abs().max() < 1e-4
    with torch.no_grad():
        logits = model.hf(**prompt.inputs).logits[:, -1]
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    logits = cap * torch.atanh(logits / cap) if cap else logits
    rows = torch.arange(2)
    assert (found.metric - (logits[rows, RIGHT] - logits[rows, WRONG])).abs().max() < 1e-4
    assert bool(cap) == any("before the cap" in note for note in found.notes)
    assert found.heads.shape == (2, len(found.layers), model.stacks["text"].heads)
    # With random weights no part is nothing, and nothing is left over.
    held = ~found.heads.isnan()
    assert found.heads[held].abs().min() > 0 and found.mlp.abs().min() > 0
    crossed = torch.zeros_like(held) if found.cross is None else ~found.cross.isnan()
    assert found.constant.abs().max() < 1e-5 and bool((held | crossed).all())


@pytest.mark.parametrize("name", ["vit", "deit", "t5", "whisper"])
def test_other_models_that_end_in_logits(name):
    model, prompt = opened(name)
    found = direct_effects(model, prompt, difference)
    assert (found.sum - found.metric).abs().max() < 1e-4
    with torch.no_grad():
        logits = model.logits(prompt)
    assert torch.allclose(found.metric, difference(logits), atol=1e-5)
    assert (
        found.position.tolist() == [0, 0] if model.kind == "vision" else [logits.shape[1] - 1] * 2
    )
    assert (found.cross is None) == (model.kind == "vision")


def test_cross_attention_is_a_part_of_its_own():
    model, prompt = opened("t5")
    found = direct_effects(model, prompt, logit_diff([3], [7]))
    silent = direct_effects(
        model, prompt, logit_diff([3], [7]), hooks=Hook("z", nothing, stack="cross", heads=[1])
    )
    assert found.cross.abs().min() > 0 and silent.cross[..., 1].abs().max() == 0
    assert silent.cross[..., 0].abs().min() > 0
    assert {"cross head", "cross attention bias"} <= set(found.table()["component"])


def nothing(value, at):
    return value * 0


# What the weights say, each family by its own formula


def rms(value, epsilon, weight):
    return (value.pow(2).mean(-1, keepdim=True) + epsilon).rsqrt() * weight


def stream_of(model, prompt):
    with torch.no_grad():
        return model.trace(prompt, "z", "attn_out", "mlp_out", "resid_pre", "resid_post")


def check(model, prompt, direction, out, after=None, layers=4):
    """z W_O, what comes behind it, along a direction [batch, d_model]; likewise MLPs."""
    trace, last = stream_of(model, prompt), prompt.length - 1
    found = direct_effects(model, prompt, logit_diff(RIGHT, WRONG))
    for layer in range(layers):
        z = trace["z", layer][:, last]
        heads, size = z.shape[1:]
        written = torch.einsum("bhd,hdm->bhm", z, out(layer).view(heads, size, -1))
        attention, mlp = trace["attn_out", layer][:, last], trace["mlp_out", layer][:, last]
        scales = (1.0, 1.0) if after is None else after(layer, attention, mlp)
        expected = (written * (scales[0] * direction)[:, None]).sum(-1)
        assert (found.heads[:, layer] - expected).abs().max() < 1e-5
        whole = (attention * scales[0] * direction).sum(-1)
        assert (found.attention_bias[:, layer] - whole + expected.sum(-1)).abs().max() < 1e-5
        assert (found.mlp[:, layer] - (mlp * scales[1] * direction).sum(-1)).abs().max() < 1e-5
    first = trace["resid_pre", 0][:, last]
    if after is None:
        assert (found.embedding - (first * direction).sum(-1)).abs().max() < 1e-5
    return found


def unembedded(model, prompt, weight=1.0):
    """The last norm's scale and weight times the difference of two rows of the unembedding."""
    rows = model.hf.get_output_embeddings().weight.detach()
    stream = stream_of(model, prompt)["resid_post", 3][:, -1]
    return (rows[RIGHT] - rows[WRONG]) * weight, stream


def test_llama_by_its_weights():
    model, prompt = opened("llama")
    norm, layers = model.hf.model.norm, model.hf.model.layers
    rows, stream = unembedded(model, prompt)
    direction = rows * rms(stream, norm.variance_epsilon, norm.weight.detach())
    check(model, prompt, direction, lambda layer: layers[layer].self_attn.o_proj.weight.detach().T)


def test_granite_by_its_weights():
    model, prompt = opened("granite")
    norm, layers, config = model.hf.model.norm, model.hf.model.layers, model.config
    rows, stream = unembedded(model, prompt, 1 / config.logits_scaling)
    direction = rows * rms(stream, norm.variance_epsilon, norm.weight.detach())
    times = config.residual_multiplier
    assert times != 1
    check(
        model, prompt, direction, lambda layer: layers[layer].self_attn.o_proj.weight.detach().T,
        lambda layer, attention, mlp: (times, times),
    )  # fmt: skip


@pytest.mark.parametrize("name", ["gemma2", "olmo2"])
def test_norms_behind_attention_and_mlp_by_their_weights(name):
    model, prompt = opened(name)
    norm, layers = model.hf.model.norm, model.hf.model.layers
    one = 1.0 if name == "gemma2" else 0.0  # Gemma multiplies by 1 + weight
    epsilon = model.config.rms_norm_eps
    last = "post_feedforward_layernorm"
    rows, stream = unembedded(model, prompt)
    direction = rows * rms(stream, epsilon, norm.weight.detach() + one)

    def after(layer, attention, mlp):
        weights = (
            getattr(layers[layer], each).weight for each in ("post_attention_layernorm", last)
        )
        return [
            rms(value, epsilon, weight.detach() + one)
            for value, weight in zip((attention, mlp), weights, strict=True)
        ]

    check(
        model,
        prompt,
        direction,
        lambda layer: layers[layer].self_attn.o_proj.weight.detach().T,
        after,
    )


def test_gpt2_by_its_weights():
    model, prompt = opened("gpt2")
    norm, layers = model.hf.transformer.ln_f, model.hf.transformer.h
    with torch.no_grad():  # weights and biases that do something
        norm.weight.copy_(torch.linspace(0.5, 2, len(norm.weight)))
        norm.bias.copy_(torch.linspace(-1, 1, len(norm.bias)))
        for layer in layers:
            layer.attn.c_proj.bias.copy_(torch.linspace(1, -1, len(norm.bias)))
    rows, stream = unembedded(model, prompt)
    spread = (
        (stream - stream.mean(-1, keepdim=True)).pow(2).mean(-1, keepdim=True) + norm.eps
    ).sqrt()
    weighted = rows * norm.weight.detach()
    direction = (weighted - weighted.mean(-1, keepdim=True)) / spread
    found = check(model, prompt, direction, lambda layer: layers[layer].attn.c_proj.weight.detach())
    assert (found.final - (rows * norm.bias.detach()).sum(-1)).abs().max() < 1e-5
    assert found.attention_bias.abs().min() > 1e-3


def test_layers_that_scale_the_stream():
    """What comes early is halved by every later layer; nothing of it is lost."""
    hf = FAMILIES["llama"].model()
    for layer in hf.model.layers:
        layer.forward = halved(layer.forward)
    model = interp.wrap(hf)
    prompt = Prompt.from_inputs(model, FAMILIES["llama"].inputs(hf, batch=2))
    norm = hf.model.norm
    rows, stream = unembedded(model, prompt)
    direction = rows * rms(stream, norm.variance_epsilon, norm.weight.detach())
    found = check(
        model, prompt, direction, lambda layer: hf.model.layers[layer].self_attn.o_proj.weight.detach().T,
        lambda layer, attention, mlp: [0.5 ** (4 - layer)] * 2,
    )  # fmt: skip
    first = stream_of(model, prompt)["resid_pre", 0][:, -1]
    assert (found.embedding - 0.5**4 * (first * direction).sum(-1)).abs().max() < 1e-5
    assert (found.sum - found.metric).abs().max() < 1e-4


def halved(forward):
    return lambda *args, **kwargs: 0.5 * forward(*args, **kwargs)


def test_a_change_between_layers_is_refused():
    hf = FAMILIES["llama"].model()
    model = interp.wrap(hf)
    prompt = Prompt.from_inputs(model, FAMILIES["llama"].inputs(hf, batch=2))
    hf.model.layers[1].register_forward_hook(lambda module, args, output: output * 0.5)
    with pytest.raises(ValueError, match="between layers 1 and 2"):
        direct_effects(model, prompt, logit_diff(RIGHT, WRONG))


def test_a_model_worked_by_hand():
    """The stream ends as (3, 1, -1, -3): mean 0, variance 5. The metric reads (1, 0, 0, -1)."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=3, n_positions=4, n_embd=4, n_layer=1, n_head=2, bos_token_id=0,
                        eos_token_id=0, layer_norm_epsilon=1e-12)  # fmt: skip
    hf = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weight in hf.parameters():
            weight.zero_()
        core = hf.transformer
        core.wte.weight.copy_(torch.tensor([[1.0, 0, -1, 0], [1, 0, 0, 0], [0, 0, 0, 1]]))
        block = core.h[0]
        block.ln_1.weight.fill_(1.0)
        block.attn.c_attn.bias[8:].copy_(
            torch.tensor([1.0, 0, 0, 2])
        )  # values: the same everywhere
        block.attn.c_proj.weight[0] = torch.tensor([1.0, 0, 0, -1])
        block.attn.c_proj.weight[3] = torch.tensor([0.5, 0, 0, -0.5])
        block.attn.c_proj.bias.copy_(torch.tensor([0.0, 0, 1, -1]))
        block.mlp.c_proj.bias.copy_(torch.tensor([0.0, 1, -1, 0]))
        core.ln_f.weight.fill_(1.0)
        core.ln_f.bias[0] = 0.5
    model = interp.wrap(hf)
    found = direct_effects(model, torch.tensor([[0, 0, 0]]), logit_diff(1, 2))
    root = 5**-0.5
    expected = {"embedding": root, "mlp": 0.0, "attention bias": root, "final bias": 0.5,
                "layer constant": 0.0, "sum": 6 * root + 0.5, "metric": 6 * root + 0.5}  # fmt: skip
    table = found.table()
    for name, value in expected.items():
        assert float(table.loc[table["component"] == name, "value"].sum()) == pytest.approx(
            value, abs=1e-6
        )
    assert found.heads[0, 0].tolist() == pytest.approx([2 * root, 2 * root])
    together = found.table(by_head=False)
    assert float(together.loc[together["component"] == "heads", "value"].iloc[0]) == pytest.approx(
        4 * root
    )


# Rows, positions, hooks


def test_padded_rows_are_as_they_are_alone():
    model = interp.load("demo-lm")
    texts = ["The capital of France is", "When Mary and John went to the store, John gave a bag to"]
    together = direct_effects(model, model.encode(texts), logit_diff(" Mary", " John"))
    assert model.encode(texts).mask.all(1).tolist() == [False, True]
    for row, text in enumerate(texts):
        alone = direct_effects(model, text, logit_diff(" Mary", " John"))
        assert torch.allclose(together.heads[row], alone.heads[0], atol=1e-4)
        assert torch.allclose(together.embedding[row], alone.embedding[0], atol=1e-4)
    assert (together.sum - together.metric).abs().max() < 1e-4
    joined = DirectEffects.joined([together, alone])
    assert joined.heads.shape[0] == 3 and torch.equal(joined.metric[2:], alone.metric)


def test_any_position_that_a_span_names():
    model = interp.load("demo-lm")
    prompt = model.encode("When Mary and John went to the store, John gave", spans={"name": "Mary"})
    found = direct_effects(model, prompt, logit(" and", at="name"))
    with torch.no_grad():
        logits = model.logits(prompt)
    place = prompt.position("name")
    assert found.position.tolist() == place.tolist() != [prompt.length - 1]
    token = model.tokenizer(" and", add_special_tokens=False)["input_ids"][0]
    assert float(found.metric) == pytest.approx(float(logits[0, place[0], token]), abs=1e-4)
    assert float(found.sum) == pytest.approx(float(found.metric), abs=1e-4)


def test_hooks_are_part_of_the_run():
    model = interp.load("demo-vlm")
    task = interp.Task.load("existence", count=2, split="test")
    prompt, metric = task.encode(model), logit_diff(" yes", " no")
    silence = Hook("z", nothing, layers=[3], heads=[0])
    plain = direct_effects(model, prompt, metric)
    found = direct_effects(model, prompt, metric, hooks=silence)
    assert found.heads[:, 3, 0].tolist() == [0, 0] and plain.heads[:, 3, 0].abs().min() > 0
    with torch.no_grad():
        logits = model.logits(prompt, hooks=silence)
    assert torch.allclose(found.metric, metric.bind(model, prompt)(logits, prompt), atol=1e-4)
    assert (found.sum - found.metric).abs().max() < 1e-4


def test_no_gradients_are_needed_around_it_and_none_are_left():
    model, prompt = opened("llama")
    with torch.no_grad():
        found = direct_effects(model, prompt, logit_diff(RIGHT, WRONG))
    assert (found.sum - found.metric).abs().max() < 1e-4 and not found.heads.requires_grad
    assert all(weight.grad is None for weight in model.hf.parameters())


# Norms


@pytest.mark.parametrize("centred", [False, True])
def test_the_direction_behind_a_norm(centred):
    chance = torch.Generator().manual_seed(1)
    at, weight = (torch.randn(2, 16, generator=chance, dtype=torch.double) for _ in range(2))

    def number(x):
        x = x - x.mean(-1, keepdim=True) if centred else x
        return (x * (x.pow(2).mean(-1, keepdim=True) + 0.3).rsqrt() * weight).sum(-1) + 5

    slope = torch.func.grad(lambda x: number(x).sum())(at)
    other = elsewhere(at)
    found = frozen_direction(slope, at, number(at) - 5, other, number(other) - 5, 1e-6)
    x = at - at.mean(-1, keepdim=True) if centred else at
    scaled = weight * (x.pow(2).mean(-1, keepdim=True) + 0.3).rsqrt()
    expected = scaled - scaled.mean(-1, keepdim=True) if centred else scaled
    assert torch.allclose(found, expected)
    assert (slope - expected).abs().max() > 0.05  # the gradient alone is another direction
    with pytest.raises(NotLinear):
        bent = number(at) ** 2, number(other) ** 2
        frozen_direction(
            2 * number(at)[:, None] * slope, at, bent[0] - 25, other, bent[1] - 25, 1e-4
        )


# Refusals


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("bert", "more than a norm and a linear map"),
        ("roberta", "more than a norm and a linear map"),
        ("bart", "does more to the stream than add to it"),
        ("dinov2", "10 positions of the last layer"),
    ],
)
def test_what_is_no_sum_is_refused(name, why):
    model, prompt = opened(name)
    with pytest.raises(ValueError, match=why):
        direct_effects(model, prompt, difference)


def test_metrics_that_are_no_sum_of_logits_are_refused():
    model, prompt = opened("llama")
    logits = model.logits(prompt).detach()
    for metric in (probability([3]), divergence(logits)):
        with pytest.raises(ValueError, match="no sum of logits, so that parts do not add up"):
            direct_effects(model, prompt, metric)
    with pytest.raises(ValueError, match="or the metric is no sum of logits"):
        direct_effects(model, prompt, lambda logits: logits[:, -1].log_softmax(-1)[:, 3])
    with pytest.raises(ValueError, match="of row 0 depends on 2 positions"):
        direct_effects(model, prompt, lambda logits: logits[:, -2:, 3].sum(-1))
    with pytest.raises(ValueError, match="does not depend on what leaves the text stack"):
        direct_effects(model, prompt, lambda logits: torch.zeros(2))


def test_training_mode_and_towers_that_write_no_logits_are_refused():
    model, prompt = opened("gpt2")
    model.hf.train()
    with pytest.raises(ValueError, match=r"training mode.*eval\(\)"):
        direct_effects(model, prompt, logit([3]))
    model, prompt = opened("llava", batch=1)
    with pytest.raises(ValueError, match="does not depend on what leaves the vision stack"):
        direct_effects(model, prompt, logit([3]), stack="vision")
    model, prompt = opened("t5")
    with pytest.raises(ValueError, match="the cross stack has no stream of its own"):
        direct_effects(model, prompt, difference, stack="cross")
