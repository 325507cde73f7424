"""TransformerLens behind the verbs: the same numbers, and what it cannot do is refused."""

import functools
import itertools
import sys
import threading
import warnings
from contextlib import contextmanager

import pytest
import torch

import interp
from interp import Hook, Trace
from interp.families import FAMILIES
from interp.interventions import PAI, PASTA
from interp.metrics import logit_diff
from interp.points import disturb
from interp.sites import MAP_SITES, SITES
from interp.structure import find_stacks
from tests.documented import ROOT, snippets

pytest.importorskip("transformer_lens")
CLOSE = 1e-5
# transformer_lens and packages under it warn of their own affairs when they are imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
# What TransformerLens does not show as attention sees it, and what it shows and cannot change.
REFUSED = {
    "llava": {"vision": {"scores"}},
    "t5": {"decoder": {"scores"}},
    "gpt_neox": {"text": {"q", "k"}},
}
# LLaVA takes what layer 1 of 3 gives from inside the bridge.
READ_ONLY = {"llava": {"vision": {"pattern", ("resid_post", 1)}}}
PROMPT = "Then, Mary and John went to the store. John gave a book to"


@pytest.fixture(scope="module", autouse=True)
def no_installs():
    """Nothing here may install: TransformerLens would, torchvision, by itself."""
    import subprocess

    import transformer_lens  # noqa: F401

    def guarded(own):
        def run(command, *arguments, **settings):
            assert "install" not in command, command
            return own(command, *arguments, **settings)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for name in ("run", "check_call", "check_output", "call"):
            patch.setattr(subprocess, name, guarded(getattr(subprocess, name)))
        yield


@functools.cache
def pair(family):
    """The family's tiny model, plain and behind TransformerLens, over the same weights."""
    known = FAMILIES[family]
    plain = interp.wrap(known.model())
    return plain, interp.wrap(plain.hf, backend="lens"), known.inputs(plain.hf)


@pytest.fixture(scope="module")
def both():
    return interp.load("demo-lm"), interp.load("demo-lm", backend="lens")


@pytest.mark.parametrize("family", ["gpt2", "llama", "llava", "t5", "gpt_neox"])
@torch.no_grad()
def test_sites_are_what_attention_sees_or_are_refused(family):
    plain, lens, inputs = pair(family)
    assert (plain.logits(inputs) - lens.logits(inputs)).abs().max() < CLOSE
    for stack in plain.stacks:
        refused = REFUSED.get(family, {}).get(stack, set())
        assert set(lens.stacks[stack].refused) & set(SITES) == refused | cross_lacks(stack)
        for site in SITES:
            if site in refused:
                with pytest.raises(LookupError, match='backend="hf" offers it'):
                    lens.trace(inputs, site, stack=stack)
                continue
            if site in cross_lacks(stack):
                continue
            own, theirs = (model.trace(inputs, site, stack=stack) for model in (plain, lens))
            assert own.layers(site, stack) == theirs.layers(site, stack)
            for layer in own.layers(site, stack):
                one, other = own[site, layer, stack], theirs[site, layer, stack]
                scale = max(1.0, float(one[one.abs() < 1e30].abs().max()))
                assert one.shape == other.shape
                assert (one - other).abs().max() < CLOSE * scale, (site, layer, stack)


def cross_lacks(stack):
    return {"resid_pre", "mlp_out", "resid_post"} if stack == "cross" else set()


@pytest.mark.parametrize("family", ["gpt2", "llama", "llava"])
@torch.no_grad()
def test_changes_move_the_logits_as_they_do_without_it(family):
    plain, lens, inputs = pair(family)
    base = plain.logits(inputs)
    for stack in plain.stacks:
        refused = REFUSED.get(family, {}).get(stack, set())
        lost = READ_ONLY.get(family, {}).get(stack, set())
        for site, layer in itertools.product(set(SITES) - refused, plain.stacks[stack].layers):
            heads = [1] if site in ("q", "scores", "pattern", "z") else None
            hook = Hook(site, disturb, layers=[layer], stack=stack, heads=heads)
            if (stack, layer) == ("vision", 2):
                continue  # LLaVA does not look at its tower's last layer
            if site in lost or (site, layer) in lost:
                with quiet(), pytest.raises(ValueError, match="throws a change|in part only"):
                    lens.logits(inputs, hooks=hook)
                continue
            moved = plain.logits(inputs, hooks=hook)
            assert (moved - base).abs().max() > 1e-2
            assert (moved - lens.logits(inputs, hooks=hook)).abs().max() < CLOSE * 3, (site, stack)


