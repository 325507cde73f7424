"""Corners where an answer could be wrong in silence: each gives the right one, or says why not."""

import copy

import numpy
import pytest
import torch
import transformers

import interp
from interp import Hook
from interp.families import FAMILIES
from interp.live import LIVE, RUN
from interp.shadow import _SHADOWS

IDS = torch.randint(10, 120, (2, 10), generator=torch.Generator().manual_seed(0))


def zero(value, at):
    return value * 0


def opened(name="llama", seed=0):
    return interp.wrap(FAMILIES[name].model(seed))


def test_metrics_beside_sites_cut_no_gradient():
    model = opened()
    slopes = []
    for keep in (None, ["entropy", "received"]):
        trace = model.trace(IDS, "resid_pre", keep=keep)
        slopes.append(torch.autograd.grad(trace.logits.square().sum(), trace["resid_pre", 0])[0])
    assert (slopes[0] - slopes[1]).norm() < 1e-4 * slopes[0].norm()


def test_gradient_checkpointing_is_refused_only_where_it_would_be_wrong():
    model = opened()
    model.hf.train()
    enable = getattr(model.hf, "activation_checkpointing_enable", None)
    (enable or model.hf.gradient_checkpointing_enable)()
    with pytest.raises(ValueError, match="gradient checkpointing runs the layers again"):
        model.logits(IDS, hooks=Hook("z", zero))
    with torch.no_grad():
        assert model.logits(IDS, hooks=Hook("z", zero)).isfinite().all()


def test_entropy_stays_a_number():
    model = opened()
    hard = Hook("scores", lambda s, at: s.masked_fill(s < s.mean(), -torch.inf), layers=[1])
    for hook in (Hook("scores", lambda s, at: s * 2), hard):
        assert model.trace(IDS, keep="entropy", hooks=hook)["entropy"].isfinite().all()
    single = model.trace(IDS, keep="entropy")["entropy"]
    model.hf.double()
    assert torch.allclose(model.trace(IDS, keep="entropy")["entropy"], single, atol=1e-4)


def test_changed_scores_uncover_nothing():
    model = opened()
    for change in (lambda s, at: s * 0, lambda s, at: -s):
        pattern = model.trace(IDS, "pattern", hooks=Hook("scores", change))["pattern"]
        assert not pattern.triu(1).any()
        assert torch.allclose(pattern.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("name", ["xlm-roberta", "camembert", "qwen3_vl_moe"])
def test_models_that_count_positions_themselves(name):
    if name == "qwen3_vl_moe":
        config = FAMILIES["qwen3_vl"].tiny().to_dict()
        text = config["text_config"] | {"num_experts": 4, "moe_intermediate_size": 16}
        text = {key: value for key, value in text.items() if key != "model_type"}
        vision = {k: v for k, v in config["vision_config"].items() if k != "model_type"}
        made = transformers.AutoConfig.for_model(name, text_config=text, vision_config=vision)
        hf = transformers.AutoModelForImageTextToText.from_config(made)
    else:
        sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
                 "intermediate_size": 32, "vocab_size": 128, "initializer_range": 0.5}  # fmt: skip
        made = transformers.AutoConfig.for_model(name, pad_token_id=1, **sizes)
        hf = transformers.AutoModelForMaskedLM.from_config(made)
    model = interp.wrap(hf.float().eval())
    alone = {"input_ids": IDS[:1, :6], "attention_mask": torch.ones(1, 6, dtype=torch.long)}
    padded = {
        key: torch.nn.functional.pad(value, (3, 0), value=int(key == "input_ids"))
        for key, value in alone.items()
    }
    assert (model.logits(padded)[:, 3:] - model.logits(alone)).abs().max() < 1e-4


def test_layers_that_share_weights_are_refused():
    config = transformers.AutoConfig.for_model(
        "albert", hidden_size=32, embedding_size=16, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, vocab_size=128,
    )  # fmt: skip
    model = interp.wrap(transformers.AutoModelForMaskedLM.from_config(config).eval())
    for site in ("pattern", "resid_pre"):
        with pytest.raises(ValueError, match="runs several times in one forward"):
            model.trace(IDS, site)
    assert model.logits(IDS).shape == (2, 10, 128)


