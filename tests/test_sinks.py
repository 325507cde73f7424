"""Sinks: the planted one is found and nothing else is; what the shipped models do; refusals."""

import pytest
import torch

import interp
from analyses import ANALYSES
from interp import Result
from interp.batches import batches
from interp.dormancy import losses
from interp.edits import redistribute
from interp.families import FAMILIES
from interp.metrics import METRICS
from interp.metrics.sink import share
from interp.sink_dims import find_sink_dims
from tests.planted import CHANNEL, PREVIOUS, SINK, planted_ids, planted_model

sinks = ANALYSES["sinks"]


def load(name, **settings):
    return interp.Task.load(name, **settings)


@pytest.fixture(scope="module")
def planted():
    model = interp.wrap(planted_model())
    return sinks(model, model.encode(planted_ids()), hidden="relative")


def test_the_planted_sink_is_found_and_no_other(planted):
    table = planted.table
    assert [
        tuple(row) for row in table.loc[table["alpha_first"] > 0.3, ["layer", "head"]].to_numpy()
    ] == [SINK]
    assert table.loc[table["sink"] > 0, "texts"].tolist() == [4]
    assert table["hidden"].max() == 0  # a head that looks one back has no sinks


def test_the_planted_massive_activation_is_found_and_no_other(planted):
    massive = planted.tables["massive"]
    found = massive[massive["massive"]]
    assert set(found["channel"]) == {CHANNEL} and set(found["position"]) == {0}
    assert set(found["layer"]) == {1, 2, 3} and len(found) == 3 * 4
    dims = planted.tables["dims"]
    assert dims.loc[dims["found"], "channel"].tolist() == [CHANNEL]
    tokens = planted.tables["tokens"]
    peaks = tokens[(tokens["peak"] > 1) & (tokens["layer"] > 0)]
    assert set(peaks["position"]) == {0} and peaks["peak"].min() > 100


def test_the_planted_head_looks_back_and_no_other_does():
    model = interp.wrap(planted_model())
    scores = model.trace(planted_ids(), keep="previous")["previous"].mean(1)
    assert [tuple(place) for place in (scores > 0.4).nonzero().tolist()] == [PREVIOUS]
    assert scores[PREVIOUS] > 0.9


def test_nothing_is_found_where_nothing_is_planted():
    model = interp.wrap(planted_model(previous=False, sink=False, massive=False))
    result = sinks(model, model.encode(planted_ids()), hidden="relative")
    assert result.table["alpha_first"].max() < 0.1 and result.table["hidden"].max() == 0
    assert not result.tables["massive"]["massive"].any()
    alpha = model.trace(planted_ids(), keep="sink")["sink"]
    assert share(alpha) == 0 and abs(alpha[..., 0].mean() - 0.0741233) < 1e-6  # uniform at T=64


def test_shares_of_heads():
    model = interp.wrap(planted_model())
    alpha = model.trace(planted_ids(), keep="sink")["sink"]
    assert share(alpha) == 1 / 16 and share(alpha, epsilon=0.05) == 15 / 16
    with pytest.raises(IndexError, match="there are 64 keys"):
        share(alpha, 64)


def test_act_by_hand():
    row = torch.tensor([0.4, 0.3, 0.2, 0.1])
    hidden = torch.tensor([False, False, True, False])
    expected = torch.tensor([0.46, 0.345, 0.08, 0.115])
    assert torch.allclose(redistribute(row, hidden, keep=0.4), expected, atol=1e-6)
    only = torch.tensor([False, True, False, False])
    to_one = redistribute(row, hidden, keep=0.5, receivers=only)
    assert torch.allclose(to_one, torch.tensor([0.4, 0.4, 0.1, 0.1]), atol=1e-6)
    alone = torch.tensor([0.0, 0.0, 1.0, 0.0])  # nobody could receive
    assert torch.equal(redistribute(alone, hidden), alone)
    with pytest.raises(ValueError, match="from 0 to 1"):
        redistribute(row, hidden, keep=4)


@pytest.fixture(scope="module")
def language():
    domains = {
        "facts": load("facts", count=20),
        "who": load("open_book", count=20, kind="who", sentences=8),
    }
    return sinks(interp.load("demo-lm"), domains)


def test_demo_lm_rests_on_its_first_token(language):
    table = language.table.set_index(["domain", "layer", "head"])
    assert table.loc[("facts", 2, [0, 1, 2, 3]), "alpha_first"].min() > 0.8
    assert table.loc[("facts", 2, [0, 1, 2, 3]), "drain_first"].max() < 0.3
    assert table.loc[("facts", 0), "alpha_first"].max() < 0.3


