"""A left-padded batch of unequal prompts gives each row what the prompt gives alone."""

import pytest
import torch

import interp
from interp.families import FAMILIES
from interp.metrics import METRICS

# Absolute, rotary and partial rotary positions, soft caps, windows, learned sinks, an encoder, images.
FAMILY_NAMES = [
    "gpt2",
    "opt",
    "llama",
    "gemma2",
    "gpt_oss",
    "phi",
    "cohere",
    "mistral",
    "roberta",
    "bert",
    "llava",
    "qwen2_vl",
    "gemma3",
]
METRIC_NAMES = ["received", "entropy", "distance"]


def pad(rows, token):
    width = max(row["input_ids"].shape[1] for row in rows)
    batch = {}
    for name in rows[0]:
        if name in ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids"):
            fill = token if name == "input_ids" else 0
            batch[name] = torch.cat(
                [
                    torch.nn.functional.pad(row[name], (width - row[name].shape[1], 0), value=fill)
                    for row in rows
                ]
            )
        else:
            batch[name] = torch.cat([row[name] for row in rows])
    return batch


@pytest.fixture(scope="module", params=FAMILY_NAMES)
def unequal(request):
    family = FAMILIES[request.param]
    hf = family.model()
    rows = [family.inputs(hf, length=length, seed=length) for length in (12, 7, 9)]
    model = interp.wrap(hf)
    token = getattr(model.config.get_text_config(), "pad_token_id", None) or 0
    batch = interp.Prompt.from_inputs(model, pad(rows, token))
    alone = [interp.Prompt.from_inputs(model, row) for row in rows]
    return model, batch, alone


def test_traces(unequal):
    model, batch, alone = unequal
    with torch.no_grad():
        together = model.trace(batch)
        singles = [model.trace(prompt) for prompt in alone]
    for row, single in enumerate(singles):
        kept = single.prompt.length
        for site, layer in single:
            value, expected = together[site, layer][row : row + 1], single[site, layer]
            if site in ("pattern", "scores"):
                assert site == "scores" or not value[..., :-kept].any()
                value = value[..., -kept:, -kept:]
                hidden = expected < torch.finfo(expected.dtype).min / 2
                value, expected = value.masked_fill(hidden, 0), expected.masked_fill(hidden, 0)
            else:
                value = value[:, -kept:]
            scale = max(1.0, float(expected.abs().max()))
            assert (value - expected).abs().max() < 2e-5 * scale, (row, site, layer)
        assert (together.logits[row, -kept:] - single.logits[0]).abs().max() < 2e-5


def test_streamed_metrics(unequal):
    model, batch, alone = unequal
    together = model.trace(batch, keep=METRIC_NAMES)
    stored = model.trace(batch, "pattern")
    for row, prompt in enumerate(alone):
        single = model.trace(prompt, keep=METRIC_NAMES)
        for name, layer in single:
            value = together[name, layer][row, :, -prompt.length :]
            assert (value - single[name, layer][0]).abs().max() < 2e-5, (row, name, layer)
            again = METRICS[name]()(stored["pattern", layer].detach())
            assert (again - together[name, layer]).abs().max() < 1e-5


def test_generation(unequal):
    model, batch, alone = unequal
    if not hasattr(model.hf, "generate") or model.kind == "encoder":
        with pytest.raises(ValueError, match="cannot generate"):
            model.generate(batch)
        return
    settings = {"max_new_tokens": 6, "do_sample": False}
    together = model.generate(batch, **settings)[:, batch.length :]
    for row, prompt in enumerate(alone):
        single = model.generate(prompt, **settings)[0, prompt.length :]
        count = min(len(single), together.shape[1])  # a row may end early, and be padded
        assert torch.equal(together[row, :count], single[:count])


@pytest.mark.parametrize("name", ["bert", "llama", "gemma2"])
def test_reading_leaves_even_the_padding_rows_alone(name):
    family = FAMILIES[name]
    hf = family.model()
    rows = [family.inputs(hf, length=length, seed=length) for length in (9, 6)]
    model = interp.wrap(hf)
    batch = interp.Prompt.from_inputs(model, pad(rows, 0))
    plain = model.logits(batch)
    assert (model.trace(batch).logits - plain).abs().max() < 1e-5
    assert (model.trace(batch, keep="received").logits - plain).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "t5", "gpt2", "llama", "bart"])
def test_ragged_ids_are_padded_where_that_changes_nothing(name):
    model = interp.wrap(FAMILIES[name].model())
    rows = [[20, 21, 22, 23, 24], [30, 31, 32]]
    batch = model.encode(rows)
    alone, filled = [True] * 3, [False] * 2
    # BART counts its positions over padding, so it is filled up behind.
    assert batch.mask[1].tolist() == (alone + filled if name == "bart" else filled + alone)
    stack = next(reversed([stack for stack in model.stacks if stack in ("text", "encoder")]))
    together = model.trace(batch, "pattern", keep="received", stack=stack)
    for row, ids in enumerate(rows):
        single = model.trace([ids], "pattern", keep="received", stack=stack)
        kept = batch.mask[row]
        for layer in single.layers("pattern"):
            pattern = together["pattern", layer][row][:, kept][:, :, kept]
            assert (pattern - single["pattern", layer][0]).abs().max() < 1e-5
            received = together["received", layer][row][:, kept]
            assert (received - single["received", layer][0]).abs().max() < 2e-5
