"""IRI against loops over numbers written from its equation, on models, and on what it is to mend."""

import math

import pandas
import pytest
import torch

import interp
from interp import Hook
from interp.interventions import IRI, Found
from interp.interventions.iri import SITES, rates
from interp.making import weights_digest
from interp.responses import respond
from interp.result import Result
from interp.scoring import score
from tests.tiny_vlm import opened

GREEDY = {"max_new_tokens": 6, "do_sample": False}
RATES = {"attn_out": {0: 0.1, 1: 0.9, 2: 0.5, 3: 0.3}, "mlp_out": {0: 0.2, 1: 0.4, 2: -0.3, 3: 0.7}}


@pytest.fixture(scope="module")
def llava():
    return opened(batch=2)


@pytest.fixture(scope="module")
def broken():
    return interp.load("demo-vlm", fault="late-layers-blind")


# The equation, in loops: o_l + strength * sum over sources k < l of rate_k o_k, at the size of o_l.


def injected(own, below, strength, normalise):
    """One vector, and (rate, vector) of the sources below it."""
    added = [sum(rate * vector[i] for rate, vector in below) for i in range(len(own))]
    moved = [a + strength * b for a, b in zip(own, added, strict=True)]
    if not normalise:
        return moved
    size = math.sqrt(sum(a * a for a in own)) / math.sqrt(sum(a * a for a in moved))
    return [a * size for a in moved]


def slowly(model, prompt, method, sources, targets, rated, places):
    """Logits with the equation at these places of each row, one forward for each target."""
    decided = {}  # (site, layer) -> values

    def put(value, at):
        return decided.get((at.site, at.layer))

    hooks = [Hook(site, put) for site in SITES]
    strengths = dict(zip(SITES, (method.attn_strength, method.mlp_strength), strict=True))
    originals = {}
    for layer in range(model.stacks["text"].size):
        for site in SITES:  # attention speaks before the MLP of its layer
            with torch.no_grad():
                trace = model.trace(prompt, site, layers=[layer], hooks=hooks)
            originals[site, layer] = trace[site, layer].tolist()
            if layer not in targets[site] or not strengths[site]:
                continue
            value = trace[site, layer].tolist()
            for row, own in enumerate(places):
                for place in own:
                    below = [
                        (rated[site].get(k, 1.0), originals[site, k][row][place])
                        for k in sources[site]
                        if k < layer
                    ]
                    if below:
                        value[row][place] = injected(
                            value[row][place], below, strengths[site], method.normalise
                        )
            decided[site, layer] = torch.tensor(value)
    with torch.no_grad():
        return model.logits(prompt, hooks=hooks)


def same(layers):
    return dict.fromkeys(SITES, layers)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("attn", "mlp"), [(0.26, 0.16), (2.0, 0.0), (0.0, 1.5)])
def test_without_rates(llava, attn, mlp, normalise):
    model, prompt = llava
    method = IRI(
        attn_strength=attn, mlp_strength=mlp, sources=[0, 2], targets=[1, 2, 3], normalise=normalise
    )
    last = [[prompt.length - 1]] * 2
    expected = slowly(model, prompt, method, same([0, 2]), same([1, 2, 3]), same({}), last)
    with torch.no_grad():
        assert (model.logits(prompt, using=method) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["llava", "qwen2_vl", "internvl", "gemma3"])
@pytest.mark.parametrize(("sources", "targets"), [(1, 2), (2, 3), (3, 10), (4, 4)])
def test_the_layers_of_the_largest_rates(name, sources, targets):
    model, prompt = opened(name)
    method = IRI(rates=RATES, attn_strength=1.3, mlp_strength=0.8, sources=sources, targets=targets)
    order = {site: sorted(own, key=lambda k: -own[k]) for site, own in RATES.items()}
    expected = slowly(
        model,
        prompt,
        method,
        {site: own[:sources] for site, own in order.items()},
        {site: own[:targets] for site, own in order.items()},
        RATES,
        [[prompt.length - 1]],
    )
    if (sources, targets) == (1, 2):  # of the MLP the first is also the last layer
        with pytest.raises(ValueError, match="no target above a source at mlp_out"):
            model.logits(prompt, using=method)
        return
    with torch.no_grad():
        assert (model.logits(prompt, using=method) - expected).abs().max() < 1e-5


