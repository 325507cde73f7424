"""Metrics worked by hand, and what they refuse."""

import pytest
import torch

import interp
from interp.families import FAMILIES
from interp.metrics import METRICS
from interp.metrics.residual import is_massive, threshold
from tests.test_metrics import uniform


class Words:
    """As much of a prompt as a metric reads: ids, mask, spans."""

    def __init__(self, ids, **spans):
        self.ids = torch.tensor([ids])
        self.mask = torch.ones_like(self.ids, dtype=torch.bool)
        self.images = []
        self.spans = {name: torch.zeros_like(self.mask) for name in spans}
        for name, positions in spans.items():
            self.spans[name][0, positions] = True
        self.names = ["prompt", *spans]
        self.length = len(ids)

    def where(self, name):
        return self.mask if name == "prompt" else self.spans[name]


def looking(*rows):
    """A map in which row t looks only at position rows[t]."""
    pattern = torch.zeros(1, 1, len(rows), len(rows))
    pattern[0, 0, range(len(rows)), rows] = 1
    return pattern


def test_duplicate_and_induction_by_tokens():
    prompt = Words([7, 1, 2, 3, 1, 2])
    induction = looking(
        0, 0, 0, 0, 2, 3
    )  # at 1 it looks after the earlier 1, at 2 after the earlier 2
    assert METRICS["induction"]()(induction, prompt).item() == pytest.approx(2 / 6)
    assert METRICS["induction"](matched=True)(induction, prompt).item() == 1
    assert METRICS["duplicate"]()(induction, prompt).item() == 0
    duplicate = looking(0, 0, 0, 0, 1, 2)
    assert METRICS["duplicate"](matched=True)(duplicate, prompt).item() == 1
    assert METRICS["induction"](matched=True)(duplicate, prompt).item() == 0


def test_repeats_by_period():
    ideal = looking(0, 0, 0, 2, 1, 2, 3, 4)  # four tokens, twice
    assert METRICS["induction"](period=4)(ideal).item() == 1
    assert METRICS["previous"](back=3)(ideal).item() == pytest.approx(4 / 5)  # the whole diagonal
    assert METRICS["duplicate"](period=4)(looking(0, 0, 0, 0, 0, 1, 2, 3)).item() == 1
    begun = looking(0, 0, 0, 0, 0, 2, 3, 4, 5)  # the same after one token that begins the text
    assert METRICS["induction"](period=4, begins=1)(begun).item() == 1
    assert METRICS["previous"]()(looking(0, 0, 1, 2, 3)).item() == 1


def test_shares_of_an_image_with_and_without_its_sinks():
    prompt = Words([1, 2, 3, 4], image=[1, 2])
    share = METRICS["visual_share"]
    pattern = uniform(4)
    assert torch.allclose(share()(pattern, prompt)[0, 0], torch.tensor([0, 1 / 2, 2 / 3, 2 / 4]))
    sinks = {0: torch.tensor([[False, True, False, True]])}
    assert torch.allclose(
        share(part="sink", sinks=sinks)(pattern, prompt)[0, 0, 3], torch.tensor(1 / 4)
    )
    assert torch.allclose(
        share(part="rest", sinks=sinks)(pattern, prompt)[0, 0, 3], torch.tensor(1 / 4)
    )
    with pytest.raises(ValueError, match="splits the span by sinks="):
        share(part="sink")
    with pytest.raises(ValueError, match="all, sink, rest"):
        share(part="half")
    own = METRICS["entropy"](keys="image")(pattern, prompt)[0, 0]
    assert torch.allclose(
        own, torch.tensor([0, 0, 2, 2]).float().clamp_max(1) * torch.tensor(2.0).log()
    )


def test_retrieval_counts_what_is_copied_while_it_is_looked_at():
    # The needle 5 6 stands at 2 and 3; the answer at 5 and 6 repeats it: rows 4 and 5 write it.
    prompt = Words([9, 8, 5, 6, 7, 5, 6], needle=[2, 3], response=[5, 6])
    score = METRICS["retrieval"]()
    assert score(looking(0, 0, 0, 0, 2, 3, 0), prompt).item() == 1
    assert (
        score(looking(0, 0, 0, 0, 3, 3, 0), prompt).item() == 0.5
    )  # first it looked at the other word
    assert score(looking(0, 0, 2, 3, 0, 0, 0), prompt).item() == 0  # not while answering
    with pytest.raises(ValueError, match="no such span"):
        score(uniform(7), Words([9, 8, 5, 6, 7, 5, 6], needle=[2]))


