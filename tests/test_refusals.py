"""Bad input gets one clear message: what was given, what would do, what to do next."""

import json

import pytest
import torch
import transformers

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.live import LIVE, RUN
from interp.metrics import METRICS
from interp.shadow import _SHADOWS


@pytest.fixture(scope="module")
def model():
    return interp.wrap(FAMILIES["llama"].model())


@pytest.fixture(scope="module")
def t5():
    family = FAMILIES["t5"]
    model = interp.wrap(family.model())
    return model, interp.Prompt.from_inputs(model, family.inputs(model.hf))


@pytest.fixture
def ids():
    return torch.arange(10, 19)[None]


@pytest.fixture(autouse=True)
def nothing_half_applied():
    yield
    assert not _SHADOWS and LIVE.get() == () and RUN.get() is None


def identity(value, at):
    return None


HOOKS = {
    "unknown site": (Hook("patern", identity), LookupError, "no site 'patern'. Did you mean 'pattern'"),
    "lens site": (Hook("blocks.1.hook_resid_mid", identity), LookupError, "Sites are: resid_pre, q"),
    "layer": (Hook("z", identity, layers=[4]), IndexError, "layer 4 is out of range.* 0 to 3"),
    "negative": (Hook("z", identity, layers=[-5]), IndexError, "layer -5 is out of range.* 0 to 3"),
    "lens layer": (Hook("blocks.9.attn.hook_z", identity), IndexError, "layer 9 is out of range"),
    "not a layer": (Hook("z", identity, layers=["1"]), TypeError, "whole numbers, not '1'"),
    "head": (Hook("z", identity, heads=[4]), IndexError, "head 4 is out of range: z .* heads 0 to 3"),
    "kv head": (Hook("k", identity, heads=[2]), IndexError, "head 2 is out of range: k .* KV heads 0 to 1"),
    "no heads": (Hook("mlp_out", identity, heads=[0]), ValueError, "mlp_out has no heads"),
    "stack": (Hook("z", identity, stack="vision"), LookupError, "no 'vision' stack. Its stacks are: text"),
    "rows": (Hook("z", identity, rows=True), ValueError, "rows=True goes with scores and pattern"),
    "not callable": (Hook("z", 3), TypeError, "needs a function"),
}  # fmt: skip


@pytest.mark.parametrize("case", HOOKS)
def test_hooks_are_checked_before_anything_runs(model, ids, case):
    hook, error, message = HOOKS[case]
    for call in (model.logits, model.trace, model.generate):
        with pytest.raises(error, match=message):
            call(ids, hooks=[hook])
    with pytest.raises(error, match=message), model.using(hook):
        pytest.fail("the block must not start")


RETURNS = {
    "shape": (
        lambda z, at: z[:, :-1],
        ValueError,
        r"at z of layer 1 was given .* the shape must stay",
    ),
    "dtype": (lambda z, at: z.double(), ValueError, "torch.float32 .* gave back torch.float64"),
    "type": (lambda z, at: 0.0, TypeError, "gave back float; return a tensor"),
}


@pytest.mark.parametrize("case", RETURNS)
def test_what_a_hook_gives_back_is_checked(model, ids, case):
    function, error, message = RETURNS[case]
    with pytest.raises(error, match=message):
        model.logits(ids, hooks=[Hook("z", function, layers=[1])])


def test_trace_arguments(model, ids):
    with pytest.raises(LookupError, match="no site 'attn'"):
        model.trace(ids, "attn")
    with pytest.raises(LookupError, match="no metric 'recieved'. Did you mean 'received'"):
        model.trace(ids, keep=["recieved"])
    with pytest.raises(TypeError, match="keep= takes metrics or their names, not 3"):
        model.trace(ids, keep=[3])
    with pytest.raises(ValueError, match="holds 'waad' twice"):
        model.trace(ids, keep=[METRICS["waad"](window=2), METRICS["waad"](window=3)])
    with pytest.raises(TypeError, match="using= takes interp.Hook"):
        model.trace(ids, using="VAR")
    with pytest.raises(TypeError, match="hooks= takes interp.Hook"):
        model.trace(ids, hooks=[identity])
    trace = model.trace(ids, "pattern", layers=[0, 2])
    with pytest.raises(KeyError, match=r"was not recorded. There are: pattern of layers \[0, 2\]"):
        trace["pattern", 1]
    with pytest.raises(KeyError, match="no site 'wad'"):
        trace["wad", 1]


def test_metrics_without_meaning_are_refused(t5):
    model, prompt = t5
    with pytest.raises(ValueError, match="distance .* different sequences"):
        model.trace(prompt, keep=["distance"], stack="cross")
    with pytest.raises(ValueError, match="waad is defined for causal attention"):
        model.trace(prompt, keep=["waad"], stack="encoder")
    with pytest.raises(LookupError, match="the cross stack has no mlp_out"):
        model.trace(prompt, "mlp_out", stack="cross")
    with pytest.raises(ValueError, match="window=0"):
        METRICS["waad"](window=0)
    with pytest.raises(ValueError, match="takes a pattern"):
        METRICS["entropy"]()(torch.ones(3, 3))