def test_a_vector_worked_by_hand(llava):
    """3, 4 and half of 4, -3 is 5, 2.5: size 5.59, brought back to 5."""
    assert injected([3, 4], [(1.0, [4, -3])], 0.5, True) == pytest.approx(
        [4.47214, 2.23607], abs=1e-5
    )
    model, prompt = llava
    seen = {}

    def make(value, at):
        made = torch.zeros_like(value)
        made[..., :2] = torch.tensor([4.0, -3.0] if at.layer == 1 else [3.0, 4.0])
        return made

    def look(value, at):
        seen[at.layer] = value[0, :, :2]

    method = IRI(attn_strength=0.5, mlp_strength=0.0, sources=[1], targets=[2])
    with (
        torch.no_grad(),
        model.using(Hook("attn_out", make, [1, 2]), method, Hook("attn_out", look)),
    ):
        model.logits(prompt)
    hooks = [Hook("attn_out", look, [2])]
    with torch.no_grad():
        model.trace(prompt, "attn_out", using=[Hook("attn_out", make, [1, 2]), method], hooks=hooks)
    assert seen[2][-1].tolist() == pytest.approx([4.47214, 2.23607], abs=1e-5)
    assert (seen[2][:-1] == torch.tensor([3.0, 4.0])).all()  # earlier rows are left


def test_depths_without_rates():
    """14 to 16 and 15 to 24 of 32; at the same depth of others; one above the other in shallow ones."""
    from interp.interventions.iri import FROM, TO

    assert (FROM, TO) == (14, 15)

    class Stack:
        name, refused = "text", {}

        def __init__(self, size):
            self.size = size
            one = type("Layer", (), {"attention": 1, "out": 1, "mlp": 1, "module": 1})
            self.layers = dict.fromkeys(range(size), one)

    def layers(size, **more):
        return IRI(**more)._layers(Stack(size), "attn_out", {})

    assert layers(32) == ([14, 15, 16], list(range(15, 25)))
    assert layers(64) == (list(range(28, 34)), list(range(30, 50)))
    assert layers(32, sources=1, targets=2) == ([14], [15, 16])
    assert layers(12) == ([5], [6, 7, 8])
    assert layers(4) == ([2], [3])
    assert layers(2) == ([0], [1])
    assert layers(4, targets=[1, 3]) == ([2], [3])
    with pytest.raises(ValueError, match="no target above a source"):
        layers(1)
    with pytest.raises(ValueError, match="no target above a source"):
        layers(32, sources=[20], targets=[3])


# In generate.


@pytest.mark.parametrize("name", ["llava", "qwen2_vl"])
def test_each_new_token_carries_its_own(name):
    model, prompt = opened(name, batch=2)
    method = IRI(rates=RATES, attn_strength=2.0, mlp_strength=1.0)
    cached = model.generate(prompt, using=method, **GREEDY)
    assert torch.equal(model.generate(prompt, using=method, **GREEDY, use_cache=False), cached)
    assert not torch.equal(model.generate(prompt, **GREEDY), cached)
    whole = respond(model, prompt, cached[:, prompt.length :])
    rows = [list(range(prompt.length - 1, whole.length))] * 2
    order = {site: sorted(own, key=lambda k: -own[k]) for site, own in RATES.items()}
    sources = {site: own[:3] for site, own in order.items()}
    expected = slowly(model, whole, method, sources, order, RATES, rows)
    with torch.no_grad():
        assert (model.logits(whole, using=method) - expected).abs().max() < 1e-5
    beams = model.generate(prompt, using=method, num_beams=3, **GREEDY)
    for row in range(2):
        inputs = {name: value[row : row + 1] for name, value in prompt.inputs.items()}
        if "image_grid_thw" in inputs:
            half = len(prompt.inputs["pixel_values"]) // 2
            inputs["pixel_values"] = prompt.inputs["pixel_values"][row * half : (row + 1) * half]
        alone = interp.Prompt.from_inputs(model, inputs)
        assert torch.equal(
            model.generate(alone, using=method, num_beams=3, **GREEDY)[0], beams[row]
        )


