"""Rhythm: curves as computed by hand from stored patterns, reasons where there are none, seeds."""

import math

import numpy as np
import pandas
import pytest
import torch

import interp
from analyses import ANALYSES
from interp import Record, Result, Task
from interp.credit import Credit
from interp.families import FAMILIES
from interp.responses import respond

SHORT = {"max_new_tokens": 60, "min_new_tokens": 60, "shuffles": 200, "chunks": 6}


def ask(model, task, **settings):
    return ANALYSES["rhythm"](model, task, **settings)


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def task():
    return Task.load("open_book", count=4)


@pytest.fixture(scope="module")
def result(model, task):
    return ask(model, task, **SHORT, seed=3)


def rewritten(model, task, result, record):
    """The prompt with the response that the result is of."""
    own = result.tables["tokens"].query("record == @record")
    prompt = task[record : record + 1].encode(model)
    return respond(model, prompt, "".join(own["token"])), own


def of_group(result, group, layers=4):
    heads = result.tables["heads"]
    chosen = heads["receiver"] if group == "receiver" else heads["group"] == group
    rows = heads[chosen]
    return list(zip(rows["layer"], rows["head"], strict=True))


def test_curves_equal_those_of_the_groups_mean_patterns(model, task, result):
    whole, own = rewritten(model, task, result, 1)
    trace = model.trace(whole, "pattern")
    mean = {
        group: torch.stack(
            [trace["pattern", layer][0, head] for layer, head in of_group(result, group)]
        )
        .mean(0)
        .detach()
        .double()
        .numpy()
        for group in ("local", "global", "receiver")
    }
    rows = whole.where("response")[0].nonzero()[:, 0].tolist()
    assert own["position"].tolist() == rows and len(rows) == 60
    end = whole.length
    for place, token in zip(own.to_dict("records"), rows, strict=True):
        waad = sum(mean["local"][token, key] * min(token - key, 10) for key in range(token + 1))
        assert place["waad"] == pytest.approx(waad, abs=1e-5)
        for name, group, low, high in [
            ("fai", "global", 0, end),
            ("fai_v1", "global", 10, 50),
            ("fai_v2", "global", 10, 100),
            ("receiver_fai", "receiver", 0, end),
        ]:
            seen = [mean[group][row, token] for row in rows if low <= row - token <= high]
            assert place[name] == pytest.approx(
                np.mean(seen) if seen else math.nan, abs=1e-6, nan_ok=True
            )
    law = torch.log_softmax(trace.logits[0].double(), -1)
    entropy = -(law.exp() * law).sum(-1)[[row - 1 for row in rows]]
    assert own["entropy"].tolist() == pytest.approx(entropy.tolist(), abs=1e-5)


def test_heads_are_split_by_span_over_all_records(model, task, result):
    heads = result.tables["heads"]
    spans, without = np.zeros(32), np.zeros(32)
    for record in range(4):
        whole, _ = rewritten(model, task, result, record)
        rows = whole.where("response")[0].nonzero()[:, 0]
        pattern = torch.cat(list(model.trace(whole, "pattern")["pattern"].detach()), 1)[0][:, rows]
        back = (rows[:, None] - torch.arange(whole.length)).clamp_min(0)
        spans += (pattern * back).sum(-1).mean(-1).double().numpy() / 4
        left = pattern[..., 1:] / pattern[..., 1:].sum(-1, keepdim=True)
        without += (left * back[:, 1:]).sum(-1).mean(-1).double().numpy() / 4
    assert heads["span"].tolist() == pytest.approx(spans.tolist(), rel=1e-4)
    assert heads["span_without_first"].tolist() == pytest.approx(without.tolist(), rel=1e-4)
    order = np.argsort(spans)
    assert (heads["group"].to_numpy()[order[:9]] == "local").all()
    assert (heads["group"].to_numpy()[order[-9:]] == "global").all()
    assert heads["group"].value_counts()["between"] == 14
    receivers = heads[heads["receiver"]]
    outside = heads[heads["layer"] > 0]["receiver_score"].nlargest(6)
    assert sorted(receivers.index) == sorted(outside.index)