def test_chunks_by_hand():
    found = METRICS["chunks"](starts=(0, 2))(uniform(4))[0, 0]
    # Rows 2 and 3 give 1/3 and 1/4 to each of the first two; 1/3, 1/4 and 1/4 lie on their own.
    assert torch.allclose(found[1, 0], torch.tensor((2 / 3 + 2 / 4) / 4))
    assert torch.allclose(found[1, 1], torch.tensor((1 / 3 + 2 / 4) / 4))
    with pytest.raises(ValueError, match="each after the one before"):
        METRICS["chunks"](starts=(3, 1))


def test_span_without_its_sink():
    pattern = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0], [0.8, 0.1, 0.1]])[None, None]
    assert METRICS["span"]()(pattern).item() == pytest.approx((0 + 0.5 + 1.7) / 3)
    without = METRICS["span"](without_first=True)(pattern)
    assert without.item() == pytest.approx(
        (0 + 0 + 0.5) / 3
    )  # the last row: half here, half one back


def test_values_against_the_projection_written_out():
    model = interp.wrap(FAMILIES["llama"].model())
    ids = torch.arange(20, 32)[None]
    layer = model.stacks["text"].layers[1]
    trace = model.trace(ids, "v", "z", "resid_post", layers=[1])
    value = trace["v", 1].repeat_interleave(2, dim=2)
    weight = layer.out.weight.view(64, 4, 16)
    norms = torch.einsum("bkhd,ohd->bhko", value, weight).norm(dim=-1)
    drain = METRICS["value_drain"](relative=False)(trace["v", 1], None, layer)
    assert (drain - norms).abs().max() < 1e-5
    ratio = METRICS["value_drain"]()(trace["v", 1], None, layer)
    assert torch.allclose(ratio[0, 0, 0], norms[0, 0, 0] / norms[0, 0, 1:].mean())
    written = METRICS["written"]()(trace["z", 1], None, layer)
    assert (
        written - torch.einsum("bkhd,ohd->bhko", trace["z", 1], weight).norm(dim=-1)
    ).abs().max() < 1e-5
    with pytest.raises(ValueError, match="needs the layer's output projection"):
        METRICS["value_drain"]()(trace["v", 1])


def test_the_stream_by_hand():
    stream = torch.ones(1, 3, 8)
    stream[0, 1, 5] = -5000
    found = METRICS["massive"](top=2)(stream)
    assert found[0, 0].tolist() == [-5000, 1, 5, 5000]
    assert is_massive(found)[0].tolist() == [True, False]
    assert not is_massive(found / 100)[0, 0]  # 50 is not above 100
    assert is_massive(torch.tensor([50.0, 0, 0, 2000]), absolute=False)
    peak = METRICS["residual_peak"]()(stream)[0]
    assert peak[1] > 1000 and peak[0] < 0.01
    phi = METRICS["sinkness"](dims=(5,))(stream)[0]
    assert phi[1] == pytest.approx(8**0.5, rel=1e-4) and phi[0] == pytest.approx(1, rel=1e-4)
    assert METRICS["sinkness"](dims=(3,))(stream)[0, 1] < 0.01
    assert threshold(4096) == threshold(8192) == 20 and threshold(1024) == 10
    with pytest.raises(IndexError, match="channel 9 is out of range"):
        METRICS["sinkness"](dims=(9,))(stream)


def test_padding_is_left_out_of_the_stream():
    model = interp.load("demo-lm")
    prompt = model.encode(["The river", "According to the local paper"])
    trace = model.trace(prompt, keep=["residual_peak", "massive", "value_drain", "written"])
    padded = ~prompt.mask[0]
    assert padded.any()
    assert trace["residual_peak", 1][0, padded].abs().max() == 0
    assert trace["value_drain", 1][0][:, padded].abs().max() == 0
    assert not padded[trace["massive", 1][0, :, 1].long()].any()
    alone = model.trace(model.encode("The river"), keep=["residual_peak", "value_drain"])
    own = trace["value_drain", 1][0][:, prompt.mask[0]]
    assert (own - alone["value_drain", 1][0]).abs().max() < 1e-4


