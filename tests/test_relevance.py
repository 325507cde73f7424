"""Relevance: values worked by hand, propagation against a block written out, and what is refused."""

import threading

import pytest
import torch
import transformers
from torch.nn import functional

import interp
from interp import relevance
from interp.propagation import propagating
from interp.relevance import attention_gradient, chefer, chefer_cross, flow, normalised, rollout

UNIFORM = torch.tensor([[1, 0, 0], [1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]).double()[None]
GRADIENT = torch.tensor([[1, 0, 0], [-1, 2, 0], [0.5, -0.3, 1]]).double()[None]
SMALL = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
         "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 32,
         "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
WIDE = {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
IDS = {"input_ids": torch.arange(3, 10)[None]}


def close(given, expected, within=1e-5):
    torch.testing.assert_close(given, torch.tensor(expected).double()[None], atol=within, rtol=0)


def made(family, **settings):
    """A tiny model in float64 with weights that are not nearly zero."""
    config = getattr(transformers, f"{family}Config")(**{**SMALL, **settings})
    torch.manual_seed(0)
    name = (
        f"{family}ForCausalLM"
        if hasattr(transformers, f"{family}ForCausalLM")
        else f"{family}LMHeadModel"
    )
    hf = getattr(transformers, name)(config).double().eval()
    for weight in hf.parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=0.4)
    return interp.wrap(hf)


def asked(model, rule="cp"):
    """Token relevances for the likeliest next token, and its logit."""
    with propagating(model, rule) as propagation:
        target = model.logits(IDS)[0, -1].max()
    return propagation.relevance(target)[0], target.detach()


# Rollout, flow, Chefer


def test_rollout_of_two_uniform_layers():
    expected = [[1, 0, 0], [0.4375, 0.5625, 0], [0.31944, 0.23611, 0.44444]]
    close(rollout([UNIFORM, UNIFORM]), expected)
    close(rollout([UNIFORM[:, None].expand(1, 4, 3, 3)] * 2), expected)


def test_flow_of_two_uniform_layers():
    raw = flow([UNIFORM, UNIFORM])
    close(raw, [[1, 0, 0], [1 / 2, 3 / 4, 0], [1 / 2, 1 / 3, 2 / 3]], 1e-6)
    close(normalised(raw), [[1, 0, 0], [2 / 5, 3 / 5, 0], [1 / 3, 2 / 9, 4 / 9]], 1e-6)
    assert torch.equal(flow([UNIFORM, UNIFORM], tops=[-1]), raw[:, 2:])


def test_flow_is_the_exact_one():
    """Against linear programming, on random patterns of two heads and two examples."""
    from scipy.optimize import linprog

    torch.manual_seed(1)
    patterns = [torch.rand(2, 2, 4, 4).double().softmax(-1) for _ in range(3)]
    found = flow(patterns)
    for example, top, place in ((0, 3, 1), (1, 0, 2), (1, 2, 2)):
        mixings = [(pattern[example].mean(0) + torch.eye(4)) / 2 for pattern in patterns]
        rows = [(layer, high, low) for layer in range(3) for high in range(4) for low in range(4)]
        edges = [
            ((layer + 1, high), (layer, low), float(mixings[layer][high, low]))
            for layer, high, low in rows
        ]
        inner = [(layer, node) for layer in (1, 2) for node in range(4)]
        kept = [[(node == below) - (node == above) for above, below, _ in edges] for node in inner]
        # Of the inputs only the wanted one may receive, of the top layer only one may send.
        bounds = [(0, room if above in [(3, top), *inner] and below in [(0, place), *inner] else 0)
                  for above, below, room in edges]  # fmt: skip
        sent = [-float(above == (3, top)) for above, _, _ in edges]
        best = linprog(sent, A_eq=kept, b_eq=[0] * len(inner), bounds=bounds)
        assert abs(-best.fun - float(found[example, top, place])) < 1e-6


def test_heads_are_fused_and_low_entries_dropped():
    heads = torch.stack([torch.eye(3), torch.ones(3, 3) / 3])[None].double()
    close(rollout([heads], heads="max")[:, 0], [0.75, 0.125, 0.125])
    assert torch.equal(rollout([heads], heads="min")[0], torch.eye(3).double())
    # Two thirds of nine entries are six: only the diagonal of the mean stays.
    assert torch.equal(rollout([heads], discard=0.67)[0], torch.eye(3).double())
    with pytest.raises(ValueError, match="Did you mean 'mean'"):
        rollout([heads], heads="means")
    with pytest.raises(ValueError, match="from 0 to less than 1"):
        rollout([heads], discard=1.0)


def test_chefer_after_one_layer_and_two():
    close(chefer([UNIFORM], [GRADIENT]), [[2, 0, 0], [0, 2, 0], [1 / 6, 0, 4 / 3]])
    two = [[4, 0, 0], [0, 4, 0], [0.55556, 0, 1.77778]]
    close(chefer([UNIFORM] * 2, [GRADIENT] * 2), two)
    close(chefer([UNIFORM[:, None]] * 2, [GRADIENT[:, None]] * 2), two)


def test_chefer_across_by_hand():
    encoder, decoder = torch.ones(1, 1, 2, 2) / 2, torch.ones(1, 1, 1, 1)
    looks = torch.tensor([0.25, 0.75]).view(1, 1, 1, 2)
    own, across = chefer_cross(
        ([encoder], [torch.ones_like(encoder)]),
        ([decoder], [torch.ones_like(decoder)]),
        ([looks], [2 * torch.ones_like(looks)]),
    )
    # Encoder: 1 + 1/2, beyond the identity 1/2 everywhere, by rows 1/2; decoder: 2, beyond 1, by rows 1.
    assert own.tolist() == [[[2.0]]]
    expected = 2 * (torch.tensor([[0.5, 1.5]]) @ torch.tensor([[1.5, 0.5], [0.5, 1.5]]))
    torch.testing.assert_close(across[0], expected)
    with pytest.raises(ValueError, match="1 decoder patterns and 2 cross"):
        chefer_cross(([encoder], [encoder]), ([decoder], [decoder]), ([looks] * 2, [looks] * 2))


def test_attention_gradient_in_both_forms():
    close(attention_gradient(UNIFORM, GRADIENT)[:, 1], [0.0, 1.0, 0.0])
    close(attention_gradient(UNIFORM, GRADIENT, "absolute")[:, 1], [0.5, 1.0, 0.0])
    with pytest.raises(ValueError, match="no form 'negative'"):
        attention_gradient(UNIFORM, GRADIENT, "negative")
    with pytest.raises(ValueError, match="differ in shape"):
        attention_gradient(UNIFORM, GRADIENT[..., :2])


def test_what_is_no_list_of_patterns_is_refused():
    with pytest.raises(ValueError, match="there are no patterns"):
        rollout([])
    with pytest.raises(ValueError, match="the same positions"):
        rollout([UNIFORM[:, :2]])
    with pytest.raises(ValueError, match="differ in batch or positions"):
        rollout([UNIFORM, UNIFORM[:, :2, :2]])
    with pytest.raises(ValueError, match="2 patterns and 1 gradients"):
        chefer([UNIFORM] * 2, [GRADIENT])
    with pytest.raises(ValueError, match=r"there are 65 positions.*limit=65"):
        flow([torch.eye(65)[None]])
    assert flow([torch.eye(65)[None]], tops=[0], limit=65)[0, 0, 0] == 1


# Rankings and curves


def test_rankings_and_what_they_leave():
    chance = torch.Generator().manual_seed(0)
    values = torch.tensor([9.0, 1.0, 3.0, 2.0, 9.0])
    order = relevance.ranking(values, torch.tensor([1, 2, 3]), chance)
    assert order.tolist() == [2, 3, 1]
    kept = relevance.without_top(order, [0, 0.01, 0.67, 1], 5)
    assert kept.int().tolist() == [[1] * 5, [1, 1, 0, 1, 1], [1, 1, 0, 0, 1], [1, 0, 0, 0, 1]]
    kept = relevance.with_top(order, [0, 0.01, 0.67, 1], 5)
    assert kept.int().tolist() == [[1, 0, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 1, 1, 1], [1] * 5]
    same = {
        tuple(relevance.ranking(torch.zeros(5), torch.arange(5), chance).tolist())
        for _ in range(20)
    }
    assert len(same) > 10  # ties are drawn, not left in the order of positions


def test_areas():
    falling = torch.tensor([1.0, 0.5, 0.0])
    assert float(relevance.area([0, 0.5, 1], falling)) == 0.5
    assert float(relevance.area([0, 0.25, 1], falling)) == pytest.approx(0.375)
    assert float(relevance.aopc(torch.tensor(0.9), torch.tensor([0.5, 0.1]))) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="from 0 to 1"):
        relevance.area([0, 0.5], falling[:2])