def test_a_head_that_rests_in_one_domain_works_in_the_other(language):
    rest = language.tables["rest"].set_index(["domain", "layer", "head"])
    asleep, awake = rest.loc[("facts", 3, 3)], rest.loc[("who", 3, 3)]
    assert asleep["label"] != "active" and asleep["confirmed"] and abs(asleep["effect"]) < 0.01
    assert awake["label"] == "active" and awake["confirmed"] and awake["low"] > 1
    assert any("not in another: " in note and "3.3" in note for note in language.notes)


def test_the_result_travels(language, tmp_path):
    again = Result.load(language.save(tmp_path / "sinks"))
    assert again.table.equals(language.table) and list(again.tables) == list(language.tables)
    figure = again.figure(domain="who", record=1)
    assert "attention sinks in who" in figure.layout.title.text and len(figure.data) >= 4
    with pytest.raises(LookupError, match="no domain 'code'"):
        again.figure(domain="code")
    with pytest.raises(LookupError, match="record 19 was not kept"):
        again.figure(record=19)


@pytest.mark.parametrize("fault", [None, "parked-on-sinks"])
def test_visual_sinks_are_where_they_were_planted(fault):
    result = sinks(interp.load("demo-vlm", fault=fault), load("colour", count=6))
    text = result.table[(result.table["stack"] == "text") & (result.table["layer"] >= 2)]
    dims = result.tables["dims"]
    tokens = result.tables["tokens"]
    if fault is None:
        assert not dims["found"].any() and text["visual_sink"].max() == 0
        return
    assert dims["found"].sum() == 1 and text["visual_sink"].min() > 0.1
    assert text["visual_sink"].mean() > 10 * text["visual_rest"].mean()
    marked = tokens[tokens["visual_sink"].fillna(False).astype(bool)]
    assert set(marked["position"]) == {3} and set(marked["layer"]) == {2, 3}  # the first patch


def test_a_vision_tower_alone():
    result = sinks(interp.load("demo-vit"), load("digits", count=4))
    assert set(result.table["stack"]) == {"vision"} and "rest" not in result.tables
    assert result.figure().data


@pytest.mark.parametrize("name", ["qwen2_5_vl", "t5", "mllama", "bert", "gpt_oss"])
def test_odd_families_are_read(name):
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf, batch=1, length=20))
    result = sinks(model, prompt, ablate="none")
    assert set(result.table["stack"]) <= set(model.stacks) and len(result.table)
    assert result.table["alpha_first"].between(0, 1).all()


def test_given_sink_dimensions_are_taken():
    model = interp.load("demo-vlm", fault="parked-on-sinks")
    task = load("colour", count=2)
    own = find_sink_dims(model, [task.encode(model)]).dims[0]
    dims = sinks(model, task, dims=[own], ablate="none").tables["dims"]
    assert dims.loc[dims["found"], "channel"].tolist() == [own]


def test_refusals():
    model = interp.load("demo-lm")
    task = load("facts", count=2)
    with pytest.raises(ValueError, match="between 0 and 1, or 'relative'"):
        sinks(model, task, hidden=3)
    with pytest.raises(ValueError, match="candidates, all, none"):
        sinks(model, task, ablate="some")
    with pytest.raises(LookupError, match="no 'vision' stack"):
        sinks(model, task, stack="vision")
    with pytest.raises(ValueError, match="two domains share a name"):
        sinks(model, [task, task])
    with pytest.raises(TypeError, match="takes a Task"):
        sinks(model, 7)
    with pytest.raises(ValueError, match="prompts, and none were given"):
        find_sink_dims(model, [])
    with pytest.raises(ValueError, match="this prompt has no such span"):
        model.trace("The river", keep="visual_share")
    with pytest.raises(ValueError, match="starts 50 tokens after a key, and the text has only"):
        model.trace("The river", keep=METRICS["fai"](50, 90))
    with pytest.raises(ValueError, match="has no such span"):
        model.trace("The river", keep=METRICS["waad"](rows="response"))


def test_what_the_model_cannot_be_asked_is_noted():
    for name in ("t5", "clip"):
        family = FAMILIES[name]
        model = interp.wrap(family.model())
        prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf, batch=1, length=12))
        result = sinks(model, prompt, ablate="all")
        rest = result.tables.get("rest")
        assert rest is None or rest["effect"].isna().all()
        if rest is not None:
            assert any("no head was silenced" in note for note in result.notes)


