"""Estimates against what they must equal: worked numbers, exact patching where all is linear, integrals."""

import pytest
import torch

import interp
from interp import Hook
from interp.attribution import (
    along,
    atp,
    atp_star,
    clean_corrupted,
    eap,
    eap_ig_activations,
    eap_ig_inputs,
    fractions,
    key_coefficient,
)
from interp.families import FAMILIES

EDGES = (eap, clean_corrupted, eap_ig_inputs, eap_ig_activations)
WAYS = ("clean", "ends", "inputs", "activations")


def pair(name, batch=2, length=7, double=True):
    """A family's tiny model and two prompts that differ in every token but the first and the last."""
    family = FAMILIES[name]
    hf = family.model()
    hf = hf.double() if double else hf
    model = interp.wrap(hf)
    inputs = [family.inputs(hf, batch=batch, length=length, seed=seed) for seed in (0, 1)]
    inputs[1]["input_ids"][:, [0, -1]] = inputs[0]["input_ids"][:, [0, -1]]
    return model, *(interp.Prompt.from_inputs(model, one) for one in inputs)


def metric(logits):
    """A logit difference, in the precision of the logits."""
    return logits[:, -1, 20] - logits[:, -1, 22]


def changed(model, clean, trace, site, layer, heads=None, read=metric):
    """The exact effect: the metric with a node's corrupted value, less that without."""

    def put(value, at):
        other = trace[site, layer]
        return other if heads is None else other[:, :, heads]

    hook = Hook(site, put, layers=[layer], heads=heads)
    with torch.no_grad():
        return read(model.logits(clean, hooks=hook)) - read(model.logits(clean))


def close(one, other, within=1e-9):
    return float((one - other).abs().max()) <= within * max(1.0, float(other.abs().max()))


# Where everything behind the patched value is linear


@pytest.fixture(scope="module", params=["gpt2", "gpt_neox"])
def linear(request):
    """The last layer writes into a stream that is read off without a norm."""
    model, clean, corrupted = pair(request.param)
    for name in ("transformer.ln_f", "gpt_neox.final_layer_norm"):
        owner, _, last = name.rpartition(".")
        if hasattr(model.hf, owner):
            setattr(model.hf.get_submodule(owner), last, torch.nn.Identity())
    with torch.no_grad():
        trace = model.trace(corrupted, "z", "mlp_out")
    return model, clean, corrupted, trace


def test_on_a_linear_read_out_all_nodes_are_exact(linear):
    model, clean, corrupted, trace = linear
    exact = changed(model, clean, trace, "mlp_out", 3)
    assert exact.abs().max() > 0.01
    found = [along(model, clean, corrupted, metric, way=way, steps=steps, rule=rule)
             for way in WAYS for steps, rule in ((1, "left"), (2, "midpoint"))]  # fmt: skip
    found += [atp(model, clean, corrupted, metric), atp_star(model, clean, corrupted, metric)]
    for nodes in found:
        assert close(nodes.whole["mlp_out"][:, 3], exact), nodes.method
    if eap(model, clean, corrupted, metric).exists.sum() == 463:  # in parallel, heads meet no MLP
        heads = [changed(model, clean, trace, "z", 3, heads=[head]) for head in range(4)]
        for nodes in found:
            assert close(nodes.whole["z"][:, 3], torch.stack(heads, 1)), nodes.method


@pytest.mark.parametrize("steps, rule", [(1, "left"), (2, "right")])
def test_on_a_linear_read_out_all_edges_are_exact(linear, steps, rule):
    model, clean, corrupted, trace = linear
    exact = changed(model, clean, trace, "mlp_out", 3)
    for way in EDGES:
        given = {} if way in (eap, clean_corrupted) else {"steps": steps, "rule": rule}
        edges = way(model, clean, corrupted, metric, **given)
        names = [node.name for node in edges.sources], [node.name for node in edges.destinations]
        last = edges.scores[:, names[0].index("mlp 3"), names[1].index("logits")]
        assert close(-last, exact), edges.method  # scores are of the loss