@contextmanager
def quiet():
    """TransformerLens warns too when it throws a change away."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@torch.no_grad()
def test_padding_metrics_and_answers_are_the_same(both):
    plain, lens = both
    batch = [PROMPT, "Then, Mary and John"]
    keep = ["received", "entropy", "waad", "fai", "value_drain"]
    own, theirs = (model.trace(batch, *MAP_SITES, keep=keep) for model in both)
    assert list(own) == list(theirs)
    for key in own:
        assert (own[key] - theirs[key]).abs().max() < CLOSE, key
    told = [
        model.generate(model.encode(batch), max_new_tokens=4, do_sample=False) for model in both
    ]
    assert torch.equal(*told)


@torch.no_grad()
def test_interventions_do_the_same(both):
    plain, lens = both
    prompt = {model: model.encode(PROMPT, spans={"key": "Mary"}) for model in both}
    steered = [
        model.generate(prompt[model], using=PASTA(), max_new_tokens=4, do_sample=False, output_logits=True,
                       return_dict_in_generate=True)
        for model in both
    ]  # fmt: skip
    for one, other in zip(steered[0].logits, steered[1].logits, strict=True):
        assert (one - other).abs().max() < 1e-4
    seen = [interp.load("demo-vlm"), interp.load("demo-vlm", backend="lens")]
    task = interp.Task.load("count", count=2)
    plain, steered = ([model.logits(task.encode(model), using=using) for model in seen]
                      for using in (None, PAI()))  # fmt: skip
    assert (steered[0] - plain[0]).abs().max() > 0.1
    assert (steered[0] - steered[1]).abs().max() < 1e-4


def test_sweeps_and_gradients(both):
    plain, lens = both
    metric, over = logit_diff(" Mary", " John"), ("layer", "head")
    own, theirs = (
        model.sweep(model.encode(PROMPT), "z", over=over, metric=metric) for model in both
    )
    assert theirs.path == "whole" and 'backend="lens"' in theirs.why
    assert (own - theirs).abs().max() < 1e-4
    slopes = []
    for model in both:
        trace = model.trace(PROMPT, "z")
        slopes.append(torch.autograd.grad(trace.logits[0, -1].max(), trace["z", 0])[0])
    assert (slopes[0] - slopes[1]).abs().max() < 1e-4 and slopes[0].abs().max() > 0


def test_points_tell_what_is_read_only(both):
    _, lens, inputs = pair("llava")
    with pytest.warns(UserWarning, match="discarded"):
        table = lens.points(inputs)
    vision = table[(table["stack"] == "vision") & (table["layer"] == 0)].set_index("site")
    assert not vision.loc["scores", "read"] and 'backend="hf"' in vision.loc["scores", "note"]
    assert vision.loc["pattern", "read"] and not vision.loc["pattern", "change"]
    assert "throws a change of it away" in vision.loc["pattern", "note"]
    text = table[table["stack"] == "text"]
    assert text["read"].all() and text["change"].all()


def test_a_model_that_is_given_stays_as_it_is():
    hf = interp.load("demo-lm").unwrap()
    before = {path: type(module) for path, module in hf.named_modules()}
    own = hf.config._attn_implementation
    lens = interp.wrap(hf, backend="lens")
    assert before == {path: type(module) for path, module in hf.named_modules()}
    assert hf.config._attn_implementation == own and lens.hf is not hf
    weights = dict(hf.named_parameters())["model.layers.0.mlp.gate_proj.weight"]
    assert any(each is weights for each in lens.hf.parameters())  # shared, not copied
    plain = interp.wrap(hf)  # and it can still be wrapped
    assert (plain.logits(PROMPT_IDS) - lens.logits(PROMPT_IDS)).abs().max() < CLOSE


PROMPT_IDS = torch.tensor([[1, 5, 6, 7, 8]])


def test_a_live_bridge_is_wrapped_and_what_it_took_over_is_told():
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    known = FAMILIES["gpt2"]
    plain, hf = interp.wrap(known.model()), known.model()
    bridge = build_bridge_from_module(hf, type(hf).__name__, hf_config=hf.config)
    lens = interp.wrap(bridge)
    assert lens is interp.wrap(bridge) and lens.bridge is bridge and lens.unwrap() is bridge
    assert (lens.logits(PROMPT_IDS) - plain.logits(PROMPT_IDS)).abs().max() < CLOSE
    hook = Hook("z", disturb, layers=[0])
    lens.logits(PROMPT_IDS, hooks=hook)  # tried once: does a change there reach the logits
    seen = []
    bridge.blocks[0].hook_out.add_hook(lambda value, hook: seen.append(value))  # its own hooks stay
    lens.logits(PROMPT_IDS, hooks=hook)
    assert len(seen) == 1
    with pytest.raises(ValueError, match="replaced by TransformerLens"):
        interp.wrap(hf)
    assert find_stacks(hf)["text"].size == len(bridge.blocks)


@torch.no_grad()
def test_weights_that_are_folded_later_are_the_bridges_own():
    plain, _, _ = pair("gpt2")
    lens = interp.wrap(interp.wrap(FAMILIES["gpt2"].model()).hf, backend="lens")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lens.bridge.enable_compatibility_mode()
    base = lens.logits(PROMPT_IDS)
    assert not torch.allclose(base, plain.logits(PROMPT_IDS), atol=1e-3)  # centred
    moved = lens.logits(PROMPT_IDS, hooks=Hook("z", disturb, layers=[1]))
    assert (moved - base).abs().max() > 1e-2


def test_threads_do_not_see_each_other(both):
    lens = both[1]
    prompt = lens.encode(PROMPT)
    with torch.no_grad():
        plain = lens.logits(prompt)
        changed = lens.logits(prompt, hooks=Hook("pattern", disturb, layers=[1]))
    wrong = []

    def ask(hooks, expected):
        with torch.no_grad():
            for _ in range(8):
                if not torch.equal(lens.logits(prompt, hooks=hooks), expected):
                    wrong.append(hooks)

    hook = Hook("pattern", disturb, layers=[1])
    threads = [
        threading.Thread(target=ask, args=given) for given in (((), plain), (hook, changed)) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not wrong


def test_keys_behind_a_cache_are_refused(both):
    with pytest.raises(ValueError, match="before it enters the cache"):
        both[1].generate(PROMPT, hooks=Hook("k", disturb, layers=[0]), max_new_tokens=3)


@torch.no_grad()
def test_traces_become_caches_and_caches_traces(both):
    from transformer_lens import ActivationCache

    plain, lens = both
    ids = plain.encode(PROMPT).ids
    cache = plain.trace(ids, *SITES).to_cache(lens.bridge)
    assert isinstance(cache, ActivationCache)
    _, own = lens.bridge.run_with_cache(ids)
    for name in cache.cache_dict:
        there = own[name].masked_fill(own[name] < -1e30, torch.finfo(torch.float32).min)
        assert (there - cache[name]).abs().max() < CLOSE * 10, name
    assert (
        "blocks.1.hook_attn_out" in cache.cache_dict
        and "blocks.1.attn.hook_rot_q" in cache.cache_dict
    )
    assert "blocks.1.attn.hook_q" not in cache.cache_dict  # before the rotation: nobody's site
    assert cache.accumulated_resid(layer=2).shape[0] == own.accumulated_resid(layer=2).shape[0]
    again = Trace.from_cache(own, plain, ids)
    traced = plain.trace(ids, *SITES)
    assert set(again) == set(traced)
    for key in traced:
        assert (again[key] - traced[key]).abs().max() < CLOSE * 10, key
    with pytest.raises(LookupError, match="holds nothing of the sites"):
        Trace.from_cache({"somewhere.else": ids}, plain, ids)


@torch.no_grad()
def test_caches_of_images_and_of_normed_outputs():
    plain, lens, inputs = pair("llava")
    cache = plain.trace(inputs, *SITES, stack=["text", "vision"]).to_cache()
    named = set(lens.bridge.hook_dict)
    assert set(cache.cache_dict) <= named
    assert "vision_encoder.encoder_layers.0.attn.hook_pattern" in cache.cache_dict
    gemma, lens, inputs = pair("gemma2")
    cache = gemma.trace(inputs, *SITES).to_cache()
    assert "blocks.0.hook_attn_out" not in cache.cache_dict  # a norm stands behind it
    assert "blocks.0.attn.hook_out" in cache.cache_dict


def test_what_installs_by_itself_is_kept_from_it(monkeypatch):
    from transformer_lens.model_bridge.sources.transformers import helpers

    interp.load("demo-lm", backend="lens")
    monkeypatch.setitem(sys.modules, "torchvision", None)  # not to be had
    with pytest.warns(UserWarning, match="keeps it from doing so"):
        assert helpers._ensure_torchvision() is False


def test_what_cannot_be_opened_is_told(tmp_path):
    with pytest.raises(ValueError, match="There are: hf, lens, nnsight"):
        interp.load("demo-lm", backend="lense")
    with pytest.raises(FileNotFoundError, match="no folder"):
        interp.load(tmp_path / "none", backend="lens")
    with pytest.raises(ValueError, match="cannot make a bridge of CLIPModel"):
        interp.wrap(FAMILIES["clip"].model(), backend="lens")
    with pytest.raises(TypeError, match="takes a transformers model"):
        interp.wrap(torch.nn.Linear(2, 2), backend="lens")


def test_the_page_runs():
    names = {}
    for snippet in snippets((ROOT / "docs" / "backends.md").read_text()):
        exec(snippet, names)
    assert names["model"].backend == "lens" and names["logits"].shape[-1] > 100
    assert names["mine"]["pattern", 3].shape[1] == 8


@torch.no_grad()
def test_hooks_of_the_bridge_come_first_and_are_not_compared():
    plain, lens, _ = pair("gpt2")
    own = interp.wrap(plain.hf, backend="lens")
    half = Hook("z", lambda z, at: z * 0.5, layers=[1])
    own.bridge.add_hook("blocks.1.attn.hook_z", lambda z, hook: z * 0.5)
    trace, expected = own.trace(PROMPT_IDS, "z"), plain.trace(PROMPT_IDS, "z", hooks=half)
    assert (trace["z", 1] - expected["z", 1]).abs().max() < CLOSE
    assert (trace.logits - expected.logits).abs().max() < CLOSE
    shift = Hook("z", lambda z, at: z + 1, layers=[1])
    moved = own.logits(PROMPT_IDS, hooks=shift)
    assert (moved - plain.logits(PROMPT_IDS, hooks=[half, shift])).abs().max() < CLOSE
    own.bridge.reset_hooks()
    moved = own.logits(PROMPT_IDS, hooks=shift)
    assert (moved - plain.logits(PROMPT_IDS, hooks=shift)).abs().max() < CLOSE


def test_what_is_asked_of_wrap_is_what_comes(both, tmp_path):
    plain, lens = both
    assert interp.wrap(plain, backend="lens").backend == "lens"
    assert interp.wrap(plain) is plain and interp.wrap(lens, backend="lens") is lens
    for backend in ("hf", "nnsight"):
        with pytest.raises(ValueError, match="is of backend='lens'"):
            interp.wrap(lens.bridge, backend=backend)
    with pytest.raises(ValueError, match="replaced by TransformerLens"):
        interp.wrap(lens.hf, backend="nnsight")
    with pytest.raises(ValueError, match="remote= goes with"):
        interp.load("demo-lm", backend="lens", remote=True)
    with pytest.raises(ValueError, match="tp_plan= goes with"):
        interp.load("demo-lm", backend="lens", tp_plan="auto")
    parts = ["model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"]
    parts += [f"model.layers.{layer}" for layer in range(4)]
    spread = dict.fromkeys(parts, "cpu") | {"model.layers.2": "disk"}
    with pytest.raises(ValueError, match="lie on a disk"):
        interp.load("demo-lm", backend="lens", device_map=spread, offload_folder=tmp_path)


@torch.no_grad()
def test_caches_that_cannot_be_of_the_prompt_are_refused(both):
    plain, lens = both
    prompt = plain.encode([PROMPT, "Then, Mary and John"])
    mask = prompt.inputs["attention_mask"]
    _, cache = lens.bridge.run_with_cache(prompt.ids, attention_mask=mask)
    again, own = Trace.from_cache(cache, plain, prompt), plain.trace(prompt, "pattern")
    for key in own:
        assert (again[key] - own[key]).abs().max() < CLOSE
    with pytest.raises(LookupError, match="without logits"):
        again.logits  # noqa: B018
    with pytest.raises(ValueError, match="cannot be of this prompt"):
        Trace.from_cache(cache, plain, PROMPT + " Mary")
    few = {"blocks.1.attn.hook_z": torch.zeros(2, prompt.length, 5, 7)}
    with pytest.raises(ValueError, match="head 5, not 8"):
        Trace.from_cache(few, plain, prompt)


def test_a_site_named_twice_is_kept_once_and_hooks_take_two(both):
    for model in both:
        once = model.trace(PROMPT, "z")["z", 1]
        assert model.trace(PROMPT, "z", "z")["z", 1].shape == once.shape
        assert model.trace(PROMPT, "blocks.1.attn.hook_z", "z")["z", 1].shape == once.shape
        with pytest.raises(TypeError, match="takes the value and where"):
            model.logits(PROMPT, hooks=Hook("z", lambda z: z * 0))