# Propagation


@pytest.mark.parametrize(
    "family, settings",
    [
        ("Arcee", {}),  # relu squared, no gate
        ("Llama", {}),
        ("Llama", {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2}),
        ("Qwen3", WIDE),  # norms of queries and keys
        ("Gemma2", WIDE),  # norms behind the parts, two soft caps
        ("Phi3", {"num_hidden_layers": 2}),  # gate and up in one projection
        ("Cohere", {}),  # layer norms
        ("GPT2", {"n_embd": 16, "n_head": 2, "n_layer": 2}),  # biases, which start at 0
    ],
)
def test_without_biases_cp_relevance_sums_to_the_logit(family, settings):
    model = made(family, **settings)
    before = model.hf(**IDS).logits
    found, target = asked(model)
    assert abs(float(found.sum() - target)) < 1e-9
    assert float(found.abs().max()) > 0.01
    through, _ = asked(model, "attn")
    assert not torch.allclose(through, found, atol=1e-3)
    assert torch.equal(model.hf(**IDS).logits, before)  # nothing is left behind


def written_out(hf, stream, rule):
    """The logits of a Llama of one layer and one head, with the rules written into it by hand."""

    def norm(module, value):
        scale = torch.rsqrt(value.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
        return module.weight * value * scale.detach()

    def part(value, share):
        return value * share + (value * (1 - share)).detach()

    def turned(value):
        left, right = value.chunk(2, -1)
        return value * cos + torch.cat([-right, left], -1) * sin

    layer, length = hf.model.layers[0], stream.shape[1]
    cos, sin = hf.model.rotary_emb(stream, torch.arange(length)[None])
    cos, sin = cos.double(), sin.double()
    inside = norm(layer.input_layernorm, stream)
    attention = layer.self_attn
    query, key = turned(attention.q_proj(inside)), turned(attention.k_proj(inside))
    value = attention.v_proj(inside)
    if rule == "attn":
        query, key, value = part(query, 0.25), part(key, 0.25), part(value, 0.5)
    scores = query @ key.transpose(1, 2) * attention.scaling
    hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
    pattern = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    pattern = pattern.detach() if rule == "cp" else pattern
    stream = stream + attention.o_proj(pattern @ value)
    inside = norm(layer.post_attention_layernorm, stream)
    gate, up = layer.mlp.gate_proj(inside), layer.mlp.up_proj(inside)
    active = gate * (functional.silu(gate) / gate).detach()
    stream = stream + layer.mlp.down_proj(part(active, 0.5) * part(up, 0.5))
    return hf.lm_head(norm(hf.model.norm, stream))


@pytest.mark.parametrize("rule", ["cp", "attn"])
def test_propagation_is_the_block_written_out(rule):
    model = made("Llama")
    found, target = asked(model, rule)
    stream = model.hf.get_input_embeddings()(IDS["input_ids"]).detach().requires_grad_()
    expected = written_out(model.hf, stream, rule)[0, -1].max()
    assert abs(float(expected.detach() - target)) < 1e-9
    (gradient,) = torch.autograd.grad(expected, stream)
    torch.testing.assert_close(found, (gradient * stream).sum(-1)[0].detach(), atol=1e-9, rtol=0)


def test_the_softmax_keeps_some_relevance():
    found, target = asked(made("Llama"), "attn")
    assert 0.05 < abs(float(found.sum() - target)) < abs(float(target))


def test_with_biases_relevance_does_not_sum_to_the_logit():
    model = made("GPT2", n_embd=16, n_head=2, n_layer=1)
    for name, weight in model.hf.named_parameters():
        if name.endswith("c_fc.bias"):
            torch.nn.init.constant_(weight, 0.5)
    found, target = asked(model)
    assert abs(float(found.sum() - target)) > 1e-3


def test_other_threads_are_left_alone():
    model, seen = made("Llama"), {}
    before = model.hf(**IDS).logits

    def elsewhere():
        stream = model.hf.get_input_embeddings()(IDS["input_ids"]).detach().requires_grad_()
        logits = model.hf(inputs_embeds=stream).logits
        seen["logits"] = logits.detach()
        (seen["gradient"],) = torch.autograd.grad(logits[0, -1, 7], stream)

    elsewhere()
    alone = dict(seen)
    with propagating(model) as propagation:
        worker = threading.Thread(target=elsewhere)
        worker.start()
        worker.join()
        target = model.logits(IDS)[0, -1, 7]
    assert torch.equal(seen["logits"], alone["logits"]) and torch.equal(alone["logits"], before)
    assert torch.equal(seen["gradient"], alone["gradient"])
    assert abs(float(propagation.relevance(target).sum() - target.detach())) < 1e-9


def test_an_error_inside_leaves_the_model_as_it_was():
    model = made("Arcee")
    before = model.hf(**IDS).logits
    with pytest.raises(KeyError), propagating(model):
        raise KeyError("mine")
    assert torch.equal(model.hf(**IDS).logits, before)
    assert all("forward" not in module.__dict__ for module in model.hf.modules())


def test_what_has_no_rule_is_refused():
    settings = {"num_local_experts": 2, "experts_implementation": "eager"}
    model = made("Mixtral", **settings)
    with pytest.raises(
        ValueError, match="answer goes through .* for which rule 'cp' has no way back"
    ):
        asked(model)
    # A gate that is not 0 at 0, in the place of one that is.
    model = made("Llama", hidden_act="sigmoid")
    with pytest.raises(ValueError, match="goes through Sigmoid of 1 inputs"):
        asked(model)
    model = made("Llama")
    with propagating(model) as propagation:
        logits = model.logits(IDS)
    with pytest.raises(ValueError, match="goes through Softmax"):
        propagation.relevance(logits[0, -1].softmax(-1)[3])
    with pytest.raises(ValueError, match="goes through Mul of 2 inputs"):
        propagation.relevance(logits[0, -1, 3] * logits[0, -1, 4])


def test_propagation_says_what_it_needs():
    model = made("Llama")
    with pytest.raises(ValueError, match="no rule 'gamma'"), propagating(model, "gamma"):
        pass
    with propagating(model) as propagation:
        pass
    with pytest.raises(ValueError, match="no model ran in this block"):
        propagation.relevance(torch.ones(()))
    outside = model.logits(IDS)[0, -1, 3]
    with propagating(model) as propagation:
        logits = model.logits(IDS)
    with pytest.raises(ValueError, match="does not come from the last forward"):
        propagation.relevance(outside)
    with pytest.raises(ValueError, match=r"of one number, not of \(50,\)"):
        propagation.relevance(logits[0, -1])
    model.hf.train()
    with pytest.raises(ValueError, match="training mode"), propagating(model):
        pass