def test_the_loss_is_one_kind_for_all_texts_of_a_domain():
    model = interp.load("demo-lm")
    task = load("ioi", count=4)
    mixed = interp.Task(
        "mixed", (*task.records[:2], *(interp.Record(one.prompt) for one in task.records[2:]))
    )
    found = [sinks(model, mixed, ablate="all", batch=size) for size in (1, 16)]
    rests = [one.tables["rest"].set_index(["layer", "head"])["effect"] for one in found]
    assert (rests[0] - rests[1]).abs().max() < 1e-4
    assert all(
        any("Not all records of mixed have answers" in note for note in one.notes) for one in found
    )


def test_image_tokens_are_nothing_that_is_predicted():
    model = interp.load("demo-vlm")
    record = load("colour", count=1)[0]
    batch = next(batches(model, model.encode(record.prompt, images=record.image), "sinks"))
    logits, ids = model.logits(batch.prompt), batch.prompt.ids
    kept = ~batch.prompt.where("image")[0, 1:]
    each = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:], reduction="none")
    assert torch.allclose(losses(model, batch, answered=False), each[kept].mean(), atol=1e-5)


def test_sink_dimensions_do_not_depend_on_batches():
    model = interp.load("demo-lm")
    texts = [load("facts", count=1)[0].prompt] * 5 + [load("ioi", count=1)[0].prompt]
    found = [sinks(model, texts, ablate="none", batch=size).tables["dims"] for size in (1, 16)]
    assert found[0]["channel"].tolist() == found[1]["channel"].tolist()
    assert (found[0]["phi"] - found[1]["phi"]).abs().max() < 1e-5
    given = sinks(model, texts, ablate="none", dims=(3, 5))
    assert (
        given.tables["dims"]["channel"].tolist() == [3, 5] and given.tables["dims"]["found"].all()
    )
    assert "Sink dimensions of the text stack: 3, 5." in given.notes
    with pytest.raises(IndexError, match="0 to 127"):
        sinks(model, texts, ablate="none", dims=(999,))


def test_attention_mass_in_a_prefix_that_sees_both_ways():
    family = FAMILIES["paligemma"]
    model = interp.wrap(family.model())
    prompt = interp.Prompt.from_inputs(model, family.inputs(model.hf, batch=1, length=20))
    open_rules = {
        "hidden": 0.05,
        "least_received": 0,
        "least_rows": 1,
        "ablate": "none",
        "stack": "text",
    }
    result = sinks(model, prompt, **open_rules)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern", keep=["sink", "received"])
    for layer in range(2):
        later = trace["sink", layer][0] > 0.05
        later[:, 0] = False
        mass = (trace["pattern", layer][0].sum(1) * later).sum(-1) / prompt.length
        own = result.table[result.table["layer"] == layer]["hidden_mass"].to_numpy()
        assert abs(own - mass.numpy()).max() < 1e-5


def test_figures_of_many_domains_and_long_texts():
    model = interp.load("demo-lm")
    domains = {
        f"a long name of a domain <b>{number}</b> & more": load("facts", count=2, seed=number)
        for number in range(7)
    }
    result = sinks(model, domains, ablate="all")
    figure = result.figure()
    title = figure.layout.title.text
    assert "<b>" not in title and "&amp; more" in title
    assert max(len(trace.y) for trace in figure.data if trace.text is not None) <= 12
    long = sinks(model, " ".join(["game", "school", "river"] * 60), ablate="none")
    places = [axis.tickvals for axis in long.figure().select_xaxes() if axis.tickvals is not None]
    assert max(len(each) for each in places) <= 60
    with pytest.raises(LookupError, match="shown=1"):
        sinks(model, domains, ablate="none", shown=0).figure()


def test_no_sink_dimensions_are_found_in_noise():
    from transformers import GPT2Config, GPT2LMHeadModel

    for width in (64, 128):
        config = GPT2Config(vocab_size=64, n_positions=64, n_embd=width, n_layer=4, n_head=4, bos_token_id=0,
                            eos_token_id=0)  # fmt: skip
        for seed in range(4):
            torch.manual_seed(seed)
            model = interp.wrap(GPT2LMHeadModel(config).eval())
            ids = torch.randint(1, 64, (8, 32))
            ids[:, 0] = 0
            assert find_sink_dims(model, [model.encode(ids)]).dims == ()
