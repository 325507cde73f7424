"""The flow analysis: what is planted is found, chance is beaten or said not to be, odd asks refused."""

from dataclasses import replace

import pandas
import pytest
import torch
import transformers

import interp
from analyses.flow import flow
from interp import Result, Task
from interp.propagation.example import Example, empty_with_means
from interp.propagation.methods import METHODS, Told

QUICK = {"steps": 5, "draws": 3, "resamples": 400}


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def vlm():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def induction():
    return Task.load("induction", count=6)


@pytest.fixture(scope="module")
def copied(lm, induction):
    return flow(lm, induction, **QUICK)


@pytest.fixture(scope="module")
def seen(vlm):
    chosen = ("lrp", "chefer", "leave_one_out")
    return flow(vlm, Task.load("colour", count=4), methods=chosen, **QUICK)


def row(result, method, curve="deletion"):
    table = result.table
    return table[(table["method"] == method) & (table["curve"] == curve)].iloc[0]


def top(result, record, method):
    """The ranked position with the highest relevance."""
    rows = result.tables["relevance"]
    rows = rows[(rows["record"] == record) & (rows["method"] == method) & rows["ranked"]]
    return int(rows.loc[rows["value"].idxmax(), "position"])


@pytest.mark.parametrize("method", ["attention", "rollout", "chefer", "lrp", "attention_gradient"])
def test_what_is_copied_is_found(copied, lm, induction, method):
    places = [induction[n : n + 1].encode(lm).position("source")[0] for n in range(6)]
    assert [top(copied, record, method) for record in range(6)] == [int(place) for place in places]


def test_good_methods_beat_chance_and_bad_ones_do_not(copied):
    for method in ("rollout", "chefer", "lrp", "leave_one_out"):
        assert row(copied, method)["beats"]
        assert row(copied, method)["auc"] < row(copied, "random")["auc"] - 0.1
    assert row(copied, "rollout", "insertion")["beats"]
    assert not row(copied, "gradient_input")["beats"]
    assert not row(copied, "random")["beats"] and row(copied, "random")["gain"] == 0
    told = "\n".join(copied.notes)
    deletion = next(note for note in copied.notes if note.startswith("Deletion"))
    assert "gradient_input" in deletion.partition("not told from chance:")[2]
    assert "the last position and the token that begins the text" in told
    assert "6 records are few for a bootstrap" in told


def test_guessing_does_not_beat_chance(lm, monkeypatch):
    chance = torch.Generator().manual_seed(5)
    guess = lambda example, told: torch.rand(example.length, generator=chance)  # noqa: E731
    monkeypatch.setitem(METHODS, "guess", guess)
    found = flow(lm, Task.load("induction", count=12), count=12, methods="guess", **QUICK)
    assert not found.table["beats"].any() and found.table["gain"].abs().max() < 0.15
    assert (
        sum("no method beats chance; not told from chance: guess" in note for note in found.notes)
        == 2
    )


def test_tables_agree_with_each_other(copied):
    curves, table = copied.tables["curves"], copied.table
    for (method, curve), area in table.groupby(["method", "curve"])["auc"].first().items():
        own = curves[curves["method"] == method]
        between = own[curve].rolling(2).mean().dropna() * own["share"].diff().dropna()
        assert between.sum() == pytest.approx(area, abs=1e-6)
    ends = curves[curves["share"].isin([0.0, 1.0])]
    records = copied.tables["records"]
    deleted = ends[ends["share"] == 1.0]["deletion"]
    assert deleted.std() < 1e-6 and deleted.iloc[0] == pytest.approx(
        records["emptied"].mean(), abs=1e-6
    )
    assert ends[ends["share"] == 0.0]["deletion"].iloc[0] == pytest.approx(
        records["probability"].mean()
    )
    assert (table["low"] <= table["auc"]).all() and (table["auc"] <= table["high"]).all()
    assert set(copied.tables["agreement"]["method"]) == set(table["method"]) - {
        "random",
        "leave_one_out",
    }
    assert copied.tables["aopc"]["aopc"].between(-1, 1).all()


