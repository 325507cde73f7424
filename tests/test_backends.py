"""One set of weights through transformers, TransformerLens and nnsight: the same numbers."""

import functools

import pytest
import torch

import interp
from analyses import ANALYSES
from interp.families import FAMILIES
from interp.points import disturb
from interp.runs import differences, same
from interp.sites import SITES, Hook

pytest.importorskip("transformer_lens")
pytest.importorskip("nnsight")
OTHERS = ("lens", "nnsight")


@functools.cache
def three(family):
    known = FAMILIES[family]
    plain = interp.wrap(known.model())
    others = [interp.wrap(plain.hf, backend=name) for name in OTHERS]
    return plain, others, known.inputs(plain.hf)


@functools.cache
def loaded(name):
    return interp.load("demo-lm", backend=name)


def shared(models, stack):
    """The sites that all of them offer."""
    return [site for site in SITES if not any(site in one.stacks[stack].refused for one in models)]


def close(one, other):
    one, other = one.clamp_min(-1e4), other.clamp_min(-1e4)  # what is hidden is as low as can be
    return float((one - other).abs().max()) <= 1e-5 * max(1.0, float(one.abs().max()))


@pytest.mark.parametrize("family", ["gpt2", "llama", "llava"])
@torch.no_grad()
def test_traces_agree_at_every_shared_site(family):
    plain, others, inputs = three(family)
    for stack in plain.stacks:
        sites = shared(others, stack)
        assert len(sites) >= 9  # LLaVA's tower: all but scores
        own = plain.trace(inputs, sites, stack=stack)
        for other in others:
            theirs = other.trace(inputs, sites, stack=stack)
            assert set(theirs) == set(own) and len(own) == len(sites) * plain.stacks[stack].size
            for key in own:
                assert close(own[key], theirs[key]), (other.backend, key)


@pytest.mark.parametrize("family", ["gpt2", "llama", "llava"])
@torch.no_grad()
def test_changes_move_the_logits_equally(family):
    plain, others, inputs = three(family)
    base = plain.logits(inputs)
    for stack in plain.stacks:
        for site in shared(others, stack):
            if (stack, site) == ("vision", "pattern"):
                continue  # TransformerLens shows it and cannot change it: test_backend_lens
            hook = Hook(site, disturb, layers=[0], stack=stack)
            moved = plain.logits(inputs, hooks=hook)
            assert float((moved - base).abs().max()) > 1e-2
            for other in others:
                assert close(moved, other.logits(inputs, hooks=hook)), (other.backend, stack, site)


@pytest.mark.parametrize("backend", OTHERS)
@pytest.mark.parametrize(
    ("name", "task", "settings"),
    [
        ("sinks", "facts", {}),
        ("rhythm", "facts", {}),
        ("attention", "facts", {}),
        ("heads", "ioi", {}),
        ("causal_tracing", "facts", {"kinds": "resid_post", "samples": 1, "known": False}),
        ("head_importance", "ioi", {"measures": "zero"}),
        ("path_patching", "ioi", {}),
        ("attribution", "ioi", {}),
        ("repair", "ioi", {}),
        ("compare", "open_book", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_analyses_that_read_and_change_give_the_same(backend, name, task, settings):
    records = interp.Task.load(task, count=2)
    one, other = (ANALYSES[name](loaded(own), records, **settings) for own in ("hf", backend))
    assert other.made["backend"] == backend and one.made["weights"] == other.made["weights"]
    table = differences(one, other, tolerance=1e-3)
    assert same(table), table.to_string()
    assert "backend" in list(table["name"])


def test_names_of_back_ends_are_told():
    with pytest.raises(ValueError, match="Did you mean 'lens'.*There are: hf, lens, nnsight"):
        interp.load("demo-lm", backend="lense")
