"""Heads that emerge between checkpoints: on a model with heads planted between two, and on shipped ones."""

import copy
import random
import weakref

import pytest
import torch
from known_models import FIRST, SECOND, SIZE, redundant_model

import interp
from analyses import ANALYSES
from analyses.__main__ import main
from analyses.emergent_heads import asked
from analyses.emergent_heads.judging import scaled
from analyses.emergent_heads.tables import _effect
from interp import Hook, plots
from interp.families import FAMILIES
from interp.pairs import pairs
from interp.scoring import score
from interp.task import Record, Task

emergent_heads = ANALYSES["emergent_heads"]
BEFORE, AFTER = "demo-lm-before-induction", "demo-lm-after-induction"


def without(known, heads):
    """The known model before these heads came: what they write is 0."""
    hf = copy.deepcopy(known.model.hf)
    for layer, head in heads:
        rows = slice(head * SIZE, (head + 1) * SIZE)
        hf.transformer.h[layer].attn.c_proj.weight.data[rows] = 0
    return interp.wrap(hf, known.model.tokenizer)


def having(result, status, task=None):
    table = result.table if task is None else result.table[result.table["task"] == task]
    some = table[table["status"] == status]
    return {(int(one), int(two)) for one, two in zip(some["layer"], some["head"], strict=True)}


def conditions(result, task):
    tests = result.tables["tests"]
    return tests[tests["task"] == task].set_index("condition")


@pytest.fixture(scope="module")
def planted():
    known = redundant_model()
    return known, without(known, [FIRST, SECOND]), without(known, [SECOND])


@pytest.fixture(scope="module")
def induction():
    return Task.load("induction", count=40, split="test")


@pytest.fixture(scope="module")
def grown(induction):
    model = interp.load(AFTER)
    sentiment = Task.load("sentiment", count=20, split="test")
    return model, emergent_heads(model, [induction, sentiment], before=BEFORE, draws=6)


def looking_behind(model, length=15, count=20):
    """Of each head, the mean attention from a repeated word to what followed it before."""
    task = Task.load("induction", count=200)
    words = sorted({word for one in task for word in one.prompt.split()})
    chance = random.Random(5)
    rows = [chance.sample(words, length) for _ in range(count)]
    prompt = model.encode([" ".join([*row, *row]) for row in rows])
    with torch.no_grad():
        trace = model.trace(prompt, "pattern")
    begin = prompt.length - 2 * length
    found = {}
    for layer in trace.layers("pattern"):
        pattern = trace["pattern", layer]
        places = torch.arange(begin + length, prompt.length)
        mean = pattern[:, :, places, places - length + 1].mean((0, 2))
        found |= {(layer, head): float(value) for head, value in enumerate(mean)}
    return found


def test_heads_that_look_behind_a_repeated_word_emerge(grown):
    model, result = grown
    heads = {head for head, value in looking_behind(model).items() if value > 0.8}
    assert heads == {(2, 0), (2, 2)}
    assert heads <= having(result, "emergent", "induction")
    assert not having(result, "retained", "induction")
    rows = result.table[result.table["status"] == "emergent"]
    assert set(rows["first"]) == {AFTER}
    # They looked there before, and did as much of the little that the first checkpoint could do.
    earlier = looking_behind(interp.load(BEFORE))
    assert all(earlier[head] > 0.7 for head in heads)
    own = result.table.set_index(["task", "layer", "head"]).loc["induction"]
    assert own.loc[sorted(heads), "grew"].all()
    assert (own.loc[sorted(heads), "after"] > 3 * own.loc[sorted(heads), "before"]).all()
    assert any("they grew, rather than came new" in note for note in result.notes)


