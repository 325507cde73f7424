"""Sweeps on every causal family, at every site, against a plain forward with a hook for each cell."""

import pytest
import torch
from torch import Tensor

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.metrics import logit_diff
from interp.sites import MAP_SITES, SITES, head_axis
from interp.structure import find_stacks

CLOSE = 1e-5
OTHER = ("input_ids", "decoder_input_ids", "pixel_values", "input_features")


def causal():
    for name, family in FAMILIES.items():
        stacks = find_stacks(family.model())
        main = next(iter(stacks))
        if stacks[main].causal and main in ("text", "decoder") and family.kind != "dual":
            yield name


def opened(name):
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    inputs, changed = (family.inputs(model.hf, batch=2, seed=seed) for seed in (0, 1))
    prompt = interp.Prompt.from_inputs(model, inputs)
    other = inputs | {key: changed[key] for key in OTHER if key in inputs}
    return model, prompt, interp.Prompt.from_inputs(model, other)


def putting(site, new, place, head):
    """A hook's function that replaces one cell in both rows."""

    def put(value, at):
        value = value.clone()
        rows = value.transpose(1, 2) if site in MAP_SITES else value
        source = new.transpose(1, 2) if site in MAP_SITES else new
        chosen = slice(None) if head is None else head
        rows[:, place, chosen] = source[:, place, chosen]
        return value

    return put


def check_site(model, prompt, trace, stack, site, metric):
    """Largest difference from plain forwards over some cells, largest effect, and the path."""
    layers = trace.layers(site, stack)
    length = trace[site, layers[0], stack].shape[2 if site in MAP_SITES else 1]
    places = [0, length // 2, length - 1]
    heads = [None] if head_axis(site) is None else [0, 1]
    over = ("layer", "position") if heads == [None] else ("layer", "position", "head")
    grid = model.sweep(prompt, site, trace, over, metric, layers=layers, positions=places,
                       heads=None if heads == [None] else heads, stack=stack)  # fmt: skip
    assert grid.axes == ("batch", *over) and grid.labels["position"] == places
    found = grid.as_subclass(Tensor).reshape(len(prompt), len(layers), len(places), len(heads))
    worst = 0.0
    for at in {0, len(layers) - 1}:
        for number, place in enumerate(places):
            for head in heads:
                new = trace[site, layers[at], stack]
                hook = Hook(site, putting(site, new, place, head), layers=[layers[at]], stack=stack)
                expected = metric(model.logits(prompt, hooks=[hook]))
                own = found[:, at, number, heads.index(head)]
                worst = max(worst, float((own - expected).abs().max()))
    return worst, float(grid.effect.abs().max()), grid.path


@pytest.mark.parametrize("name", list(causal()))
@torch.no_grad()
def test_every_site_equals_a_forward_of_its_own(name):
    model, prompt, other = opened(name)
    metric = logit_diff(5, 7)
    main = next(iter(model.stacks))
    checked = set()
    for stack in [main, *(["cross"] if "cross" in model.stacks else [])]:
        for site in SITES:
            try:
                trace = model.trace(other, site, stack=stack)
            except LookupError:
                continue  # cross attention has no residual sites of its own
            worst, effect, path = check_site(model, prompt, trace, stack, site, metric)
            assert worst < CLOSE, (stack, site)
            assert effect > 1e-3, (stack, site)
            # A prefix that sees both ways carries all positions; nothing needs whole forwards.
            assert path == ("layers" if name == "paligemma" else "positions"), (stack, site)
            checked.add((stack, site))
    assert {site for stack, site in checked if stack == main} == set(SITES)


def test_there_are_as_many_causal_families_as_the_table_has():
    found = set(causal())
    wanted = {name for name, family in FAMILIES.items()
              if family.kind in ("text", "vlm", "encoder-decoder", "audio")}  # fmt: skip
    assert found == wanted and len(found) >= 40