def test_the_table_counts_what_the_tokens_say(result):
    table, tokens = result.table, result.tables["tokens"]
    assert table["depth"].unique().tolist() == ["all", "early", "middle", "late"]
    assert table["layers"].unique().tolist() == ["0, 1, 2, 3", "0, 1", "2", "3"]
    overall = table[table["depth"] == "all"].set_index("statistic")
    preplan, anchor = tokens["preplan"], tokens["anchor"]
    before = preplan | tokens.groupby("record")["preplan"].shift(fill_value=False)
    assert overall.loc["preplan", "observed"] == pytest.approx(tokens["entropy"][preplan].mean())
    assert overall.loc["preplan", "random"] == pytest.approx(tokens["entropy"].mean())
    assert overall.loc["receiver", "random"] == pytest.approx(anchor.mean())
    assert overall.loc["anchor", "observed"] == pytest.approx(before[anchor].mean())
    assert overall.loc["anchor", "random"] == pytest.approx(before.mean(), abs=0.05)
    assert overall.loc["anchor", "count"] == anchor.sum() and (overall["tokens"] == 240).all()
    inside = table.query("low <= random <= high")
    assert len(inside) == len(table)


def test_credit_is_that_of_the_pure_functions(model, task, result):
    other = ask(model, task, **SHORT, seed=3, credit={"share": 0.2, "amplify": 2.0})
    for found, credit in [(result, Credit()), (other, Credit(share=0.2, amplify=2.0))]:
        for _, own in found.tables["tokens"].groupby("record"):
            waad = own["waad"].to_numpy()
            assert own["gamma_local"].tolist() == credit.local(waad).tolist()
            for version in ("v1", "v2"):
                fai = own[f"fai_{version}"].to_numpy()
                assert own[f"gamma_global_{version}"].tolist() == credit.anchors(fai).tolist()
                gamma = credit.coupled(waad, fai).tolist()
                assert own[f"gamma_coupled_{version}"].tolist() == gamma
    assert other.tables["tokens"]["gamma_local"].eq(2).sum() == 4 * 12


def test_one_seed_one_answer_and_saved_as_it_was(model, task, result, tmp_path):
    again = ask(model, task, **SHORT, seed=3)
    for name, table in {"table": result.table, **result.tables}.items():
        other = again.table if name == "table" else again.tables[name]
        pandas.testing.assert_frame_equal(table, other)
    two = ask(model, task, **SHORT, seed=3, count=2)
    first = result.tables["tokens"].query("record < 2")["token"].tolist()
    assert two.tables["tokens"]["token"].tolist() == first
    other = ask(model, task, **SHORT, seed=4)
    assert other.tables["tokens"]["token"].tolist() != result.tables["tokens"]["token"].tolist()
    loaded = Result.load(result.save(tmp_path / "rhythm"))
    pandas.testing.assert_frame_equal(loaded.tables["tokens"], result.tables["tokens"])
    assert loaded.notes == result.notes and loaded.made["writing"]["temperature"] == 0.7
    assert loaded.figure().layout == result.figure().layout


def test_given_responses_are_read_like_written_ones(model, task, result):
    texts = ["".join(own["token"]) for _, own in result.tables["tokens"].groupby("record")]
    given = ask(model, task, responses=texts, shuffles=200, chunks=6, seed=3)
    pandas.testing.assert_frame_equal(given.tables["tokens"], result.tables["tokens"])
    assert "writing" not in given.made
    prompts = [record.prompt for record in task]
    records = [
        Record(prompt + text, spans={"response": (len(prompt) + 1, len(prompt) + len(text))})
        for prompt, text in zip(prompts, texts, strict=True)
    ]
    own = ask(model, Task("own", tuple(records)), shuffles=200, chunks=6, seed=3)
    pandas.testing.assert_frame_equal(own.table, result.table)


def test_training_looks_at_the_middle_batch_by_batch(model, task):
    found = ask(model, task, **SHORT, mode="rl", batch=2)
    heads = found.tables["heads"]
    assert heads["layer"].unique().tolist() == [1, 2] and heads["batch"].unique().tolist() == [0, 1]
    assert heads.groupby("batch")["group"].apply(lambda own: (own == "global").sum()).tolist() == [
        4,
        4,
    ]
    assert found.made["layers"] == [1, 2] and found.made["writing"]["temperature"] == 1.0
    assert found.table["depth"].tolist() == ["all"] * 3
    assert any(note.startswith("Batch 0: Local and global heads are 4") for note in found.notes)
    alone = ask(model, task, **SHORT, mode="rl", batch=2, count=2)
    own = found.tables["tokens"].query("record < 2")
    pandas.testing.assert_frame_equal(alone.tables["tokens"], own)