def test_heads_that_come_to_look_there_later_emerge_in_the_last_checkpoint(induction):
    model = interp.load("demo-lm")
    now, earlier = looking_behind(model), looking_behind(interp.load(BEFORE))
    new = {head for head, value in now.items() if value > 0.8 and earlier[head] < 0.3}
    assert new == {(3, 4), (3, 5), (3, 6), (3, 7)}
    result = emergent_heads(
        model, induction[:24], before=[BEFORE, AFTER], least=0.05, draws=0, scales=()
    )
    assert new <= having(result, "emergent")
    own = result.table.set_index(["layer", "head"])
    assert set(own.loc[sorted(new), "first"]) == {"demo-lm"}
    assert not own.loc[sorted(new), "grew"].any()
    # Each can do without: only together are they missed.
    parts = dict(result.tables["parts"][["heads", "accuracy"]].to_numpy().tolist())
    assert min(parts[f"{layer}.{head}"] for layer, head in new) >= 0.8
    assert parts["3.4, 3.5, 3.6, 3.7"] <= 0.3


def test_without_the_emergent_heads_the_gain_is_gone(grown):
    tests = conditions(grown[1], "induction")
    assert float(tests.loc["plain", "accuracy"]) >= 0.8  # pyright: ignore[reportArgumentType]
    assert tests.loc[BEFORE, "accuracy"] <= 0.1
    assert tests.loc["emergent silenced", "accuracy"] <= 0.1
    assert tests.loc["emergent silenced", "removed"] > 0.9
    assert abs(tests.loc["random silenced", "removed"]) < 0.25
    draws = grown[1].tables["draws"]
    own = draws[draws["task"] == "induction"]
    assert len(own) == 6 and not own["as_much"].any()
    half, more = tests.loc["emergent x 0.5"], tests.loc["emergent x 1.3"]
    assert half["metric"] < tests.loc["plain", "metric"] < more["metric"]


def test_a_task_without_a_gain_is_said_to_have_none(grown):
    tests = conditions(grown[1], "sentiment")
    assert abs(tests.loc["plain", "accuracy"] - tests.loc[BEFORE, "accuracy"]) <= 0.1
    assert tests["removed"].isna().all()
    assert any("sentiment" in note and "not told from chance" in note for note in grown[1].notes)
    # What emerged for repeats is not what answers here.
    alone = tests.loc["emergent for induction silenced"]
    assert having(grown[1], "retained", "sentiment")
    assert tests.loc["retained silenced", "accuracy"] < tests.loc["plain", "accuracy"]
    assert alone["heads"] == len(having(grown[1], "emergent", "induction"))


def test_both_halves_are_apart_and_accuracies_are_those_of_score(grown, induction):
    finding, judging = asked.halves("induction", induction, 0)
    assert {one.prompt for one in finding}.isdisjoint(one.prompt for one in judging)
    assert len(finding) + len(judging) == len(induction)
    model, result = grown
    rows = score(model, judging)
    tests = conditions(result, "induction")
    assert tests.loc["plain", "accuracy"] == pytest.approx(rows["right"].mean())
    assert tests.loc["plain", "metric"] == pytest.approx(rows["difference"].mean(), abs=1e-4)
    silent = scaled(model, having(result, "emergent", "induction"), 0.0)
    rows = score(model, judging, hooks=silent)
    assert tests.loc["emergent silenced", "accuracy"] == pytest.approx(rows["right"].mean())


def test_importances_are_exact(grown, induction):
    """One head's effect, both ways, by a hook written out."""
    model, result = grown
    finding, _ = asked.halves("induction", induction, 0)
    layer, head = max(having(result, "emergent", "induction"))
    effects, changes = {"noise": [], "denoise": []}, []
    for pair in pairs(model, finding, "test"):
        metric = pair.metric(model)
        with torch.no_grad():
            clean, other = metric(model.logits(pair.clean)), metric(model.logits(pair.corrupted))
            for way, into, source in (
                ("noise", pair.clean, pair.corrupted), ("denoise", pair.corrupted, pair.clean)
            ):  # fmt: skip
                taken = model.trace(source, "z")["z", layer][:, :, [head]]
                put = Hook("z", lambda z, at, taken=taken: taken, layer, heads=[head])
                patched = metric(model.logits(into, hooks=put))
                effects[way].append(clean - patched if way == "noise" else patched - other)
        changes.append(clean - other)
    change = float(torch.cat(changes).mean())
    means = [float(torch.cat(values).mean()) / change for values in effects.values()]
    own = result.table.set_index(["task", "layer", "head"]).loc[("induction", layer, head)]
    assert own["after"] == pytest.approx(max(means, key=abs), abs=1e-5)
    assert own["after_low"] < own["after"] < own["after_high"]