def test_the_probability_is_that_of_the_model(copied, lm, induction):
    records = copied.tables["records"]
    scored = interp.score(lm, induction)
    assert records["answer"].tolist() == scored["said"].tolist()
    right = scored["right"]
    assert right.all() and records["probability"].tolist() == pytest.approx(
        scored["probability"].tolist()
    )


def test_the_same_seed_gives_the_same(lm, induction):
    chosen = {"methods": ("lrp", "leave_one_out"), "count": 2, **QUICK}
    one, two = flow(lm, induction, **chosen), flow(lm, induction, **chosen)
    pandas.testing.assert_frame_equal(one.table, two.table)
    pandas.testing.assert_frame_equal(one.tables["relevance"], two.tables["relevance"])
    other = flow(lm, induction, seed=1, **chosen)
    assert row(other, "random")["auc"] != row(one, "random")["auc"]
    assert row(other, "lrp")["auc"] == pytest.approx(row(one, "lrp")["auc"], abs=1e-6)


def test_the_model_is_left_as_it_was(lm, induction):
    prompt = induction[:2].encode(lm)
    before = lm.hf(**prompt.inputs).logits
    flow(lm, induction, methods=list(METHODS), count=1, **{**QUICK, "steps": 3})
    assert torch.equal(lm.hf(**prompt.inputs).logits, before)
    assert all(weight.grad is None for weight in lm.hf.parameters())


def test_it_saves_and_loads_and_draws(seen, copied, tmp_path):
    for result in (seen, copied):
        again = Result.load(result.save(tmp_path / "run"))
        for name, table in result.tables.items():
            pandas.testing.assert_frame_equal(again.tables[name], table)
        drawn = again.figure(record=1)
        words = " ".join(note.text for note in drawn.layout.annotations)
        assert "random" in words and "lrp" in words and "Deletion" in words
        with pytest.raises(IndexError, match="it has records 0 to"):
            again.figure(record=99)


def test_the_asked_object_is_found_on_the_image(seen, vlm):
    task = Task.load("colour", count=4)
    cells = [record.notes["objects"][record.notes["asked"]]["cell"] for record in task]
    methods = list(dict.fromkeys(seen.tables["relevance"]["method"]))
    for method in ("lrp", "chefer"):
        maps = [seen.tensors[f"map {number}"][methods.index(method)] for number in range(4)]
        found = [int(each.argmax()) for each in maps]
        assert sum(one == other for one, other in zip(found, cells, strict=True)) >= 3, method
    assert seen.tensors["image 0"].shape == (96, 96, 3) and seen.tensors["map 0"].shape == (3, 6, 6)
    rows = seen.tables["relevance"]
    assert set(rows["part"]) == {"text", "image"} and row(seen, "lrp")["gain"] > 0.2


def test_a_classifier_is_read_at_its_class_token():
    model, task = interp.load("demo-vit"), Task.load("digits", count=4)
    found = flow(model, task, count=3, **QUICK)
    assert any("flow was left out: prompts have up to 65" in note for note in found.notes)
    assert row(found, "lrp")["gain"] > 0.1
    assert not found.tables["relevance"].query("position == 0")["ranked"].any()
    assert found.tensors["map 2"].shape == (7, 8, 8)
    answer = flow(model, task, methods="flow", count=1, limit=65, target="answer", **QUICK)
    assert answer.tables["records"]["answer"].tolist() == [task[0].answers[0]]
    assert any("fewer than 6 records nothing counts" in note for note in answer.notes)
    assert not answer.table["beats"].any() and answer.table["low"].isna().all()


def test_integrated_gradients_sum_to_what_replacing_changes(lm, induction):
    examples = [Example(lm, record) for record in induction[:2]]
    empty_with_means(examples)
    example = examples[0]
    found = METHODS["integrated_gradients"](example, Told(path_steps=400))
    start = example.plain[0].clone()
    start[example.ranked] = example.emptied[example.ranked]
    hook = interp.Hook("resid_pre", lambda value, at: start[None], [0])
    emptied = lm.logits(example.prompt, hooks=hook)[0, -1, example.target].detach()
    change = float(example.plain[1][example.target] - emptied)
    assert float(found.sum()) == pytest.approx(change, abs=0.02 * abs(change))
    untouched = torch.ones(example.length, dtype=torch.bool)
    untouched[example.ranked] = False
    assert not found[untouched].any()


