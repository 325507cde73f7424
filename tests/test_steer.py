"""One answer under interventions: answers are generate's, numbers are the runs' own, refusals become rows."""

import threading
import warnings

import pytest
import torch

import interp
from analyses import ANALYSES
from analyses.steer import offered
from analyses.steer.runs import heard
from interp import Hook, Record, Result, Task
from interp.interventions import INTERVENTIONS, PAI, PASTA, VAR, VCD

steer = ANALYSES["steer"]
MEND = VAR(rho=0, mass=0, layers=[1, 2, 3])
TOKENS = 4


@pytest.fixture(scope="module")
def vlm():
    return interp.load("demo-vlm", fault="parked-on-sinks")


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def colours():
    return Task.load("colour", count=2)


@pytest.fixture(scope="module")
def found(vlm, colours):
    given = {"VAR": MEND, "PAI": "PAI(alpha=0.5)", "VCD": VCD(), "PASTA": PASTA}
    return steer(vlm, colours, interventions=given, max_new_tokens=TOKENS)


def row_of(result, name, record=0):
    table = result.table
    return table[(table["intervention"] == name) & (table["record"] == record)].iloc[0]


def written(model, prompt, using=None):
    ids = model.generate(prompt, using=using, max_new_tokens=TOKENS, do_sample=False)
    return model.decode(ids, prompt)[0]


@pytest.mark.parametrize(
    ("name", "using"), [("plain", None), ("VAR", MEND), ("PAI", PAI(alpha=0.5)), ("VCD", VCD())]
)
def test_answers_are_those_of_generate(found, vlm, colours, name, using):
    for record in range(len(colours)):
        prompt = colours[record : record + 1].encode(vlm)
        assert row_of(found, name, record)["answer"] == written(vlm, prompt, using)


def test_together_is_all_of_them_left_to_right(vlm, colours):
    result = steer(vlm, colours[0], interventions=[MEND, "PAI"], max_new_tokens=TOKENS)
    with pytest.warns(interp.interventions.Conflict):
        said = written(vlm, colours[:1].encode(vlm), [MEND, PAI()])
    assert result.table["intervention"].tolist() == ["plain", "VAR", "PAI", "together"]
    assert row_of(result, "together")["answer"] == said
    assert any("VAR and PAI both rewrite" in note for note in result.notes)


def test_next_tokens_are_those_of_a_forward(found, vlm, colours):
    prompt = colours[:1].encode(vlm)
    tokens = found.tables["tokens"]
    for name, using in (("plain", None), ("VAR", MEND), ("VCD", VCD())):
        with torch.no_grad():
            chances = vlm.logits(prompt, using=using)[0, -1].softmax(-1)
        own = tokens[(tokens["record"] == 0) & (tokens["intervention"] == name)]
        assert len(own) >= 10
        for number, probability in zip(own["id"], own["probability"], strict=True):
            assert probability == pytest.approx(float(chances[number]), abs=1e-5)
        assert row_of(found, name)["probability"] == pytest.approx(float(chances.max()), abs=1e-5)


def test_heads_are_read_where_the_first_token_is_written(found, vlm, colours):
    prompt = colours[:1].encode(vlm)
    with torch.no_grad():
        before, after = (vlm.trace(prompt, "pattern", using=using) for using in (None, MEND))
    heads, image = found.tables["heads"], prompt.where("image")[0]
    own = heads[(heads["record"] == 0) & (heads["intervention"] == "VAR")]
    assert len(own) == vlm.stacks["text"].size * 8
    for row in own.to_dict("records"):
        was, now = (t["pattern", row["layer"]][0, row["head"], -1] for t in (before, after))
        assert row["moved"] == pytest.approx(float((was - now).abs().sum() / 2), abs=1e-5)
        assert row["image_before"] == pytest.approx(float(was[image].sum()), abs=1e-5)
        assert row["image_after"] == pytest.approx(float(now[image].sum()), abs=1e-5)
        assert row["first_after"] == pytest.approx(float(now[0]), abs=1e-5)
    moved = row_of(found, "VAR")["look_moved"]
    assert moved == pytest.approx(own["moved"].mean()) and moved > 0.1
    looks = found.tables["looks"]
    looks = looks[(looks["record"] == 0) & (looks["intervention"] == "VAR")]
    first = looks.iloc[0]
    assert (
        own["moved"].max()
        == own.set_index(["layer", "head"]).loc[(first["layer"], first["head"]), "moved"]
    )
    row = after["pattern", first["layer"]][0, first["head"], -1]
    assert first["after"] == pytest.approx(float(row[first["position"]]), abs=1e-5)


def test_what_is_highlighted_is_told():
    lm = interp.load("demo-lm", fault="shouted-down")
    task = Task.load("open_book", count=1, kind="where", sentences=6)
    result = steer(lm, task, interventions=PASTA(heads=["3.1", "2.0"]), max_new_tokens=2)
    heads = result.tables["heads"].set_index(["layer", "head"])
    assert result.made["told"]["span"] == "key"
    assert heads.loc[(3, 1), "span_after"] > heads.loc[(3, 1), "span_before"] + 0.05
    assert heads.loc[(0, 0), "moved"] < 1e-6
    assert heads["image_before"].isna().all()


def test_what_refuses_is_a_row_with_its_sentence(found):
    for name in ("PASTA", "together"):
        row = row_of(found, name)
        assert row["refused"] and row["answer"] == "" and row["seconds"] != row["seconds"]
    assert "no span 'key'" in row_of(found, "PASTA")["refused"]
    assert "PASTA cannot be run" in row_of(found, "together")["refused"]
    assert "PASTA" not in set(found.tables["heads"]["intervention"])