def test_rows_of_unequal_length_on_a_real_model(broken):
    task = interp.Task.load("existence", count=2, split="validation")
    more = interp.Task.load("count", count=2, split="validation")
    records = [*task, *more]
    prompt = broken.encode([one.prompt for one in records], images=[[one.image] for one in records])
    assert not prompt.mask.all()
    method = IRI(sources=[1], targets=[2, 3], attn_strength=3.0)
    last = [[max(p for p, real in enumerate(row) if real)] for row in prompt.mask.tolist()]
    expected = slowly(broken, prompt, method, same([1]), same([2, 3]), same({}), last)
    with torch.no_grad():
        logits = broken.logits(prompt, using=method)
        assert (logits - expected)[prompt.mask].abs().max() < 1e-4
        for row, one in enumerate(records):
            alone = broken.logits(broken.encode(one.prompt, images=one.image), using=method)[0]
            assert (alone - logits[row, -len(alone) :]).abs().max() < 1e-4


def test_answers_of_unequal_length(llava):
    """Rows of an answer that ended early are followed by padding, which is left."""
    model, prompt = llava
    whole = respond(model, prompt, torch.tensor([[20, 21, 22], [21, 22, 23]]))
    whole.mask[0, -2:] = False
    whole.inputs["attention_mask"] = whole.mask.long()
    method = IRI(attn_strength=3.0, mlp_strength=0.0, sources=[0], targets=[1])
    with torch.no_grad():
        before = model.trace(whole, "attn_out", layers=[1])["attn_out", 1]
        after = model.trace(whole, "attn_out", layers=[1], using=method)["attn_out", 1]
    seen = (before != after).any(-1)
    expected = torch.zeros_like(seen)
    expected[:, prompt.length - 1 :] = True
    assert torch.equal(seen[whole.mask], (expected & whole.mask)[whole.mask])


# Rates from the analysis.


def traced(model, **more):
    table = pandas.DataFrame(
        [
            {"group": group, "component": component, "layer": layer, "rate": rate}
            for group in ("object visual", "last token")
            for component in ("attn_out", "mlp_out", "resid_post")
            for layer, rate in enumerate([0.1, 0.2, 0.3, float("nan")])
        ]
    )
    table.loc[table["group"] != "last token", "rate"] = 9.0
    made = {"weights": weights_digest(model.hf), "model": model.name, "task": "existence"}
    return Result("fcct", table, made={**made, **more})


def test_rates_are_those_of_the_last_token(llava, tmp_path):
    model, prompt = llava
    found = rates(model, traced(model))
    each = {"0": 0.1, "1": 0.2, "2": 0.3}
    assert found.kind == "rates" and found.value == {"attn_out": each, "mlp_out": each}
    assert found.how["task"] == "existence"
    path = found.save(tmp_path / "rates.json")
    plain = {site: {int(k): v for k, v in own.items()} for site, own in found.value.items()}
    with torch.no_grad():
        logits = [
            model.logits(prompt, using=IRI(rates=one)) for one in (found, path, str(path), plain)
        ]
    assert all(torch.equal(one, logits[0]) for one in logits)


