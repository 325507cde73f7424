"""Patching grids of GPT-2 and Llama shapes, cell by cell those of TransformerLens."""

import sys

import pytest
import torch
from torch import Tensor

import interp
from interp.metrics import logit_diff

LAYERS, LENGTH, CLOSE = 3, 7, 1e-5


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=96, n_positions=32, n_embd=64, n_layer=LAYERS, n_head=4,
                        resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)  # fmt: skip
    return GPT2LMHeadModel(config), "GPT2LMHeadModel"


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=96, hidden_size=64, num_hidden_layers=LAYERS, num_attention_heads=4,
                         num_key_value_heads=2, intermediate_size=128)  # fmt: skip
    return LlamaForCausalLM(config), "LlamaForCausalLM"


def built(maker):
    """The same weights twice: TransformerLens changes the model that it is given."""
    torch.manual_seed(0)
    model, name = maker()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.12)
    own = type(model)(model.config)
    own.load_state_dict(model.state_dict())
    return interp.wrap(own.eval()), model.eval(), name


@pytest.fixture(params=[gpt2, llama], ids=["gpt2", "llama"])
def both(request, monkeypatch):
    """TransformerLens may install packages by itself; here it finds no pip to do it with."""
    import subprocess

    import transformer_lens  # noqa: F401

    def refuse(*arguments, **settings):
        raise AssertionError(f"TransformerLens wants to run {arguments}")

    for name in ("run", "check_call", "check_output", "call", "Popen"):
        monkeypatch.setattr(subprocess, name, refuse)
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module

    own, theirs, name = built(request.param)
    bridge = build_bridge_from_module(theirs, name, hf_config=theirs.config)
    return own, bridge


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("site", ["resid_pre", "attn_out", "mlp_out", "z"])
@torch.no_grad()
def test_grids_are_theirs(both, site):
    own, bridge = both
    hook = "blocks.{}." + ("attn.hook_z" if site == "z" else f"hook_{site}")
    clean, corrupted = torch.randint(
        0, 96, (2, 1, LENGTH), generator=torch.Generator().manual_seed(1)
    )
    metric = logit_diff(5, 7)
    over = ("layer", "head") if site == "z" else ("layer", "position")
    grid = own.sweep(corrupted, site, own.trace(clean, site), over, metric).as_subclass(Tensor)
    _, cache = bridge.run_with_cache(clean)
    assert (bridge(corrupted) - own.logits(corrupted)).abs().max() < CLOSE
    for layer in range(LAYERS):
        for place in range(grid.shape[2]):
            name = hook.format(layer)

            def put(value, hook):
                index = (slice(None), slice(None), place) if site == "z" else (slice(None), place)
                value = value.clone()
                value[index] = cache[name][index]
                return value

            logits = bridge.run_with_hooks(corrupted, fwd_hooks=[(name, put)])
            assert abs(float(metric(logits) - grid[:, layer, place])) < CLOSE
    assert grid.std() > 1e-3
    assert "torchvision" not in sys.modules