def test_a_key_that_a_mask_hides_from_everyone():
    model = opened()
    mask = torch.ones(10, 10).tril().bool()[None, None].expand(2, 1, 10, 10).clone()
    mask[..., 3] = False
    inputs = {"input_ids": IDS, "attention_mask": mask}
    plain = model.logits(inputs)
    same = model.logits(inputs, hooks=Hook("pattern", lambda pattern, at: pattern.clone()))
    assert (same - plain).abs().max() < 1e-5
    trace = model.trace(inputs, "pattern", "z", "v")
    assert torch.allclose(trace["pattern", 1].sum(-1), torch.ones(()), atol=1e-5)
    values = trace["v", 1].transpose(1, 2).repeat_interleave(2, dim=1)
    assert torch.allclose((trace["pattern", 1] @ values).transpose(1, 2), trace["z", 1], atol=1e-5)


def test_negative_layers_count_from_the_last_layer_there_is():
    trace = opened().trace(IDS, "pattern", layers=[0])
    assert trace["pattern", -4].shape == (2, 4, 10, 10)
    with pytest.raises(KeyError, match="was not recorded"):
        trace["pattern", -1]
    for key in [(), ("pattern", "0"), ("pattern", slice(2)), ("pattern", 0, "text", 1), 3]:
        with pytest.raises(KeyError):
            trace[key]
    assert torch.equal(trace["pattern", numpy.int64(0)], trace["pattern", 0])


def test_numbers_from_anywhere():
    model = opened()
    expected = model.trace(IDS, "z", "q", layers=[1, 2])
    for layers in (range(1, 3), numpy.array([1, 2]), torch.tensor([1, 2]), (i for i in [1, 2])):
        trace = model.trace(IDS, "z", "q", layers=layers)
        assert list(trace) == list(expected)
    assert list(model.trace(IDS, "z", layers=numpy.int64(2))) == [("z", 2)]
    for heads, error in (([], ValueError), ([1.5], TypeError), ("1", TypeError), (True, TypeError),
                         ([1, 1], ValueError), ([0, -4], ValueError)):  # fmt: skip
        with pytest.raises(error):
            model.logits(IDS, hooks=Hook("z", zero, heads=heads))
    trace = model.trace(IDS, heads=[3])
    assert trace["z", 0].shape[2] == 1 and trace["k", 0].shape[2] == 2


def test_a_user_s_own_decode_loop():
    model = opened()
    seen = []

    def look(pattern, at):
        spans = [
            at.where(name, pattern)[0].nonzero().flatten().tolist() for name in ("first", "last")
        ]
        seen.append((at.first, at.prefill, *spans))

    with model.using(Hook("pattern", look, layers=[1])):
        out = model.hf(IDS, use_cache=True)
        model.hf(IDS[:, :1], past_key_values=out.past_key_values)
        inner = model.hf.model(IDS, use_cache=True)
        model.hf.model(IDS[:, :2], past_key_values=inner.past_key_values)
    assert seen == [(0, True, [0], [9]), (10, False, [10], [10]), (0, True, [0], [9]),
                    (10, False, [10], [11])]  # fmt: skip


def test_a_second_turn_on_a_kept_cache():
    model = opened()
    model.hf.generation_config.eos_token_id = None
    seen = []
    look = Hook("pattern", lambda p, at: seen.append((at.first, at.prefill, p.shape[2])), [0])
    cache = model.hf(IDS, use_cache=True).past_key_values
    turn = {
        "input_ids": torch.cat([IDS, IDS[:, :3]], 1),
        "attention_mask": torch.ones(2, 13).long(),
    }
    model.generate(turn, hooks=look, past_key_values=cache, max_new_tokens=2, do_sample=False)
    assert seen == [(10, True, 3), (13, False, 1)]


def test_spans_are_not_laid_over_other_sequences():
    family = FAMILIES["llava"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf))
    hook = Hook("pattern", lambda p, at: at.where("image", p) and None, stack="vision")
    with pytest.raises(ValueError, match="not on the .* keys of the vision stack"):
        model.logits(prompt, hooks=hook)
    family = FAMILIES["t5"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf))
    kept = []
    cross = Hook("pattern", lambda p, at: kept.append(at.where("last", p)), stack="cross")
    model.logits(prompt, hooks=cross)
    assert kept[0].shape == (1, prompt.length) and kept[0][0, -1]
    with pytest.raises(ValueError, match="keys of the decoder stack"):
        model.logits(prompt, hooks=Hook("pattern", lambda p, at: at.where("last", p) and None))