def test_leaving_one_out_is_replacing_it(lm, induction):
    example = Example(lm, induction[0])
    empty_with_means([example])
    found = METHODS["leave_one_out"](example, Told())

    def replaced(value, at):
        changed = value.clone()
        changed[:, 3] = example.emptied[3]
        return changed

    chances = []
    for hooks in ((), interp.Hook("resid_pre", replaced, [0])):
        logits = lm.logits(example.prompt, hooks=hooks)[0, -1].detach().double()
        chances.append(logits.softmax(-1)[example.target].logit())
    assert float(found[3]) == pytest.approx(float(chances[0] - chances[1]), abs=1e-3)
    assert found[[0, -1]].isnan().all()


def test_zero_in_the_place_of_means(lm, induction):
    chosen = {"methods": "lrp", "count": 2, **QUICK}
    zero, mean = flow(lm, induction, baseline="zero", **chosen), flow(lm, induction, **chosen)
    assert zero.tables["records"]["emptied"].tolist() != mean.tables["records"]["emptied"].tolist()
    assert any("needs it and another method" in note for note in zero.notes)


def test_what_has_no_way_back_is_left_out_or_refused(word_tokenizer):
    config = transformers.LlamaConfig(
        vocab_size=128, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
        num_attention_heads=2, hidden_act="sigmoid", pad_token_id=0,
    )  # fmt: skip
    model = interp.wrap(transformers.LlamaForCausalLM(config).eval(), word_tokenizer)
    task = Task("words", tuple(interp.Record(f"w1 w2 w{n} w4 w5 w6") for n in (7, 8, 9)))
    found = flow(model, task, **QUICK)
    assert any(note.startswith("lrp was left out") and "Sigmoid" in note for note in found.notes)
    assert "lrp" not in set(found.table["method"])
    assert any("no method beats chance" in note for note in found.notes)
    with pytest.raises(ValueError, match="lrp cannot be had here.*Sigmoid"):
        flow(model, task, methods=["lrp"], **QUICK)
    with pytest.raises(ValueError, match="1 positions to rank"):
        flow(model, Task("short", (interp.Record("w1 w2"),)), **QUICK)
    with pytest.raises(ValueError, match="needs answers"):
        flow(model, task, target="answer", **QUICK)


def test_odd_asks_are_refused(lm, induction):
    refused = {
        "Did you mean 'rollout'": {"methods": ["roll_out"]},
        "limit=": {"methods": ["flow"], "limit": 8},
        "Did you mean 'mean'": {"baseline": "means"},
        "no target 'sad'": {"target": "sad"},
        "at least 3 shares": {"steps": 2},
        "draws=0": {"draws": 0},
        "heads='max' is a setting of rollout and flow": {"methods": ["lrp"], "heads": "max"},
        "no way to fuse heads": {"methods": ["rollout"], "heads": "sum"},
    }
    for words, settings in refused.items():
        with pytest.raises((ValueError, LookupError), match=words):
            flow(lm, induction, **{"count": 2, **settings})
    with pytest.raises(TypeError, match="flow takes a Task"):
        flow(lm, "a text")
    with torch.inference_mode(), pytest.raises(ValueError, match="inference_mode"):
        flow(lm, induction)


def test_kinds_that_are_not_served(word_tokenizer):
    small = {
        "d_model": 16,
        "num_layers": 1,
        "num_heads": 2,
        "d_ff": 16,
        "vocab_size": 128,
        "d_kv": 8,
    }
    t5 = transformers.T5Config(**small, decoder_start_token_id=0)
    model = interp.wrap(transformers.T5ForConditionalGeneration(t5).eval(), word_tokenizer)
    task = Task("words", (interp.Record("w1 w2 w3", answers=(" w4",)),))
    with pytest.raises(ValueError, match="kind 'encoder-decoder'"):
        flow(model, task)
    bare = transformers.LlamaConfig(vocab_size=128, hidden_size=16, num_hidden_layers=1,
                                    intermediate_size=16, num_attention_heads=2)  # fmt: skip
    model = interp.wrap(transformers.LlamaModel(bare).eval(), word_tokenizer)
    with pytest.raises(ValueError, match="no language-model head"):
        flow(model, replace(task))
