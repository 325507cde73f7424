"""Scores of edges against finite differences that know nothing of how they are found."""

import pytest
import torch

import interp
from interp import Hook
from interp.attribution import NoEdges, atp, eap, eap_ig_inputs
from interp.attribution.reads import Reader
from interp.families import FAMILIES

# Some norms round to float32, and experts take nothing else, so that steps cannot be tiny.
STEP, COARSE, WITHIN = 1e-3, 2e-3, 2e-3
EXPERTS = ("deepseek_v3", "qwen2_moe")
# Fused, grouped and latent projections, norms of queries, biases, multipliers, parts side by side, experts.
SERVED = ("gpt2", "llama", "qwen3", "opt", "phi", "gpt_neox", "cohere", "phi3", "granite", "deepseek_v3",
          "starcoder2", "qwen2_moe", "gemma", "vit")  # fmt: skip
PARALLEL = ("phi", "gpt_neox", "cohere")
MULTIPLIER = {"granite": 0.5}


def pair(name):
    family = FAMILIES[name]
    hf = family.model() if name in EXPERTS else family.model().double()
    model = interp.wrap(hf)
    clean, other = (family.inputs(hf, batch=2, length=6, seed=seed) for seed in (0, 1))
    clean, other = (
        {
            key: value.to(hf.dtype) if value.is_floating_point() else value
            for key, value in one.items()
        }
        for one in (clean, other)
    )
    return model, *(interp.Prompt.from_inputs(model, one) for one in (clean, other))


def metric(logits):
    last = logits if logits.ndim == 2 else logits[:, -1]
    return last[:, 0] - last[:, 1]


def written(model, clean, corrupted, times):
    """What sources write into the stream, corrupted less clean, by name."""
    with torch.no_grad():
        one, other = (model.trace(p, "resid_pre", "z", "mlp_out") for p in (clean, corrupted))
        layer = next(iter(model.stacks.values())).layers[1]
        z = torch.zeros_like(one["z", 1])
        silent = layer.out(z.flatten(2))
        z[:, :, 2] = other["z", 1][:, :, 2] - one["z", 1][:, :, 2]
        head = layer.out(z.flatten(2)) - silent
    return {
        "embed": other["resid_pre", 0] - one["resid_pre", 0],
        "1.2": times * head,
        "mlp 0": times * (other["mlp_out", 0] - one["mlp_out", 0]),
    }


@torch.no_grad()
def effect(model, clean, delta, node, layer, before, times):
    """The rise of the loss, per step, when only one input is moved along `delta`: central difference."""
    step = STEP if delta.dtype == torch.float64 else COARSE
    ends = [_loss(model, clean, way * step * delta, node, layer, before, times) for way in (1, -1)]
    return (ends[0] - ends[1]) / (2 * step)


def _loss(model, clean, moved, node, layer, before, times):
    if node.kind == "logits":
        hook = Hook("resid_post", lambda value, at: value + moved, layers=[layer])
        return -metric(model.logits(clean, hooks=hook))
    site = "mlp_out" if node.kind == "mlp" else node.kind
    entering, scale = (
        ("attn_out", 1 / times) if node.kind == "mlp" and not before else ("resid_pre", 1)
    )
    move = Hook(entering, lambda value, at: value + scale * moved, layers=[layer])
    value = model.trace(clean, site, layers=[layer], hooks=move)[site, layer]
    heads = None if node.kind == "mlp" else [node.head]
    part = value if heads is None else value[:, :, heads]
    hook = Hook(site, lambda value, at: part, layers=[layer], heads=heads)
    return -metric(model.logits(clean, hooks=hook))


@pytest.mark.parametrize("name", SERVED)
def test_an_edge_is_what_moving_one_input_does(name):
    model, clean, corrupted = pair(name)
    times, before = MULTIPLIER.get(name, 1.0), name in PARALLEL
    edges = eap(model, clean, corrupted, metric)
    sources = [node.name for node in edges.sources]
    layers = len(next(iter(model.stacks.values())).layers)
    deltas = written(model, clean, corrupted, times)
    compared = 0
    for place, node in enumerate(edges.destinations):
        layer = layers - 1 if node.kind == "logits" else node.layer
        # All of one layer's inputs, of one source; of other sources some.
        names = ["1.2"] if layer == 2 else [] if node.head not in (None, 1) else list(deltas)
        for source in names:
            found = edges.scores[:, sources.index(source), place]
            if not edges.exists[sources.index(source), place]:
                assert layer <= 1 and not found.any()
                continue
            expected = effect(model, clean, deltas[source], node, layer, before, times)
            scale = edges.scores[:, sources.index(source)].abs().max()
            assert (found - expected).abs().max() < WITHIN * scale, (source, node.name)
            compared += 1
    assert compared > 20
    assert bool(edges.notes) == (name == "deepseek_v3")
    check_sums(edges, atp(model, clean, corrupted, metric, sites=("z", "mlp_out", "resid_pre")))