def test_planted_heads_emerge_though_they_back_each_other_up(planted):
    known, bare, _ = planted
    result = emergent_heads(known.model, known.task, before=bare, draws=10)
    assert having(result, "emergent") == known.heads
    assert not having(result, "retained") | having(result, "lost")
    own = result.table.set_index(["layer", "head"])
    assert own.loc[[FIRST, SECOND], "after"].tolist() == pytest.approx([1, 1], abs=1e-3)
    tests = conditions(result, "redundant")
    assert tests["accuracy"].iloc[0] == 1.0 and tests["removed"].iloc[0] == 0
    assert tests.loc["emergent silenced", "accuracy"] == tests["accuracy"].iloc[-1]
    assert tests.loc["emergent silenced", "metric"] == pytest.approx(0, abs=1e-3)
    assert tests.loc["random silenced", "accuracy"] == 1.0
    # Either of them is enough: alone neither costs anything.
    parts = result.tables["parts"].set_index("heads")
    assert set(parts.index) == {f"{layer}.{head}" for layer, head in known.heads}
    assert set(parts["accuracy"].tolist()) == {1.0}
    # Corrupting one is made up for by the other.
    blind = emergent_heads(known.model, known.task, before=bare, direction="noise")
    assert not having(blind, "emergent")
    assert any("back each other up" in note for note in blind.notes)
    assert not len(blind.tables["draws"])


def test_a_series_tells_when_a_head_came(planted):
    known, bare, half = planted
    result = emergent_heads(known.model, known.task, before=[bare, half], draws=2)
    own = result.table.set_index(["layer", "head"])
    names = list(result.made["checkpoints"])
    assert len(set(names)) == 3 and names[-1] == known.model.name
    assert [own.loc[head, "first"] for head in (FIRST, SECOND)] == names[1:]
    assert own.loc[FIRST, "frequency"] == pytest.approx(2 / 3)
    assert own.loc[SECOND, "frequency"] == pytest.approx(1 / 3)
    # Shares of the importance: 0, 1, 1/2 and 0, 0, 1/2.
    assert own.loc[FIRST, "effect"] == pytest.approx((1 - 1 / 3) / 2, abs=1e-2)
    assert own.loc[SECOND, "effect"] == pytest.approx(1, abs=1e-2)
    assert result.tables["checkpoints"]["heads"].tolist() == [0, 1, 2]
    back = emergent_heads(half, known.task, before=known.model, draws=2)
    assert having(back, "lost") == {SECOND} and having(back, "retained") == {FIRST}
    gone = emergent_heads(half, known.task, before=[bare, known.model], draws=2)
    assert having(gone, "neither") >= {SECOND}
    assert any("In circuits only in between: 2.4" in note for note in gone.notes)


def test_effect_by_hand():
    assert _effect([0.1, 0.3]) == pytest.approx(0.2 / 0.4, abs=1e-5)
    assert _effect([0.1, 0.3, 0.0]) == pytest.approx(-1, abs=1e-4)


@pytest.mark.parametrize("metric", ["logit_diff", "kl"])
def test_estimates_find_the_planted_heads(planted, metric, tmp_path):
    known, bare, _ = planted
    result = emergent_heads(known.model, known.task, before=bare, method="eap_ig", edges=12,
                            metric=metric, draws=2, scales=())  # fmt: skip
    assert having(result, "emergent") == known.heads
    assert set(result.tables["membership"]["estimate"].tolist()) == {True}
    again = interp.Result.load(result.save(tmp_path / "found"))
    assert having(again, "emergent") == known.heads
    assert set(again.table["grew"].isna().tolist()) == {
        True
    }  # estimates have no intervals to tell it by
    assert any("estimates (EAP-IG)" in note for note in result.notes)
    assert not any(name.startswith("emergent x") for name in result.tables["tests"]["condition"])