def test_a_square_is_integrated_as_worked_by_hand(linear):
    """L = x^2, clean a, corrupted b: (b - a) times the mean of 2x over the points."""
    model, clean, corrupted, trace = linear

    def squared(logits):
        return metric(logits) ** 2

    with torch.no_grad():
        a = metric(model.logits(clean))
    b = a + changed(model, clean, trace, "mlp_out", 3)
    for steps, rule in ((2, "left"), (1, "right"), (2, "midpoint")):
        points = [b + f * (a - b) for f in fractions(steps, rule)]
        expected = (b - a) * 2 * torch.stack(points).mean(0)
        edges = eap_ig_activations(model, clean, corrupted, squared, steps=steps, rule=rule)
        score = -edges.scores[:, [node.name for node in edges.sources].index("mlp 3"), -1]
        assert close(score, expected)
        nodes = along(model, clean, corrupted, squared, way="activations", steps=steps, rule=rule)
        assert close(nodes.whole["mlp_out"][:, 3], expected)
    assert close(
        score * 0 + (b - a) * (b + a), changed(model, clean, trace, "mlp_out", 3, read=squared)
    )
    assert close(atp(model, clean, corrupted, squared).whole["mlp_out"][:, 3], (b - a) * 2 * a)


def test_the_worked_square():
    """L(e) = e^2 from 1 to 3: the exact change is 8."""

    def integrated(points):
        return (3.0 - 1.0) * sum(2 * (3.0 + f * (1.0 - 3.0)) for f in points) / len(points)

    assert integrated([1.0]) == 4  # EAP: the clean gradient
    assert integrated(fractions(5, "left")) == pytest.approx(8.8)
    assert integrated(fractions(5, "right")) == pytest.approx(7.2)
    assert integrated(fractions(5, "midpoint")) == pytest.approx(8.0)
    with pytest.raises(LookupError, match="midpoint"):
        fractions(5, "trapezoid")
    with pytest.raises(ValueError, match="at least 1"):
        fractions(0, "left")


# Integrals


@pytest.mark.parametrize("name", ["gpt2", "llama", "phi"])
def test_edges_out_of_the_input_sum_to_the_change_of_the_loss(name):
    model, clean, corrupted = pair(name)
    with torch.no_grad():
        gap = metric(model.logits(clean)) - metric(model.logits(corrupted))

    def off(steps, rule):
        edges = eap_ig_inputs(model, clean, corrupted, metric, steps=steps, rule=rule)
        return float((edges.scores[:, 0].sum(-1) - gap).abs().max() / gap.abs().max())

    one_sided = off(4, "left")
    assert off(32, "midpoint") < min(2e-3, one_sided / 10)
    assert off(32, "left") < one_sided / 3  # the error of a one-sided rule falls with 1 / steps


def test_edges_out_of_a_module_sum_to_what_corrupting_it_does():
    model, clean, corrupted = pair("llama")
    with torch.no_grad():
        trace = model.trace(corrupted, "z", "mlp_out")
    edges = eap_ig_activations(model, clean, corrupted, metric, steps=20, rule="midpoint")
    for kind, site in (("mlp", "mlp_out"), ("head", "z")):
        for layer in (0, 2):
            own = [
                n for n, one in enumerate(edges.sources) if (one.kind, one.layer) == (kind, layer)
            ]
            exact = changed(model, clean, trace, site, layer)
            assert close(-edges.scores[:, own].sum((1, 2)), exact, 5e-3)
            assert close(edges.nodes[:, own].sum(1), -exact, 5e-3)


# Softmax