def test_layers_that_are_named_are_the_pool(model, task):
    found = ask(model, task, **SHORT, mode="rl", layers=[0, -1], count=1)
    assert found.tables["heads"]["layer"].unique().tolist() == [0, 3]
    assert found.tables["heads"]["group"].value_counts()["global"] == 4
    with pytest.raises(IndexError, match="layer 9 is out of range"):
        ask(model, task, **SHORT, layers=[9], count=1)


def test_top_share_of_peaks_and_a_longer_lag(model, task, result):
    found = ask(model, task, **SHORT, seed=3, peaks="top", peak_share=0.1, lag=3, receivers=2)
    tokens = found.tables["tokens"]
    assert tokens.groupby("record")["preplan"].sum().tolist() == [6] * 4
    assert found.table["density"].iloc[0] == pytest.approx(0.1)
    assert found.tables["heads"]["receiver"].sum() == 2
    assert np.allclose(tokens["waad"], result.tables["tokens"]["waad"])


def test_short_responses_say_what_is_left_out(model, task):
    found = ask(model, task, max_new_tokens=8, min_new_tokens=8, count=2, shuffles=20)
    tokens = found.tables["tokens"]
    assert tokens[["fai_v1", "fai_v2", "receiver_fai"]].isna().all(axis=None)
    assert tokens["gamma_global_v2"].eq(1).all() and not tokens["fai"].isna().any()
    assert any("FAI of v2 is left out of 2 of 2 responses" in note for note in found.notes)
    assert any("a score takes 8 chunks" in note for note in found.notes)
    two = ask(model, task, shuffles=20, temperature=0)
    assert len(two.tables["tokens"]) == 8  # an answer and its end: demo-lm says no more by itself
    assert any(note.startswith("anchor: no peaks in 8 tokens") for note in two.notes)
    row = found.table.query("statistic == 'receiver' and depth == 'all'").iloc[0]
    assert math.isnan(row["observed"]) and row["count"] == 0


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_token_ids_need_no_tokenizer(name):
    """Three rows of one prompt, one of them padded, with responses of their own lengths."""
    family = FAMILIES[name]
    model = interp.wrap(family.model())
    rows = [list(range(10, 40)), list(range(20, 50)), list(range(15, 40))]
    prompt = model.encode(rows)
    prompt.spans["response"] = prompt.mask & (torch.arange(prompt.length) >= 10)
    found = ask(model, prompt, chunks=2, shuffles=50)
    tokens = found.tables["tokens"]
    assert tokens.groupby("record").size().tolist() == [20, 20, 20]
    assert tokens["token"].tolist()[:20] == [str(token) for token in range(20, 40)]
    assert found.tables["heads"]["receiver"].any()
    alone = model.encode([rows[2]])
    alone.spans["response"] = alone.mask & (torch.arange(25) >= 5)
    trace = model.trace(alone, "pattern")
    heads = found.tables["heads"]
    chosen = heads[heads["group"] == "local"]
    mean = torch.stack(
        [
            trace["pattern", layer][0, head]
            for layer, head in zip(chosen["layer"], chosen["head"], strict=True)
        ]
    ).mean(0)
    back = (torch.arange(25)[:, None] - torch.arange(25)).clamp(0, 10)
    waad = (mean * back).sum(-1)[5:].tolist()
    assert tokens.query("record == 2")["waad"].tolist() == pytest.approx(waad, abs=1e-5)
    prompt = model.encode(torch.arange(10, 22)[None])
    written = ask(model, prompt, max_new_tokens=6, temperature=0, shuffles=20)
    assert any("sentences need a tokenizer" in note for note in written.notes)
    given = ask(model, prompt, responses=[[5, 6, 7, 8]], shuffles=20)
    assert given.tables["tokens"]["token"].tolist() == ["5", "6", "7", "8"]