def test_blocks_left_in_any_order():
    model = opened()
    plain = model.logits(IDS)
    one, other = model.using(Hook("z", zero, [0])), model.using(Hook("z", zero, [1]))
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    left = model.hf(IDS).logits
    assert torch.allclose(left, model.logits(IDS), atol=1e-6)
    other.__exit__(None, None, None)
    assert not torch.allclose(left, plain) and torch.equal(model.logits(IDS), plain)
    assert LIVE.get() == () and RUN.get() is None and not _SHADOWS


def test_a_context_that_outlives_the_block_keeps_nothing():
    import contextvars

    model = opened()
    plain = model.hf(IDS).logits
    with model.using(Hook("z", zero), Hook("resid_pre", zero, [2])):
        late = contextvars.copy_context()
    assert torch.equal(late.run(lambda: model.hf(IDS).logits), plain)


def test_copies_run_by_themselves(tmp_path):
    model = opened()
    with model.using(Hook("resid_pre", lambda value, at: value + 1)):
        copied = copy.deepcopy(model.hf)
    for weight in copied.parameters():
        weight.data.zero_()
    assert not copied(IDS).logits.any()
    second = interp.wrap(copied)
    assert second.unwrap().config._attn_implementation == "sdpa"
    assert model.hf.config._attn_implementation == "interp"


def test_a_model_taken_off_the_seam_says_so():
    model = opened()
    model.hf.set_attn_implementation("eager")
    with pytest.raises(RuntimeError, match="runs on 'eager' attention now.*wrap it again"):
        model.trace(IDS, "z")
    with pytest.raises(RuntimeError, match="wrap it again"), model.using(Hook("z", zero)):
        pytest.fail("the block must not start")


def test_inputs_in_odd_forms():
    model = opened()
    expected = model.logits(IDS)
    assert torch.equal(model.logits({"input_ids": IDS, "attention_mask": None}), expected)
    prompts = []
    with model.using(Hook("z", lambda z, at: prompts.append(at.prompt), [0])):
        model.hf(inputs_embeds=model.hf.get_input_embeddings()(IDS))
    assert prompts == [None]


@pytest.mark.parametrize(
    "cls", ["BertLMHeadModel", "BartForCausalLM", "T5EncoderModel", "GPT2Model"]
)
def test_a_class_is_what_it_does_not_what_its_family_is(cls):
    names = {"Bert": "bert", "Bart": "bart", "T5En": "t5", "GPT2": "gpt2"}
    config = FAMILIES[names[cls[:4]]].tiny()
    model = interp.wrap(getattr(transformers, cls)(config).eval())
    kind = {"BertLMHeadModel": "text", "BartForCausalLM": "text", "T5EncoderModel": "encoder",
            "GPT2Model": "text"}[cls]  # fmt: skip
    assert (model.kind, next(iter(model.stacks))) == (kind, kind)
    trace = model.trace(IDS, "pattern", keep=["received", "distance"])
    assert trace["pattern", 0].shape[-2:] == (10, 10)
    expected = interp.metrics.METRICS["distance"]()(trace["pattern", 0].detach())
    assert torch.allclose(trace["distance", 0], expected, atol=1e-5)


def test_every_family_is_of_the_kind_it_says():
    for name, family in FAMILIES.items():
        assert interp.wrap(family.model()).kind == family.kind, name


def test_points_say_what_stands_behind_z_and_what_is_not_served():
    config = transformers.AutoConfig.for_model(
        "bitnet", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=32, vocab_size=128, initializer_range=0.3,
    )  # fmt: skip
    hf = transformers.AutoModelForCausalLM.from_config(config).eval()
    points = interp.wrap(hf).points()
    noted = points[points["note"] != ""]
    assert set(noted["site"]) == {"z"} and points["change"].all()
    assert noted["note"].str.contains("between z and the output projection").all()
    config = transformers.AutoConfig.for_model(
        "albert", hidden_size=32, embedding_size=16, num_hidden_layers=3, num_attention_heads=4,
        intermediate_size=32, vocab_size=128,
    )  # fmt: skip
    hf = transformers.AutoModelForMaskedLM.from_config(config).eval()
    points = interp.wrap(hf).points()
    inside = points[points["site"].isin(["pattern", "resid_pre"])]
    assert not inside["read"].any() and inside["note"].str.contains("several times").all()