def test_the_closed_form_of_a_raised_column():
    torch.manual_seed(0)
    scores, gradient = torch.randn(6, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    pattern = scores.softmax(0)
    moved = scores.clone()
    moved[2] += 0.7
    direct = ((moved.softmax(0) - pattern) * gradient).sum()
    raised = torch.tensor(0.7, dtype=torch.float64)
    closed = key_coefficient(pattern[2], raised) * (gradient[2] - (pattern * gradient).sum())
    assert float(direct) == pytest.approx(-0.0131625, abs=5e-8)
    assert abs(float(direct - closed)) < 1e-12


@pytest.mark.parametrize("raised", [-900.0, -3.0, 0.0, 3.0, 900.0])
def test_the_closed_form_survives_any_size(raised):
    scores = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64)
    for saturated in (scores, scores * 100):
        pattern, moved = saturated.softmax(0), saturated.clone()
        moved[1] += raised
        expected = (moved.softmax(0) - pattern)[1]
        found = key_coefficient(pattern[1], torch.tensor(raised, dtype=torch.float64))
        # The column's own share rises by p' - p = coefficient * (1 - p).
        assert float(found * (1 - pattern[1])) == pytest.approx(float(expected), abs=1e-12)


# Sinks, soft caps, windows and shared keys make patterns that are not softmaxes of products alone.
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gpt_oss", "mistral"])
def test_the_qk_fix_is_the_changed_pattern_times_its_gradient(name):
    model, clean, corrupted = pair(name, batch=1, double=name != "gpt_oss")
    layer, place = 2, 4
    within = {"gpt_oss": 1e-5, "gemma2": 1e-6}.get(name, 1e-9)  # their softmax is in float32
    nodes = atp_star(model, clean, corrupted, metric, sites=["q", "k"])
    trace = model.trace(clean, "pattern")
    (gradient,) = torch.autograd.grad(metric(trace.logits).sum(), trace["pattern", layer])
    before = trace["pattern", layer].detach()
    with torch.no_grad():
        other = model.trace(corrupted, "q", "k")
        for site in ("q", "k"):
            for head in range(nodes.effects[site].shape[-1]):

                def put(value, at, site=site):
                    value = value.clone()
                    value[:, place] = other[site, layer][:, place][:, [head]]
                    return value

                hook = Hook(site, put, layers=[layer], heads=[head])
                moved = model.trace(clean, "pattern", layers=[layer], hooks=hook)["pattern", layer]
                expected = ((moved - before) * gradient).sum()
                found = nodes.effects[site][0, layer, place, head]
                assert float(found) == pytest.approx(float(expected), abs=within)
                assert expected.abs() > 1e-7
            every = Hook(site, lambda value, at, site=site: other[site, layer], layers=[layer])
            moved = model.trace(clean, "pattern", layers=[layer], hooks=every)["pattern", layer]
            expected = ((moved - before) * gradient).sum()
            assert float(nodes.whole[site][0, layer].sum()) == pytest.approx(
                float(expected), abs=within
            )


# gemma2 has norms behind its parts, phi runs them side by side.
@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi"])
def test_a_dropped_layer_is_one_whose_contributions_are_detached(name):
    model, clean, corrupted = pair(name)
    sites = ("z", "mlp_out", "resid_pre", "v")
    nodes = atp_star(model, clean, corrupted, metric, sites=sites)
    with torch.no_grad():
        other = model.trace(corrupted, *sites)
    layers = range(4)
    total = dict.fromkeys(sites, 0.0)
    for dropped in layers:
        shut = [Hook(site, lambda value, at: value.detach(), layers=[dropped])
                for site in ("attn_out", "mlp_out")]  # fmt: skip
        trace = model.trace(clean, *sites, hooks=shut)
        open_ = [key for key in trace if trace[key].requires_grad]
        values = [trace[key] for key in open_]
        found = torch.autograd.grad(metric(trace.logits).sum(), values, allow_unused=True)
        found = dict(zip(open_, found, strict=True))
        for site in sites:
            parts = []
            for layer in layers:
                grad, change = found.get((site, layer)), other[site, layer] - trace[site, layer]
                parts.append((change * (0 if grad is None else grad)).sum(-1))
            total[site] = total[site] + torch.stack(parts, 1).detach().abs() / 3
    for site in sites:
        assert close(nodes.magnitudes[site], total[site], 1e-9), site
        assert not close(nodes.magnitudes[site], nodes.effects[site].abs(), 1e-2)