def test_where_nothing_can_be_run_that_is_said(lm, vlm, colours):
    with pytest.raises(ValueError, match="VAR: VAR acts on what a model sees"):
        steer(lm, "Mary and John went to the store.", interventions="VAR")
    with pytest.raises(LookupError, match="no span 'key'"):
        steer(vlm, colours, interventions="PASTA")


def test_what_changes_nothing_says_so(vlm, colours):
    result = steer(vlm, colours, interventions=[MEND, PAI(alpha=0.0)], max_new_tokens=TOKENS)
    idle, busy = row_of(result, "PAI"), row_of(result, "VAR")
    assert idle["inert"] and not busy["inert"]
    assert idle["token_moved"] == idle["look_moved"] == 0
    assert busy["changed"] > 0 and busy["rows"] >= busy["changed"]
    assert any(note.startswith("PAI") and "changed nothing" in note for note in result.notes)


def test_a_right_answer_begins_with_whole_words():
    from analyses.steer.tables import _begins

    assert _begins(" Yes, it is", "yes") and _begins("60", " 60")
    assert not _begins("yesterday", "yes") and not _begins("", "yes")


def test_it_says_whether_answers_are_right(found, colours):
    for record in range(len(colours)):
        row = row_of(found, "VAR", record)
        assert row["right"] == row["answer"].strip().startswith(colours[record].answers[0].strip())
        assert 0 < row["expected"] <= row["probability"] + 1e-6
    text = steer(
        interp.load("demo-lm"),
        "Mary went to the",
        interventions="ACT(layers=[1, 2])",
        max_new_tokens=2,
    )
    assert text.table["right"].isna().all()


def test_costs_are_times_of_the_plain_run(found):
    for record in (0, 1):
        plain, own = row_of(found, "plain", record), row_of(found, "VCD", record)
        assert plain["times"] == 1
        assert own["times"] == pytest.approx(own["seconds"] / plain["seconds"])
        assert own["seconds"] > 0


def test_hooks_and_names_of_ones_own(lm):
    silence = Hook("z", lambda z, at: z * 0, layers=[0, 1, 2, 3])
    result = steer(lm, Record("Then, Mary and John went to the"), interventions={"mute": silence})
    assert result.table["intervention"].tolist() == ["plain", "mute"]
    assert row_of(result, "mute")["token_moved"] > 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"interventions": None}, "no interventions; for demo-lm there are ACT"),
        ({"interventions": "PAST"}, "Did you mean 'PASTA'"),
        ({"interventions": "PASTA(alpha=7)"}, "alpha is a number from 0 to 1"),
        ({"interventions": {"plain": PAI()}}, "two things would be called 'plain'"),
        ({"interventions": "ACT", "records": 0}, "records=0"),
        ({"interventions": "ACT", "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"interventions": "ACT", "span": ""}, "span names nothing"),
    ],
)
def test_wrong_settings_are_refused(lm, given, message):
    with pytest.raises((ValueError, LookupError), match=message):
        steer(lm, "Mary went to the", **given)


def test_other_inputs_are_refused(lm):
    with pytest.raises(TypeError, match="a Task, a Record or a text"):
        steer(lm, lm.encode("Mary went"), interventions="ACT")
    with pytest.raises(ValueError, match="writes no answers"):
        steer(interp.load("demo-vit"), Task.load("digits", count=1), interventions="ACT")


def test_those_that_suit_a_kind_come_first():
    assert set(offered("text")) == {name for name, one in INTERVENTIONS.items() if one.of == "text"}
    assert set(offered("vlm")) == set(INTERVENTIONS) and offered("vlm")[-1] in offered("text")
    assert offered("vision") == []


def test_a_thread_hears_its_own_warnings_alone(monkeypatch):
    """What another thread says goes where it would have gone, and the process is as it was."""
    elsewhere = []
    monkeypatch.setattr(
        warnings, "showwarning", lambda message, *more: elsewhere.append(str(message))
    )
    before = warnings.showwarning
    with heard() as said:
        other = threading.Thread(target=warnings.warn, args=("theirs",))
        other.start()
        other.join()
        warnings.warn("ours", stacklevel=1)
    assert said == ["ours"] and elsewhere == ["theirs"] and warnings.showwarning is before


def test_saved_and_drawn(found, tmp_path):
    again = Result.load(found.save(tmp_path / "steer"))
    assert again.table.shape == found.table.shape
    assert again.table["right"].tolist() == found.table["right"].tolist()
    for settings in ({}, {"show": "tokens"}, {"show": "heads", "part": "image"}, {"record": 1}):
        assert again.figure(**settings).data
    looks = again.figure(show="looks", intervention="PAI")
    assert "under PAI" in looks.layout.title.text
    dots = [one for one in again.figure(show="tokens").data if one.name == "VAR"]
    assert max(dots[0].x) == pytest.approx(row_of(found, "VAR")["probability"])
    maps = [one for one in again.figure(show="heads").data if one.type == "heatmap"]
    assert len(maps) == 3 and maps[0].z.max() == pytest.approx(
        found.tables["heads"].query("record == 0 and intervention == 'VAR'")["moved"].max()
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"record": 9}, "record 9 is not in this result"),
        ({"show": "all"}, "one of both"),
        ({"part": "text"}, "one of moved"),
        ({"part": "span"}, "there is no span here"),
        ({"intervention": "PAY"}, "Did you mean 'PAI'"),
        ({"show": "looks", "head": "9.9"}, "no head kept '9.9'"),
    ],
)
def test_what_cannot_be_drawn_is_said(found, given, message):
    with pytest.raises((ValueError, LookupError), match=message):
        found.figure(**given)
