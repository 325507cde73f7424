"""Weights of heads: right in any family, refused where there are none, and what is told from them."""

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.weights import Norm, composition, copying_score, head_weights, name_copy

# Fused and separate projections, grouped heads, biases, partial rotary positions, Gemma's 1 + weight,
# multipliers, norms without weights, post-norms, learned sinks, a mixture.
NAMES = ["gpt2", "llama", "gpt_neox", "opt", "qwen2", "phi3", "gemma", "gemma2", "mistral", "granite",
         "olmo", "nemotron", "cohere2", "glm4", "gpt_oss", "mixtral", "stablelm", "bert", "t5"]  # fmt: skip
POST_NORMED = ("gemma2", "glm4")


def opened(name):
    return interp.wrap(FAMILIES[name].model())


def close(found, expected, most=1e-5):
    assert found.shape == expected.shape
    assert float((found - expected).abs().max() / expected.abs().max()) < most


@pytest.fixture(scope="module", params=NAMES)
def family(request):
    model = opened(request.param)
    stack = next(iter(model.stacks))
    ids = torch.randint(10, 120, (3, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        sites = ["resid_pre", "resid_post", "q", "k", "v", "z", "attn_out"]
        trace = model.trace(ids, *sites, stack=stack)
    return request.param, model, stack, ids, trace, head_weights(model)


def test_values_and_scores_come_out_of_the_stream(family):
    name, model, stack, ids, trace, weights = family
    assert "qk" not in weights.refused and "ov" not in weights.refused
    for layer in weights.layers:
        stream = trace["resid_pre", layer]
        made = {part: weights.read(part, stream, layer) for part in ("q", "k", "v")}
        heads = model.stacks[stack].heads
        seen = {part: trace[part, layer] for part in made}
        seen = {
            part: each.repeat_interleave(heads // each.shape[2], 2) for part, each in seen.items()
        }
        close(made["v"], seen["v"])
        # Rotary positions turn q and k alike, so that a token's score with itself stays.
        close((made["q"] * made["k"]).sum(-1), (seen["q"] * seen["k"]).sum(-1))


def test_what_heads_write_adds_up(family):
    name, model, stack, ids, trace, weights = family
    for at, layer in enumerate(weights.layers):
        written = torch.einsum("bthe,hed->btd", trace["z", layer], weights.o[at])
        out = trace["attn_out", layer]
        if name in POST_NORMED:
            zero = Hook("mlp_out", lambda value, at: value * 0, layers=[layer], stack=stack)
            with torch.no_grad():
                alone = model.trace(
                    ids, "resid_pre", "resid_post", "attn_out", layers=[layer], hooks=zero
                )
            rms = alone["attn_out", layer].pow(2).mean(-1, keepdim=True).sqrt()
            close(written / rms, alone["resid_post", layer] - alone["resid_pre", layer], 1e-4)
        else:
            times = 0.5 if name == "granite" else 1.0
            close(written + times * weights.o_bias[at], times * out)


def test_logits_come_out_of_the_last_layer(family):
    name, model, stack, ids, trace, weights = family
    if "unembed" in weights.refused:
        assert name == "bert" and "is no norm" in weights.refused["unembed"]
        return
    stream = trace["resid_post", model.stacks[stack].size - 1]
    logits = stream / weights.final_norm.spread(stream) @ weights.unembed + weights.unembed_bias
    if name == "gemma2":
        logits = 30 * torch.tanh(logits / 30)
    times = {"granite": 0.5, "cohere2": 0.5}.get(name, 1.0)
    close(times * logits, trace.logits)


def test_tokens_as_the_first_layer_receives_them(family):
    name, model, stack, ids, trace, weights = family
    if "embed" in weights.refused:
        assert name in ("bert", "t5")
        return
    rest = trace["resid_pre", 0] - weights.embed[ids]  # positions: the same in every row
    assert float((rest - rest[:1]).abs().max()) < 1e-5


def test_norms_are_measured():
    found = {name: head_weights(opened(name)).norms[0] for name in ("llama", "gpt2", "olmo2")}
    assert found["llama"].kind == "rms" and found["llama"].epsilon == pytest.approx(1e-6, rel=1e-4)
    assert found["gpt2"].kind == "layer" and found["gpt2"].epsilon == pytest.approx(1e-5, rel=1e-4)
    assert found["olmo2"] == Norm()  # its norms stand behind


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_is_near(dtype):
    exact = head_weights(opened("qwen2"))
    rough = head_weights(interp.wrap(FAMILIES["qwen2"].model().to(dtype)))
    for part in ("q", "v", "o", "unembed"):
        assert getattr(rough, part).dtype == torch.float32
        close(getattr(rough, part), getattr(exact, part), 0.02)


def test_hooks_around_are_no_part_of_the_weights():
    model = opened("llama")
    plain = head_weights(model, layers=[1, 3])
    with model.using(Hook("q", lambda q, at: q * 2), Hook("resid_pre", lambda x, at: x + 1)):
        again = head_weights(model, layers=[1, 3])
        ids = torch.arange(20, 30)[None]
        model.hf(ids)
    assert (
        plain.layers == [1, 3] and torch.equal(plain.q, again.q) and torch.equal(plain.v, again.v)
    )
    assert "forward" not in model.hf.get_input_embeddings().__dict__  # nothing stays behind


def test_what_is_no_linear_map_is_refused():
    normed = head_weights(opened("qwen3"))
    assert normed.q is None and normed.v is not None and "without qk" in repr(normed)
    with pytest.raises(ValueError, match=r"no qk weights: q of layer 0 .* \(a norm on q"):
        normed.composition()
    assert normed.copying().shape == (4, 4)
    latent = head_weights(opened("deepseek_v3"))
    with pytest.raises(ValueError, match="no ov weights: v of layer 0 is no linear map"):
        latent.copying()


def test_vision_towers():
    alone = head_weights(interp.load("demo-vit"))
    assert alone.v.shape == (4, 4, 64, 16) and alone.norms[0].kind == "layer"
    model = interp.load("demo-vlm")
    with pytest.raises(ValueError, match="fills the vision stack of demo-vlm; give prompt="):
        head_weights(model, "vision")
    prompt = interp.Task.load("colour", count=2).encode(model)
    inside = head_weights(model, "vision", prompt=prompt)
    with torch.no_grad():
        trace = model.trace(prompt, "resid_pre", "v", stack="vision")
    close(inside.read("v", trace["resid_pre", 1], 1), trace["v", 1])
    assert "not what feeds the vision stack" in inside.refused["embed"]


def test_refusals():
    with pytest.raises(ValueError, match="made of another stack's stream"):
        head_weights(opened("t5"), "cross")
    with pytest.raises(IndexError, match="layers 0 to 3"):
        head_weights(opened("llama"), layers=[9])
    with pytest.raises(LookupError, match="has no 'vision' stack"):
        head_weights(opened("llama"), "vision")
    with pytest.raises(ValueError, match="give prompt="):
        head_weights(opened("blip-2"))


def test_copying_by_hand():
    eye = torch.eye(6)
    assert float(copying_score(eye)) == 1 and float(copying_score(-eye)) == -1
    half = torch.diag(torch.tensor([1.0, 1.0, -1.0, -1.0]))
    assert float(copying_score(half)) == 0
    turned = torch.tensor([[0.0, -1.0], [1.0, 0.0]])  # eigenvalues i and -i
    assert float(copying_score(turned)) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="a square matrix"):
        copying_score(torch.ones(3, 4))


def test_copying_is_the_same_on_the_small_and_the_full_matrix():
    chance = torch.Generator().manual_seed(0)
    embed, v = (torch.randn(shape, generator=chance) for shape in ((30, 12), (12, 4)))
    o, unembed = (torch.randn(shape, generator=chance) for shape in ((4, 12), (12, 30)))
    full = copying_score(embed.double() @ v.double() @ o.double() @ unembed.double())
    small = copying_score(o @ (unembed @ embed) @ v)
    assert float(full) == pytest.approx(float(small), abs=1e-5)
    weights = head_weights(interp.load("demo-lm"))
    whole = weights.embed @ weights.v[2, 0] @ weights.o[2, 0] @ weights.unembed
    assert float(copying_score(whole)) == pytest.approx(float(weights.copying()[2, 0]), abs=1e-3)


def test_composition_against_dense_matrices():
    chance = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(3, 2, 12, 4, generator=chance) for _ in range(3))
    o = torch.randn(3, 2, 4, 12, generator=chance)
    found = composition(q, k, v, o, samples=0)
    for early, one, late, two in ((0, 0, 1, 1), (0, 1, 2, 0), (1, 1, 2, 1)):
        ov = v[early, one] @ o[early, one]
        qk, after = q[late, two] @ k[late, two].T, v[late, two] @ o[late, two]
        for kind, other in (("Q", qk), ("K", qk.T), ("V", after)):
            dense = (ov @ other).norm() / (ov.norm() * other.norm())
            assert torch.allclose(found[kind][early, one, late, two], dense, atol=1e-5)
    assert found["K"][1, 0, 1, 0].isnan() and found["K"][2, 0, 1, 0].isnan()
    over = composition(q, k, v, o, samples=40)["K"]
    assert abs(float(over[over.isfinite()].mean())) < 0.05  # random heads compose as chance does
    assert torch.equal(over.nan_to_num(), composition(q, k, v, o, samples=40)["K"].nan_to_num())
    with pytest.raises(ValueError, match="samples=-1"):
        composition(q, k, v, o, samples=-1)


def test_names_that_heads_copy():
    """Heads 2.0 and 2.2 of demo-lm copy what they look at; 2.1 writes against it."""
    model = interp.load("demo-lm")
    weights = head_weights(model, layers=[2, 3])
    prompt = interp.Task.load("ioi", count=10).encode(model)
    where = prompt.where("IO") | prompt.where("S1")
    copies, against = name_copy(model, weights, prompt, where)
    assert copies.shape == (2, 8) and float(copies[0, 0]) == float(copies[0, 2]) == 1
    assert float(against[0, 1]) > 0.8 > 0.2 > float(copies[0, 1])
    every = name_copy(model, weights, prompt, where, top=len(weights.embed))[0]
    assert bool((every == 1).all())
    with pytest.raises(ValueError, match="marks no position"):
        name_copy(model, weights, prompt, torch.zeros_like(prompt.mask))