def test_rates_of_another_model_are_refused(llava):
    model, prompt = llava
    with pytest.raises(ValueError, match="make it again on this one"):
        rates(model, traced(model, weights="other"))
    other = Found("rates", {"attn_out": {"1": 1.0}}, "other", "digest")
    with pytest.raises(ValueError, match="found on other"):
        model.logits(prompt, using=IRI(rates=other))
    heads = Found.on(model, "heads", [[1, 2]])
    with pytest.raises(ValueError, match="IRI wants rates, and this holds heads"):
        model.logits(prompt, using=IRI(rates=heads))
    with pytest.raises(TypeError, match="fcct"):
        rates(model, Result("sinks", pandas.DataFrame()))
    with pytest.raises(TypeError, match="fcct"):
        rates(model, {"attn_out": {}})
    result = traced(model)
    result.table = result.table[result.table["component"] == "resid_post"]
    with pytest.raises(ValueError, match="neither attn_out nor mlp_out"):
        rates(model, result)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([0.1, 0.2], "rates are"),
        ({"z": {1: 0.1}}, "rates are"),
        ({"attn_out": {1: 0.1, 2: 0.2}}, "hold none for mlp_out.*mlp_strength=0"),
        ({"attn_out": {1: float("nan")}, "mlp_out": {1: 1}}, "layer 1 at attn_out is nan"),
        ({"attn_out": {1: "a"}, "mlp_out": {1: 1}}, "no number"),
        ({"attn_out": {9: 1.0}, "mlp_out": {1: 1}}, "out of range"),
        ({"attn_out": {"one": 1.0}, "mlp_out": {1: 1}}, "whole numbers"),
    ],
)
def test_wrong_rates_are_refused(llava, given, why):
    model, prompt = llava
    with pytest.raises((ValueError, IndexError, TypeError), match=why):
        model.logits(prompt, using=IRI(rates=given))


def test_a_source_without_a_rate_is_refused(llava):
    model, prompt = llava
    given = {"attn_out": {1: 0.5, 3: 0.2}, "mlp_out": {1: 0.5, 3: 0.2}}
    with pytest.raises(ValueError, match=r"sources \[2\] have no rate"):
        model.logits(prompt, using=IRI(rates=given, sources=[1, 2]))


WRONG = [
    ({"attn_strength": -1}, ValueError, "attn_strength is a number of at least 0"),
    ({"mlp_strength": float("inf")}, ValueError, "mlp_strength"),
    ({"mlp_strength": "1"}, ValueError, "mlp_strength"),
    ({"sources": 0}, ValueError, "how many layers, from 1"),
    ({"sources": True}, ValueError, "how many layers"),
    ({"targets": "10"}, ValueError, "how many layers"),
    ({"targets": 2.0}, ValueError, "how many layers"),
    ({"normalise": 1}, TypeError, "normalise is True or False"),
]


@pytest.mark.parametrize(("given", "kind", "why"), WRONG)
def test_wrong_settings_are_refused(given, kind, why):
    with pytest.raises(kind, match=why):
        IRI(**given)


def test_wrong_use_is_refused(llava):
    model, prompt = llava
    with pytest.raises(IndexError, match="out of range"):
        model.logits(prompt, using=IRI(sources=[7]))
    with pytest.raises(ValueError, match="needs an image"):
        model.logits(model.encode([[20, 21, 22]]), using=IRI())


# The fault that it is meant to mend.


def test_it_mends_layers_that_are_blind(broken):
    """What layer 1 saw, said again in layer 2; what layer 0 says does not help."""
    task = interp.Task.load("count", count=150, split="validation")
    right = {
        name: float(score(broken, task, using=using, batch=75)["right"].mean())
        for name, using in {
            "fault": None,
            "mended": IRI(sources=[1], targets=[2], attn_strength=6.0, mlp_strength=2.0),
            "wrong layer": IRI(sources=[0], targets=[2], attn_strength=6.0, mlp_strength=2.0),
        }.items()
    }
    assert right["mended"] > right["fault"] + 0.08, right
    assert right["wrong layer"] < right["mended"] - 0.06, right