def test_decoders_that_count_padding_are_not_given_unequal_rows():
    model = interp.wrap(transformers.BartForCausalLM(FAMILIES["bart"].tiny()).eval())
    with pytest.raises(ValueError, match="counts positions over padding on the left"):
        mask = torch.tensor([[1, 1, 1], [0, 0, 1]])
        model.logits({"input_ids": IDS[:, :3], "attention_mask": mask})
    assert model.logits([[20, 21, 22], [23, 24, 25]]).shape[:2] == (2, 3)


def test_a_thread_that_leaves_the_block_behind_is_told_of():
    import threading

    model = opened()
    worker = threading.Thread(target=lambda: model.hf(IDS))
    with (
        pytest.warns(UserWarning, match="in another thread.*copy_context"),
        model.using(Hook("z", zero)),
    ):
        worker.start()
        worker.join()


def test_values_of_another_tower_are_not_folded():
    from PIL import Image

    from tests.processors import processor_of

    family = FAMILIES["qwen2_vl"]
    model = interp.wrap(family.model(), processor_of("qwen2_vl", family.tiny()))
    prompt = model.encode("Hi", images=Image.new("RGB", (160, 160)))
    trace = model.trace(prompt, "pattern", stack=["text", "vision"])
    patches = trace["pattern", 0, "vision"][0, 0, 0].detach()
    short = patches[: prompt.length - 1]
    for values in (short, short[None]):
        with pytest.raises(ValueError, match="not over this prompt's"):
            prompt.fold(values)
    assert prompt.fold(trace["pattern", 0][0, 0, -1].detach()).ndim == 2


def test_pictures_name_the_right_tokens():
    from interp.plots import head_map, head_maps, metric_map

    family = FAMILIES["t5"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf))
    trace = model.trace(prompt, "pattern", keep="entropy", stack="decoder")
    labels = metric_map(trace, "entropy").layout.xaxis.ticktext
    assert list(labels) == [str(place) for place in range(len(labels))]
    encoder = model.trace(prompt, "pattern", keep="entropy", stack="encoder")
    assert list(metric_map(encoder, "entropy").layout.xaxis.ticktext) == prompt.tokens[0]
    assert len(head_maps(encoder).data) == 16
    tokens = prompt.tokens[0]
    assert head_map(encoder["pattern", 0][0, 1], tokens).data[0].z.shape == (len(tokens),) * 2
    for pattern, names in ((encoder["pattern", 0], tokens), (encoder["pattern", 0][0, 1], ["a"])):
        with pytest.raises(ValueError, match="head_map takes one head"):
            head_map(pattern, names)
    with pytest.raises(ValueError, match="'waad' is not in this trace"):
        metric_map(encoder, "waad")
    with pytest.raises(ValueError, match="is no metric"):
        metric_map(encoder, "pattern")
    with pytest.raises(IndexError, match="row 7"):
        head_maps(encoder, row=7)


def test_near_misses_are_told_the_way():
    model = opened()
    with pytest.raises(
        LookupError, match="'received' is a metric, not a site: trace.prompt, keep="
    ):
        model.trace(IDS, "received")
    with pytest.raises(LookupError, match="'pattern' is a site, not a metric"):
        model.trace(IDS, keep="pattern")
    with pytest.raises(TypeError, match="not <function zero"):
        model.logits(IDS, hooks=zero)
    with pytest.raises(TypeError, match="a processor or tokenizer is an object"):
        interp.wrap(model.hf, "llama")
    trace = model.trace(IDS, ["pattern", "z"])
    assert {site for site, _ in trace} == {"pattern", "z"}
    with pytest.raises(KeyError, match="heads are an axis of the value"):
        trace["pattern", 0, 3]
    with pytest.raises(KeyError, match="'text' is a stack"):
        trace["text"]
