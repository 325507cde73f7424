"""Every family of the table: read against its own eager code, changed at every site."""

import pytest
import torch

import interp
from docs.models import PAGE, line, page
from interp.families import FAMILIES
from interp.sites import SITES
from tests.oracle import eager_run, plain_run

TOLERANCE = 1e-5


def open_family(name):
    """A family's tiny model with what it gives by itself, wrapped afterwards."""
    family = FAMILIES[name]
    hf = family.model()
    inputs = family.inputs(hf)
    plain = plain_run(hf, inputs)
    eager = eager_run(hf, inputs)
    model = interp.wrap(hf)
    prompt = interp.Prompt.from_inputs(model, inputs)
    with torch.no_grad():
        traces = {name: model.trace(prompt, stack=name) for name in model.stacks}
    return family, model, prompt, plain, eager, traces


@pytest.fixture(scope="module", params=list(FAMILIES))
def opened(request):
    return open_family(request.param)


def test_idle_is_plain_attention_to_the_bit(opened):
    _, model, prompt, plain, _, _ = opened
    assert torch.equal(plain_run(model.hf, prompt.inputs), plain)


def test_reading_every_site_gives_the_eager_logits(opened):
    _, model, _, _, eager, traces = opened
    for trace in traces.values():
        assert (trace.logits - eager.logits).abs().max() < TOLERANCE
    assert len(traces) == len(model.stacks)


def test_patterns_are_the_eager_attentions(opened):
    _, model, _, _, eager, traces = opened
    checked = 0
    for name, stack in model.stacks.items():
        for index in traces[name].layers("pattern"):
            attention = stack.layers[index].attention
            pattern = traces[name]["pattern", index]
            expected = eager.patterns[attention]
            expected = expected[0] if len(expected) == 1 else _diagonal(expected)
            assert pattern.shape == expected.shape
            assert (pattern - expected).abs().max() < TOLERANCE
            checked += 1
    assert checked == len(eager.patterns) > 0


def _diagonal(parts):
    heads = zip(*[part[0] for part in parts], strict=True)
    return torch.stack([torch.block_diag(*head) for head in heads])[None]


def test_rows_sum_to_one_and_are_the_softmax_of_the_scores(opened):
    family, model, _, _, _, traces = opened
    for name, trace in traces.items():
        for index in trace.layers("pattern"):
            pattern, scores = trace["pattern", index], trace["scores", index]
            attention = model.stacks[name].layers[index].attention
            sinks = getattr(attention, "sinks", None)
            if sinks is not None:  # a learned sink takes its share of every row
                extra = sinks.view(1, -1, 1, 1).expand(*scores.shape[:-1], 1)
                soft = torch.softmax(torch.cat([scores, extra], -1), -1)
                share, soft = soft[..., -1], soft[..., :-1]
            else:
                share, soft = 0.0, torch.softmax(scores, -1)
            assert (soft - pattern).abs().max() < TOLERANCE
            assert (pattern.sum(-1) + share - 1).abs().max() < TOLERANCE


def test_z_through_the_output_projection_is_attn_out(opened):
    _, model, _, _, _, traces = opened
    checked = 0
    for name, trace in traces.items():
        for index in trace.layers("attn_out"):
            out = model.stacks[name].layers[index].out
            with torch.no_grad():
                expected = out(trace["z", index].flatten(2))
            assert (expected - trace["attn_out", index]).abs().max() < TOLERANCE
            checked += 1
    assert checked > 0


def test_layers_hand_on_what_the_next_receives(opened):
    _, _, _, _, _, traces = opened
    for trace in traces.values():
        layers = trace.layers("resid_pre")
        for index in layers[:-1]:
            assert torch.equal(trace["resid_post", index], trace["resid_pre", index + 1])


def test_heads_and_sizes_are_those_of_the_run(opened):
    _, model, _, _, _, traces = opened
    for name, stack in model.stacks.items():
        index = traces[name].layers("q")[0]
        queries, keys = traces[name]["q", index], traces[name]["k", index]
        assert queries.shape[2:] == (stack.heads, stack.d_head)
        assert keys.shape[2] == stack.kv_heads


def test_a_change_at_every_site_moves_the_logits(opened):
    _, model, _, _, _, _ = opened
    points = model.points(opened[2])
    assert line(opened[0], model, points) in PAGE.read_text(encoding="utf-8").splitlines(), (
        "docs/models.md is out of date: python -m docs.models"
    )
    refused = points[~points["change"]]
    assert len(points) and points["read"].any()
    assert refused.empty or refused["note"].str.len().min() > 0
    served = points[points["change"]]
    for name in model.stacks:
        assert set(served[served["stack"] == name]["site"]) >= {
            "q",
            "k",
            "v",
            "scores",
            "pattern",
            "z",
        }
    assert set(served["site"]) == set(SITES)


def test_the_table_holds_every_family_and_nothing_else():
    text = PAGE.read_text(encoding="utf-8")
    rows = [row for row in text.splitlines() if row.startswith("| ") and "| kind |" not in row]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows] == list(FAMILIES)
    assert len(rows) >= 40
    assert page(rows) == text
