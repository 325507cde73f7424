"""Half precision, accelerate, gradients, training mode, and the way in and out of a model."""

import json
import subprocess
import sys

import pytest
import torch

import interp
from interp import Hook
from interp.families import FAMILIES
from tests.oracle import eager_run

NAMES = ["gpt2", "llama", "gemma2", "gpt_oss", "llava", "t5", "bert"]


def opened(name, dtype=torch.float32):
    family = FAMILIES[name]
    hf = family.model().to(dtype)
    inputs = {
        key: value.to(dtype) if value.is_floating_point() else value
        for key, value in family.inputs(hf, batch=2).items()
    }
    model = interp.wrap(hf)
    return model, interp.Prompt.from_inputs(model, inputs)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_half_precision(name, dtype):
    model, prompt = opened(name, dtype)
    eager = eager_run(model.hf, prompt.inputs)
    with torch.no_grad():
        trace = model.trace(prompt)
        streamed = model.trace(prompt, keep=["received", "entropy", "distance"])
    scale = eager.logits.float().abs().max()
    room = 0.05 if dtype == torch.bfloat16 else 0.01
    assert (trace.logits - eager.logits).float().abs().max() < room * scale
    assert (streamed.logits - eager.logits).float().abs().max() < room * scale
    for layer in trace.layers("pattern"):
        attention = model.stacks[trace.stack].layers[layer].attention
        pattern = trace["pattern", layer]
        assert pattern.dtype == dtype
        assert (pattern - eager.patterns[attention][0]).float().abs().max() < room
        received = streamed["received", layer]
        assert received.dtype == torch.float32
        assert (received - pattern.float().sum(-2)).abs().max() < 0.1
    silenced = model.logits(prompt, hooks=Hook("z", lambda z, at: z * 0, heads=[1]))
    assert not torch.equal(silenced, trace.logits)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_what_is_kept(name):
    model, prompt = opened(name)
    trace = model.trace(prompt, "pattern", "z", "resid_pre", "scores", "v")
    kept = [value for value in trace.values() if value.requires_grad]
    assert len(kept) == len(trace)
    gradients = torch.autograd.grad(trace.logits.square().sum(), kept, allow_unused=True)
    assert all(gradient is not None and gradient.abs().sum() > 0 for gradient in gradients)


def test_a_gradient_is_the_slope_of_a_change():
    model, prompt = opened("gpt2")
    model.hf.double()
    trace = model.trace(prompt, "pattern", layers=[1])
    pattern = trace["pattern", 1]
    (slope,) = torch.autograd.grad(trace.logits.sum(), pattern)
    step = torch.zeros_like(pattern)
    step[0, 2, 5, 1] = 1e-6
    moved = model.logits(prompt, hooks=Hook("pattern", lambda value, at: value + step, layers=[1]))
    measured = (moved.sum() - trace.logits.sum()) / 1e-6
    assert torch.allclose(measured, slope[0, 2, 5, 1], rtol=1e-3)


def test_no_grad_keeps_no_graph_and_logits_let_gradients_flow():
    model, prompt = opened("gpt2")
    with torch.no_grad():
        assert not model.trace(prompt, "z")["z", 0].requires_grad
    assert not model.trace(prompt, keep=["received"]).logits.requires_grad
    leaf = torch.zeros(4, requires_grad=True)
    hook = Hook("z", lambda z, at: z * (1 + leaf.view(1, 1, -1, 1)), layers=[1])
    model.logits(prompt, hooks=hook).sum().backward()
    assert leaf.grad is not None and bool((leaf.grad != 0).all())


def test_training_mode_drops_out_of_the_pattern():
    family = FAMILIES["llama"]
    hf = family.model()
    hf.config.attention_dropout = 0.5
    for layer in hf.model.layers:
        layer.self_attn.attention_dropout = 0.5
    model = interp.wrap(hf.train())
    prompt = interp.Prompt.from_inputs(model, family.inputs(hf))
    first, second = (model.trace(prompt, "pattern", "z") for _ in range(2))
    assert torch.equal(first["pattern", 0], second["pattern", 0])  # shown before dropout
    assert not torch.equal(first["z", 0], second["z", 0])


def test_device_map_and_a_folder(tmp_path):
    FAMILIES["llama"].model().save_pretrained(tmp_path)
    model = interp.load(str(tmp_path), device_map="cpu")
    ids = torch.arange(20, 29)[None]
    expected = interp.wrap(FAMILIES["llama"].model()).trace(ids)
    trace = model.trace(ids)
    assert (trace.logits - expected.logits).abs().max() < 1e-6
    assert len(trace) == len(expected)
    half = interp.load(tmp_path, dtype="bfloat16")
    assert half.trace(ids, "pattern")["pattern", 0].dtype == torch.bfloat16


def test_offloading_by_accelerate(tmp_path):
    from accelerate import dispatch_model

    hf = FAMILIES["llama"].model()
    ids = torch.arange(20, 29)[None]
    expected = interp.wrap(hf).trace(ids)
    names = {name: "cpu" for name, _ in hf.named_children()}
    model = interp.wrap(dispatch_model(hf, names, force_hooks=True))
    trace = model.trace(ids)
    assert torch.equal(trace.logits, expected.logits) and len(trace) == len(expected)
    assert not torch.equal(
        model.logits(ids, hooks=Hook("mlp_out", lambda x, at: x * 0)), trace.logits
    )
    assert (model.logits(ids) - expected.logits).abs().max() < 1e-5


def test_wrapping_twice_is_wrapping_once_and_unwrap_restores(tmp_path):
    hf = FAMILIES["llava"].model()
    hf.set_attn_implementation({"text_config": "eager", "vision_config": "sdpa", "": "sdpa"})
    before = [m.config._attn_implementation for m in hf.modules() if hasattr(m, "config")]
    model = interp.wrap(hf)
    assert interp.wrap(hf) is model and interp.wrap(model) is model
    hf.save_pretrained(tmp_path)
    assert "interp" not in json.dumps(json.loads((tmp_path / "config.json").read_text()))
    assert model.unwrap() is hf
    assert [m.config._attn_implementation for m in hf.modules() if hasattr(m, "config")] == before
    assert interp.wrap(hf) is not model


def test_an_unwrapped_and_forgotten_model_is_freed():
    import gc
    import weakref

    model = interp.wrap(FAMILIES["gpt2"].model())
    model.trace(torch.arange(20, 29)[None])
    gone = weakref.ref(model.hf)
    del model
    gc.collect()
    assert gone() is None


def test_import_is_light():
    """Counted in modules rather than timed: none of the heavy ones may load before first use."""
    code = "import sys, interp; print([m for m in sys.modules if '.' not in m])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(eval(run.stdout))
    assert "interp" in loaded
    assert not loaded & {"torch", "transformers", "pandas", "numpy", "plotly", "jaxtyping", "PIL"}