def test_shipped_checkpoints_are_let_go_of(planted, monkeypatch):
    known, bare, half = planted
    ready = {"one": bare.hf, "two": half.hf}
    opened = []

    def load(name, **more):
        assert not [one for one in opened if one() is not None], "two are held at once"
        model = interp.wrap(copy.deepcopy(ready[name]), known.model.tokenizer)
        opened.append(weakref.ref(model.hf))
        return model

    monkeypatch.setattr(asked, "load", load)
    result = emergent_heads(known.model, known.task, before=["one", "two"], draws=1)
    assert len(opened) == 2
    assert having(result, "emergent") == known.heads


def test_refusals(planted, word_tokenizer):
    known, bare, _ = planted
    model, task = known.model, known.task

    def refused(error, said, task=task, before=bare, **settings):
        with pytest.raises(error, match=said):
            emergent_heads(model, task, before=before, **settings)

    refused(ValueError, "same weights", before=model)
    refused(ValueError, "same weights", before=[bare, without(known, [FIRST, SECOND])])
    refused(ValueError, "no checkpoint of", before=interp.wrap(FAMILIES["llama"].model()))
    other = interp.wrap(without(known, [FIRST]).hf, word_tokenizer)
    refused(ValueError, "another vocabulary", before=other)
    training = without(known, [FIRST])
    training.hf.train()
    refused(ValueError, "training mode", before=training)
    refused(ValueError, "names no earlier", before=[])
    refused(TypeError, "a Model, a shipped name", before=3)
    refused(LookupError, "Did you mean 'demo-lm-before", before="demo-lm-befor-induction")
    refused(ValueError, "give 4 at least", task=task[:3])
    refused(TypeError, "takes a Task", task="some words")
    refused(ValueError, "one name", task=[task, task])
    refused(LookupError, "no method 'sweeps'", method="sweeps")
    refused(LookupError, "no direction", direction="up")
    refused(LookupError, "no metric", metric="logits")
    refused(ValueError, "of method='eap_ig'", metric="kl")
    refused(ValueError, "of method='eap_ig'", edges=5)
    refused(ValueError, "of method='sweep'", method="eap_ig", direction="noise")
    refused(ValueError, "least=0", least=0)
    refused(ValueError, "draws=-1", draws=-1)
    refused(ValueError, "multiplied", scales=(-1.0,))
    same = tuple(
        Record(one.prompt, one.answers, one.wrong, counterfactual=one.prompt) for one in task
    )
    refused(ValueError, "do not change the metric", task=Task("same", same))
    bare_task = Task("bare", tuple(Record(one.prompt, one.answers, one.wrong) for one in task))
    refused(ValueError, "no counterfactual", task=bare_task)


def test_the_figure_holds_every_panel(grown):
    result = grown[1]
    drawn = plots.emergent_heads(result).to_dict()
    kinds = [trace["type"] for trace in drawn["data"]]
    assert kinds == ["heatmap", "heatmap", "bar"] * 2
    letters = [cell for row in drawn["data"][1]["text"] for cell in row]
    assert letters.count("E") == len(having(result, "emergent", "induction"))
    assert not any(cell for row in drawn["data"][0]["text"] for cell in row)
    shown = list(drawn["data"][2]["y"])
    assert shown[0] == "plain" and BEFORE in shown


def test_by_command(tmp_path, capsys):
    out = str(tmp_path / "grown")
    line = ["emergent_heads", "--model", AFTER, "--before", BEFORE, "--task", "induction"]
    more = ["--count", "8", "--split", "test", "--draws", "2", "--scales", "0.5", "--out", out]
    assert main([*line, *more]) == 0
    assert "held-out records are few" in capsys.readouterr().out
    result = interp.Result.load(out)
    assert list(result.made["checkpoints"]) == [BEFORE, AFTER]
    assert "emergent x 0.5" in set(result.tables["tests"]["condition"])