def test_a_model_that_sees_an_image():
    found = ask(interp.load("demo-vlm"), Task.load("captions", count=2), max_new_tokens=20,
                min_new_tokens=20, shuffles=20, receivers=0)  # fmt: skip
    assert len(found.tables["tokens"]) == 40 and not found.tables["heads"]["receiver"].any()
    assert not any("Receiver" in note for note in found.notes)


def test_what_has_no_response_is_refused(model, task):
    prompt = model.encode("The river")
    prompt.spans["response"] = torch.zeros_like(prompt.mask)
    with pytest.raises(ValueError, match="the response of record 0 is empty"):
        ask(model, prompt)
    prompt = model.encode("Then, Mary and John went to the store.")
    prompt.spans["response"] = prompt.mask & (torch.arange(prompt.length) % 2 == 0)
    with pytest.raises(ValueError, match="is not one stretch"):
        ask(model, prompt)
    with pytest.raises(
        ValueError, match=r"horizon \[10, 50\] starts 10 tokens after a key, and the response"
    ):
        ask(model, task, max_new_tokens=5, horizon=(10, 50))
    with pytest.raises(ValueError, match=r"responses= would do nothing: record 0 comes with"):
        ask(model, prompt, responses=["a"])
    with pytest.raises(ValueError, match="temperature= would do nothing"):
        ask(model, task, responses=[" Mary"] * 4, temperature=1)
    with pytest.raises(ValueError, match="for each of 4 records"):
        ask(model, task, responses=[" Mary"])
    with pytest.raises(ValueError, match="max_new_tokens=223 would"):
        ask(model, task, max_new_tokens=300)


def test_models_without_a_rhythm_are_refused():
    for name, said in [
        ("bert", "defined for causal attention"),
        ("t5", "defined for causal attention|does not go on"),
    ]:
        family = FAMILIES[name]
        with pytest.raises(ValueError, match=said):
            ask(interp.wrap(family.model()), "w1 w2")
    with pytest.raises(ValueError, match="reads images alone"):
        ask(interp.load("demo-vit"), Task.load("digits", count=1))
    from transformers import AutoModel

    bare = interp.wrap(AutoModel.from_config(FAMILIES["llama"].tiny()).eval())
    with pytest.raises(ValueError, match="no language-model head"):
        ask(bare, bare.encode([[5, 6, 7]]))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"mode": "training"}, "no mode 'training'"),
        ({"peaks": "maximal"}, "Did you mean 'maxima'"),
        ({"peak_share": 0.1}, 'goes with peaks="top"'),
        ({"batch": 2}, 'goes with mode="rl"'),
        ({"share": 0.7}, "share=0.7"),
        ({"horizon": (5, 2)}, r"horizon \[5, 2\]"),
        ({"window": 0}, "window=0"),
        ({"temperature": -1}, "temperature=-1"),
        ({"receivers": 0, "chunks": 4}, "nothing with receivers=0"),
        ({"receivers": 30, **SHORT, "count": 1}, "Give 1 to 24"),
        ({"lag": -1}, "lag=-1"),
        ({"count": 0}, "count=0"),
        ({"credit": {"alpah": 1}}, "Did you mean 'alpha'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(model, task, settings, said):
    with pytest.raises(ValueError, match=said):
        ask(model, task, **settings)


def test_the_figure_marks_the_tokens(result):
    drawn = result.figure(record=1)
    own = result.tables["tokens"].query("record == 1")
    said = [note.text for note in drawn.layout.annotations]
    labels = drawn.layout.xaxis2.ticktext
    assert len(labels) == 60 and "open" not in drawn.layout.title.text
    assert [("<b>" in label) for label in labels] == (own["preplan"] | own["anchor"]).tolist()
    assert any("preplan" in text and "anchor" in text for text in said)
    assert list(drawn.data[1].x) == own["preplan"].to_numpy().nonzero()[0].tolist()
    part = result.figure(record=0, start=50, count=20)
    assert len(part.layout.xaxis2.ticktext) == 10 and "50 to 59 of 60" in part.layout.title.text
    with pytest.raises(LookupError, match="There are: 0, 1, 2, 3"):
        result.figure(record=9)
    with pytest.raises(IndexError, match="tokens 0 to 59"):
        result.figure(start=60)