def test_a_hook_that_nothing_passes_is_an_error():
    family = FAMILIES["llava"]
    model = interp.wrap(family.model())
    ids = torch.arange(20, 26)[None]
    with pytest.raises(LookupError, match="identity at z of the vision stack never ran"):
        model.logits(ids, hooks=[Hook("z", identity, stack="vision")])
    with pytest.raises(LookupError, match="nothing passed pattern of the vision stack"):
        model.trace(ids, "pattern", stack="vision")


@pytest.mark.parametrize("name", ["bloom", "falcon", "gptj", "mpt"])
def test_families_outside_the_attention_interface_are_refused(name):
    sizes = {
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 2},
        "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        "gptj": {"n_embd": 32, "n_layer": 2, "n_head": 2, "rotary_dim": 4},
        "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 2},
    }
    config = transformers.AutoConfig.for_model(name, vocab_size=64, **sizes[name])
    hf = transformers.AutoModelForCausalLM.from_config(config)
    before = hf.config._attn_implementation
    with pytest.raises(ValueError, match=f"{name}.*does not ask transformers for its attention"):
        interp.wrap(hf)
    assert hf.config._attn_implementation == before


def test_a_family_that_masks_by_the_attention_s_name_is_refused():
    config = transformers.AutoConfig.for_model(
        "deepseek_v32", hidden_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=64,
        n_routed_experts=2, num_experts_per_tok=1, intermediate_size=32, moe_intermediate_size=32,
        kv_lora_rank=8, q_lora_rank=8, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8,
        num_key_value_heads=2, n_group=1, topk_group=1, index_n_heads=2, index_head_dim=16,
        index_topk=4,
    )  # fmt: skip
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with pytest.raises(ValueError, match="by the name of the attention implementation"):
        interp.wrap(hf)


def test_what_is_not_a_transformers_model():
    with pytest.raises(TypeError, match="wraps transformers models, not Linear"):
        interp.wrap(torch.nn.Linear(2, 2))


@pytest.fixture
def folder(tmp_path):
    FAMILIES["llama"].model().save_pretrained(tmp_path / "whole")
    return tmp_path


def test_loading_says_what_stands_in_the_way(folder, monkeypatch):
    whole = folder / "whole"
    with pytest.raises(OSError, match="no folder here, and the hub gave nothing: no network"):
        interp.load("someone/some-model")
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        interp.load(folder / "absent")
    with pytest.raises(FileNotFoundError, match="holds no config.json"):
        interp.load(folder)
    with pytest.raises(ValueError, match="no dtype 'float23'"):
        interp.load(whole, dtype="float23")
    with pytest.raises(ValueError, match="weights cannot be torch.int8"):
        interp.load(whole, dtype=torch.int8)
    with pytest.raises(ValueError, match="no backend 'jax'"):
        interp.load(whole, backend="jax")
    with pytest.raises(NotADirectoryError, match="is a file"):
        interp.load(whole / "config.json")
    (whole / "model.safetensors").rename(whole / "kept")
    with pytest.raises(FileNotFoundError, match="no weights"):
        interp.load(whole)
    torch.save({}, whole / "pytorch_model.bin")
    with pytest.raises(ValueError, match="as a pickle .pytorch_model.bin., which can run any code"):
        interp.load(whole)


def test_remote_code_is_off_unless_asked(folder):
    path = folder / "whole" / "config.json"
    config = json.loads(path.read_text()) | {"auto_map": {"AutoModelForCausalLM": "theirs.Model"}}
    path.write_text(json.dumps(config))
    (folder / "whole" / "theirs.py").write_text("raise SystemExit('their code ran')")
    with pytest.raises(ValueError, match="brings Python code of its own .theirs.Model."):
        interp.load(folder / "whole")


def test_prompts(model):
    with pytest.raises(ValueError, match="(?i)image"):
        model.encode([[1, 2, 3]], images=[object()])
    with pytest.raises(ValueError, match="tokenizer"):
        model.encode("some text")
    with pytest.raises(ValueError, match="(?i)empty|no token"):
        model.encode(torch.zeros(1, 0, dtype=torch.long))
    with pytest.raises(ValueError, match="(?i)position|long"):
        model.encode(torch.zeros(1, 5000, dtype=torch.long))
    with pytest.raises((TypeError, ValueError), match="float"):
        model.encode(torch.ones(1, 4))
    with pytest.raises((ValueError, IndexError), match="128|127"):
        model.encode(torch.full((1, 4), 200))
