"""Types of heads: ideal heads by hand, and the shipped models' known ones found."""

from types import SimpleNamespace

import pandas
import pytest
import torch

import interp
from analyses import ANALYSES
from analyses.heads.answers import _first_line, _needle, _told
from analyses.heads.naming import Limits, named
from analyses.heads.words import Peak, plain
from interp import Hook, Result, Task
from interp.families import FAMILIES
from interp.metrics import METRICS
from interp.task import Record
from tests.planted import PREVIOUS, SINK, planted_ids, planted_model

heads = ANALYSES["heads"]


def looking_back(length, back):
    """Each row looks `back` places back, or at the first one where there is no such place."""
    pattern = torch.zeros(1, 1, length, length)
    for row in range(length):
        pattern[0, 0, row, max(0, row - back)] = 1
    return pattern


def test_ideal_heads_score_one():
    previous = looking_back(8, 1)
    assert float(METRICS["previous"]()(previous)) == 1
    assert list(Peak()(previous)[0, 0]) == [0, -1, -1, -1, -1, -1, -1, -1]
    # A run of 4, said twice: an ideal induction head looks 3 back, but only in the second run.
    ideal = looking_back(8, 3)
    ideal[..., :4, :] = looking_back(8, 8)[..., :4, :]
    ideal[0, 0, 3] = torch.tensor([0, 1.0, 0, 0, 0, 0, 0, 0])
    assert float(METRICS["induction"](period=4)(ideal)) == 1
    assert float(METRICS["previous"](back=3)(ideal)) == pytest.approx(4 / 5)  # S / (S + 1)
    assert float(METRICS["duplicate"](period=4)(looking_back(8, 4))) == 1