def check_sums(edges, nodes):
    """Edges that leave a source sum to its node, which is attribution patching's, of the loss."""
    assert (edges.scores.sum(2) - edges.nodes).abs().max() < 1e-5 * edges.nodes.abs().max()
    kinds = [node.kind for node in edges.sources]
    for kind, site in (("head", "z"), ("mlp", "mlp_out"), ("embed", "resid_pre")):
        own = edges.nodes[:, [one == kind for one in kinds]]
        other = nodes.whole[site][:, :1] if kind == "embed" else nodes.whole[site].flatten(1)
        assert (own + other).abs().max() < 1e-5 * other.abs().max()


def test_by_heads_and_by_slices_are_one(monkeypatch):
    model, clean, corrupted = pair("llama")
    fast = eap_ig_inputs(model, clean, corrupted, metric, steps=2)
    plain = Reader.__init__

    def without(self, *given, **named):
        plain(self, *given, **named)
        self.slices = None

    monkeypatch.setattr(Reader, "__init__", without)
    slow = eap_ig_inputs(model, clean, corrupted, metric, steps=2)
    assert "slower" in slow.notes[0] and not fast.notes
    assert (fast.scores - slow.scores).abs().max() < 1e-12


def test_same_layer_heads_feed_an_mlp_that_comes_after_them():
    for name, after in (("gpt2", True), ("phi", False), ("gpt_neox", False), ("cohere", False)):
        model, clean, corrupted = pair(name)
        edges = eap(model, clean, corrupted, metric)
        names = [node.name for node in edges.sources], [node.name for node in edges.destinations]
        exists = {
            (source, target): bool(edges.exists[names[0].index(source), names[1].index(target)])
            for source in ("1.0", "2.0", "mlp 2")
            for target in ("mlp 2", "mlp 3", "logits")
        }
        assert exists["2.0", "mlp 2"] == after
        assert exists["1.0", "mlp 2"] and exists["2.0", "mlp 3"] and exists["mlp 2", "mlp 3"]
        assert not exists["mlp 2", "mlp 2"] and exists["mlp 2", "logits"]


def test_keys_and_values_are_inputs_of_kv_heads():
    model, clean, corrupted = pair("llama")  # 4 heads, 2 KV heads
    edges = eap(model, clean, corrupted, metric)
    names = [node.name for node in edges.destinations if node.layer == 1]
    assert names == [
        "1.0.q",
        "1.1.q",
        "1.2.q",
        "1.3.q",
        "1.g0.k",
        "1.g1.k",
        "1.g0.v",
        "1.g1.v",
        "mlp 1",
    ]
    named = edges.by_name()
    assert named["0.1->1.0.k"] == named["0.1->1.1.k"] != named["0.1->1.2.k"]
    # 12 inputs of heads and one of an MLP in each layer, behind 1 + 5 x sources; then the logits.
    assert len(named) == sum(12 * (1 + 5 * layer) + 5 + 5 * layer for layer in range(4)) + 21


# Norms behind the parts, norms on the sum, a third part, visual features laid in between.
@pytest.mark.parametrize("name", ["gemma2", "olmo2", "bert", "t5", "qwen3_vl", "mllama"])
def test_streams_that_parts_do_not_add_up_to_are_refused(name):
    family = FAMILIES[name]
    hf = family.model()
    model = interp.wrap(hf)
    clean = interp.Prompt.from_inputs(model, family.inputs(hf, batch=2))
    with pytest.raises(NoEdges, match="in layer [01] of the (text|encoder|decoder) stack"):
        eap(model, clean, clean, metric)
    assert atp(model, clean, clean, metric).whole["mlp_out"].abs().max() == 0