def test_an_image_on_a_grid():
    pattern = torch.full((1, 1, 7, 7), 1 / 7)
    found = METRICS["neighbours"](grid=(2, 3), before=1)(pattern)[0, 0]
    assert torch.allclose(found, torch.full((3,), 1 / 6))  # the mean at each hop, rows scaled to 1
    mass = METRICS["neighbours"](grid=(2, 3), before=1, form="sum")(pattern)[0, 0]
    assert mass.sum().item() == pytest.approx(1)
    hops = METRICS["neighbours"](grid=(2, 3), before=1, hop="manhattan", form="sum")(pattern)
    assert hops.shape == (1, 1, 4)
    away = METRICS["image_distance"](grid=(2, 3), before=1)(pattern)[0, 0]
    assert away[0].isnan() and away[1] == pytest.approx((0 + 1 + 2 + 1 + 2**0.5 + 5**0.5) / 6)
    with pytest.raises(ValueError, match="needs 7 positions, and there are 6"):
        METRICS["neighbours"](grid=(2, 3), before=1)(torch.full((1, 1, 6, 6), 1 / 6))


def test_the_grid_comes_from_the_prompt():
    model = interp.load("demo-vit")
    prompt = interp.Task.load("digits", count=2).encode(model)
    trace = model.trace(prompt, "pattern", keep=["neighbours", "image_distance"])
    assert trace["neighbours", 0].shape == (2, 4, 8)
    own = METRICS["neighbours"](grid=(8, 8), before=1)(trace["pattern", 0])
    assert (trace["neighbours", 0] - own).abs().max() < 1e-6
    text = interp.load("demo-vlm")
    task = interp.Task.load("colour", count=2)
    assert text.trace(task.encode(text), keep="neighbours")["neighbours", 2].shape == (2, 8, 6)
    assert text.trace(
        task.encode(text), keep=METRICS["neighbours"](grid=(6, 6), before=1), stack="vision"
    )
    with pytest.raises(ValueError, match=r"the vision stack has others.*Or give grid="):
        text.trace(task.encode(text), keep="neighbours", stack="vision")


def test_two_settings_of_one_metric_have_names():
    model = interp.load("demo-lm")
    near, far = METRICS["fai"](1, 3), METRICS["fai"](4)
    trace = model.trace("According to the local paper", "pattern", keep={"near": near, "far": far})
    for name, metric in (("near", near), ("far", far)):
        own = metric(trace["pattern", 2])
        assert torch.allclose(trace[name, 2], own, atol=1e-6, equal_nan=True)
    with pytest.raises(ValueError, match="name the two"):
        model.trace("The river", keep=[near, far])
    with pytest.raises(LookupError, match="but not by a site"):
        model.trace("The river", keep={"z": near})


@pytest.mark.parametrize("name", ["fai", "waad", "span", "retrieval"])
def test_what_looks_back_is_refused_where_attention_sees_both_ways(name):
    model = interp.wrap(FAMILIES["bert"].model())
    with pytest.raises(ValueError, match="sees both ways"):
        model.trace(torch.arange(20, 32)[None], keep=name)


def test_more_refusals():
    model = interp.load("demo-lm")
    impossible = {
        "fai": {"low": 5, "high": 3},
        "previous": {"back": 0},
        "massive": {"top": 0},
        "waad": {"window": 0},
        "induction": {"period": 1},
        "neighbours": {"hop": "l2"},
    }
    for name, setting in impossible.items():
        with pytest.raises(ValueError):
            METRICS[name](**setting)
    with pytest.raises(ValueError, match="this prompt has no image"):
        model.trace("The river", keep="neighbours")
    with pytest.raises(ValueError, match="compares the prompt's tokens, and here are none"):
        METRICS["induction"]()(uniform(4))
    with pytest.raises(ValueError, match="are not the same sequence"):
        METRICS["visual_share"](span="middle")(uniform(4), Words([1, 2, 3], middle=[1]))
    with pytest.raises(ValueError, match="starts 9 tokens after a key"):
        METRICS["fai"](9, 20)(uniform(8))