def test_even_attention_on_a_grid():
    even = torch.full((1, 1, 196, 196), 1 / 196)
    hops = METRICS["neighbours"](grid=(14, 14), form="sum")(even)[0, 0]
    assert float((hops * torch.arange(14)).sum()) == pytest.approx(6.5095, abs=1e-4)
    assert float(hops[:2].sum()) == pytest.approx(0.041649, abs=1e-6)
    away = METRICS["image_distance"](grid=(14, 14))(even)
    assert float(away.mean()) == pytest.approx(7.2808, abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma2", "bert"])
def test_peaks_are_streamed(name):
    model = interp.wrap(FAMILIES[name].model())
    ids = torch.randint(10, 120, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        trace = model.trace(ids, "pattern", keep=[Peak()])
    for layer in range(4):
        expected = trace["pattern", layer].argmax(-1) - torch.arange(20)
        assert torch.equal(trace["peak", layer], expected.float())


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def ioi(lm):
    return heads(lm, Task.load("ioi", count=20), length=20)


@pytest.fixture(scope="module")
def book(lm):
    return heads(lm, Task.load("open_book", count=20), length=20, weights=False)


@pytest.fixture(scope="module")
def seen():
    return heads(interp.load("demo-vlm"), Task.load("colour", count=20), samples=2)


@pytest.fixture(scope="module")
def digits():
    return heads(interp.load("demo-vit"), Task.load("digits", count=8), samples=2)


def at(result, layer, head):
    return result.table[(result.table["layer"] == layer) & (result.table["head"] == head)].iloc[0]


def test_the_known_heads_of_demo_lm(ioi):
    table = ioi.table
    assert len(table) == 32 and table["previous"].idxmax() == 11  # 1.3; guided was 0.0
    assert at(ioi, 0, 0)["previous"] > 0.8 and at(ioi, 0, 0)["type"] == "previous token"
    for layer, head in ((2, 0), (2, 2), (3, 4), (3, 5), (3, 6), (3, 7)):
        found = at(ioi, layer, head)
        assert found["induction"] > 0.4 and found["type"] == "induction"
    assert (table["induction"] > 0.4).sum() == 6
    assert "sink" in at(ioi, 2, 0)["types"] and at(ioi, 2, 0)["sink"] > 0.9
    assert at(ioi, 3, 3)["type"] == "sink"


def test_movers_copy_what_they_look_at(ioi):
    for head in (4, 5, 6, 7):
        found = at(ioi, 3, head)
        assert found["answer"] > 0.4 and found["name_copy"] > 0.9 and "mover" in found["types"]
    against = at(ioi, 2, 1)
    assert against["negative_copy"] > 0.9 and against["copying"] < -0.5
    assert "mover" not in against["types"]  # it writes against names, but does not look at this one


def test_composition_of_previous_and_induction_heads(ioi):
    pairs = ioi.tables["composition"]
    assert set(pairs["kind"]) == {"Q", "K", "V"} and len(pairs) == 60
    assert (pairs["earlier_layer"] < pairs["later_layer"]).all()
    score = ioi.tensors["composition K"]
    assert score.shape == (4, 8, 4, 8)
    own = score[0, 0, 2, [0, 2]].mean()
    rest = score[score.isfinite()]
    assert float((rest < own).float().mean()) > 0.8
    note = next(note for note in ioi.notes if note.startswith("K-composition of previous-token"))
    assert "of all pairs" in note


def test_notes_say_what_was_done_and_left_out(ioi):
    text = " ".join(ioi.notes)
    assert "4 rows of 20, said twice, after <bos>" in text and "says 100% right" in text
    assert "image (and vhd) was left out" in text and "20 of 20 answers" in text
    assert ioi.made["settings"]["length"] == 20 and not {"image", "vhd"} & set(ioi.table)


def test_retrieval_of_the_span_that_holds_the_answer(lm, book):
    assert at(book, 2, 0)["retrieval"] >= 0.5 and at(book, 1, 3)["retrieval"] == 0
    assert "copying" not in book.table and "composition" not in book.tables
    task = Task.load("open_book", count=6)
    whole = heads(lm, task, length=5, weights=False, needle="key")
    # Of a sentence of many tokens one is written, and an answer says less than half of it.
    assert "retrieval" not in whole.table
    assert any("0 of 6 answers" in note for note in whole.notes)
    written = Task.load("open_book", count=6, ask="evidence")
    found = heads(lm, written, length=5, weights=False, needle="key")
    assert found.table["retrieval"].max() > 0.1  # the value of seven tokens; grammar needs no look
    with pytest.raises(LookupError, match="no span 'keys'. Did you mean 'key'"):
        heads(lm, task, length=5, weights=False, needle="keys")


def test_needles_and_answers_by_hand():
    record = Record("Ann has a red hat. A red", (" red",), spans={"hat": (8, 17), "said": (0, 18)})
    assert _needle(record, None).text == "red" and _needle(record, None).nth == 0
    assert _needle(record, "hat").text == "a red hat"
    assert _needle(Record("Who?", (" red",)), None) is None
    written = torch.tensor([[False, True, True, True, True]])
    whole = SimpleNamespace(
        tokens=[["Q", " a", " red", "\n", " hat"]], spans={}, where=lambda name: written.clone()
    )
    assert _first_line(whole).spans["response"][0].tolist() == [False, True, True, False, False]
    assert _told(whole, ["a red hat"]).item() and not _told(whole, ["blue or green"]).item()


def test_heads_that_an_image_moves(seen):
    table = seen.table
    best = table.sort_values("image", ascending=False).head(8)
    assert set(best["layer"]) <= {1, 2} and (best["image"] > 0.9).all()
    for head in (0, 3, 5):  # guided to look at the object
        assert at(seen, 1, head)["image"] > 0.9 and at(seen, 1, head)["type"] == "visual"
    moved = table.groupby("layer")["vhd"].mean()
    assert moved[0] < moved[1] and moved[0] < moved[2]  # the image reaches the last token through 1
    assert (table["vhd_kept"] <= table["vhd"]).all()
    assert not {"answer", "retrieval", "duplicate_text"} & set(table)
    text = " ".join(seen.notes)
    assert "77% of the tokens are the image's" in text and "movers) was left out" in text


def test_vhd_is_what_it_says(seen):
    model, task = interp.load("demo-vlm"), Task.load("colour", count=1)
    one = heads(model, task, length=5, weights=False)
    prompt, kept = task.encode(model), []
    bare = prompt.ids[:, ~prompt.where("image")[0]]
    hook = Hook("z", lambda z, at: kept.append(z[0, -1].clone()), layers=[2])
    with torch.no_grad():
        model.logits(prompt, hooks=hook)
        model.logits(bare, hooks=hook)
    expected = (kept[0] - kept[1]).norm(dim=-1)
    found = torch.tensor(one.table.loc[one.table["layer"] == 2, "vhd"].to_numpy())
    assert torch.allclose(found.float(), expected, atol=1e-5)


def test_vision_towers(digits):
    table = digits.table
    assert len(table) == 16 and (table["types"].str.contains("local")).sum() == 4
    assert (
        table.loc[table["types"].str.contains("local"), "distance"].max()
        < table["distance"].median()
    )
    profile = digits.tables["profile"]
    whole = profile.groupby(["layer", "head"])["sum"].sum()
    assert (whole - 1).abs().max() < 1e-5 and len(profile) == 16 * 8
    assert not {"induction", "sink", "copying"} & set(table) and "composition" in digits.tables
    inside = heads(interp.load("demo-vlm"), Task.load("colour", count=4), stack="vision", samples=0)
    assert at(inside, 1, 3)["near"] > 0.4 and "neighbours" in at(inside, 1, 3)["types"]


def test_without_a_task_and_without_a_tokenizer():
    model = interp.wrap(FAMILIES["llama"].model())
    result = heads(model, length=200, samples=2)  # 256 positions hold 126 words twice
    text = " ".join(result.notes)
    assert "4 rows of 126, said twice, after nothing. The model's 256 positions" in text
    assert "There are 125 words" in text and "No task was given" in text
    assert {"previous", "sink", "span", "copying"} <= set(result.table)
    assert "shows it at length=None" in text
    both = heads(interp.wrap(FAMILIES["bert"].model()), length=10, samples=0)
    assert "copying was left out" in " ".join(both.notes) and "both ways" in " ".join(both.notes)


def test_texts_and_prompts_are_tasks_without_answers(lm):
    for task in (["We found the song great.", "Say after me:"], lm.encode("Say after me: Monday")):
        result = heads(lm, task, length=5, weights=False)
        assert "sink" in result.table and "answer" not in result.table
        assert "retrieval was left out" in " ".join(result.notes)


def test_random_words_are_words(lm):
    ids = plain(lm)
    assert not set(lm.tokenizer.all_special_ids) & set(ids) and max(ids) < len(lm.tokenizer)
    vlm = interp.load("demo-vlm")
    assert vlm.config.image_token_id not in plain(vlm)


def test_the_same_again(lm, ioi):
    again = heads(lm, Task.load("ioi", count=20), length=20)
    pandas.testing.assert_frame_equal(again.table, ioi.table)
    pandas.testing.assert_frame_equal(again.tables["composition"], ioi.tables["composition"])
    other = heads(lm, Task.load("ioi", count=4), length=20, seed=1, weights=False)
    assert (other.table["induction"] != ioi.table["induction"]).any()


def test_batches_do_not_matter(lm, ioi):
    alone = heads(lm, Task.load("ioi", count=20), length=20, batch=3, pairs=0)
    for column in ("sink", "span", "answer", "name_copy", "retrieval", "confidence", "positional"):
        assert (alone.table[column] - ioi.table[column]).abs().max() < 1e-5, column


def test_saved_and_drawn(ioi, seen, digits, tmp_path):
    for name, result in {"ioi": ioi, "seen": seen, "digits": digits}.items():
        again = Result.load(result.save(tmp_path / name))
        pandas.testing.assert_frame_equal(again.table, result.table)
        figure = again.figure()
        said = [note.text for note in figure.layout.annotations]
        assert len(said) == len(result.table) and "What each head of" in figure.layout.title.text
    assert any(
        "induction" in each for each in (note.text for note in ioi.figure().layout.annotations)
    )
    few = ioi.figure(most=6)
    assert "scores of the 6 strongest" in few.layout.title.text
    assert set(few.data[1].y) <= {"2.0", "2.2", "3.4", "3.5", "3.6", "3.7"}


def test_labels_by_hand():
    rows = [
        {"previous": 0.9, "sink": 0.95, "span": 1.0},
        {"induction": 0.3, "sink": 0.9, "span": 2.0},
        {"answer": 0.6, "negative_copy": 0.5, "span": 3.0},
        {"retrieval": 0.2, "image": 0.15, "span": 4.0},
        {"sink": 0.3, "positional": 0.9, "span": 5.0},
        {"duplicate": 0.2, "span": 6.0},
    ]
    table = pandas.DataFrame(rows).fillna(0.0)
    table.insert(0, "layer", 0)
    table.insert(1, "head", range(6))
    found = named(table, Limits(0.5, 0.2, 0.3, 0.2))
    assert list(found["types"]) == [
        "previous token, sink, local",
        "sink, induction (weak)",
        "negative mover",
        "retrieval (weak)",
        "positional",
        "global",
    ]
    assert list(found["type"])[3:] == ["retrieval (weak)", "positional", "global"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strong": 0.1}, "0 < weak <= strong"),
        ({"quantile": 0.7}, "at most half"),
        ({"length": 1}, "length=1: give at least 2"),
        ({"samples": -1}, "samples=-1: give at least 0"),
        ({"offsets": ()}, "names none"),
    ],
)
def test_settings_are_checked(lm, given, message):
    with pytest.raises(ValueError, match=message):
        heads(lm, **given)


def test_refusals():
    with pytest.raises(ValueError, match="is of kind 'audio'"):
        heads(interp.wrap(FAMILIES["whisper"].model()))
    with pytest.raises(ValueError, match="is shown images, and no task was given"):
        heads(interp.load("demo-vit"))
    with pytest.raises(ValueError, match="reads no text without an image"):
        heads(interp.wrap(FAMILIES["blip-2"].model()))
    with pytest.raises(ValueError, match="Stacks that can be asked: encoder"):
        heads(interp.wrap(FAMILIES["t5"].model()), stack="cross")


def test_without_a_length_the_longest_that_the_model_repeats_is_taken():
    result = heads(interp.load("demo-lm"), weights=False)
    assert "Random words: 4 rows of 20, said twice, after <bos>." in result.notes
    scores = result.table.set_index(["layer", "head"])
    assert scores.loc[(0, 0), "previous"] > 0.8
    found = scores.index[scores["induction"] > 0.4].tolist()
    assert found == [(2, 0), (2, 2), (3, 4), (3, 5), (3, 6), (3, 7)]
    early = heads(interp.load("demo-lm-before-induction"), weights=False)
    assert early.table["induction"].max() < 0.4
    assert any("No length down to 10 did better than half" in note for note in early.notes)


def test_planted_heads_are_named_and_no_other_is():
    model = interp.wrap(planted_model())
    table = heads(model, model.encode(planted_ids()), length=20).table
    table = table.set_index(["layer", "head"])
    assert table.loc[PREVIOUS, "type"] == "previous token" and table.loc[SINK, "type"] == "sink"
    others = table.drop(index=[PREVIOUS, SINK])
    assert set(others["type"]) <= {
        "other",
        "local",
        "global",
    }  # shares of all heads, whatever they do
