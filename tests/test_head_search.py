"""The search for heads: its numbers, its rules, going on after a kill; sink dimensions as a finding."""

import itertools
import json
from dataclasses import dataclass

import pytest
import torch

import interp
from interp.interventions import ACT, PAI, PASTA, VAR
from interp.steering.found import Found
from interp.steering.search import find_heads, sink_dims
from interp.steering.stages import sets_of, tried
from interp.steering.trials import Score, Trials


def book(count, seed=0, **settings):
    own = {"kind": "where", "sentences": 12, **settings}
    return interp.Task.load("open_book", count=count, split="train", seed=seed, **own)


@pytest.fixture(scope="module")
def shouted():
    return interp.load("demo-lm", fault="shouted-down")


@pytest.fixture(scope="module")
def task():
    return book(16)


@pytest.fixture(scope="module")
def late(shouted, task):
    return find_heads(shouted, task, PASTA(layers=[2, 3]), top=5)


def scored(model, task, using=None):
    table = interp.score(model, task, using=using)
    return float(table["right"].mean()), float(table["probability"].mean())


def test_each_head_has_the_score_that_it_has_by_hand(shouted, task, late):
    table = late.how["scores"][0]
    assert [row["heads"] for row in table].count([[3, 1]]) == 1 and len(table) == 16
    for row in table[::3]:
        ((layer, head),) = row["heads"]
        accuracy, probability = scored(shouted, task, PASTA(heads=[(layer, head)]))
        assert row["accuracy"] == pytest.approx(accuracy)
        assert row["probability"] == pytest.approx(probability, abs=1e-5)
    plain = late.how["baseline"][0]
    assert (plain["accuracy"], plain["probability"]) == pytest.approx(scored(shouted, task))
    order = [(-row["accuracy"], -row["probability"], row["heads"]) for row in table]
    assert order == sorted(order)
    assert late.value == [row["heads"][0] for row in table[:5]]
    assert late.how["digest"] == [task.digest] and late.how["records"] == [16]


def test_acts_rule_keeps_what_beats_the_plain_model(shouted, task, late):
    found = find_heads(shouted, task, PASTA(layers=[2, 3]))
    plain = late.how["baseline"][0]["accuracy"]
    better = [row["heads"][0] for row in late.how["scores"][0] if row["accuracy"] > plain]
    assert found.value == better and 0 < len(better) < 16
    by = find_heads(shouted, task, PASTA(layers=[3]), by="probability", top=8)
    chances = [row["probability"] for row in by.how["scores"][0]]
    assert chances == sorted(chances, reverse=True)


def test_heads_that_are_found_mend_other_records(shouted, late):
    others = interp.Task.load("open_book", count=60, split="validation", kind="where", sentences=12)
    before = scored(shouted, others)[0]
    assert scored(shouted, others, PASTA(heads=late))[0] > before + 0.4


def test_heads_of_several_tasks_are_in_every_list(shouted, task):
    tasks = {"where": task, "who": book(16, kind="who")}
    found = find_heads(shouted, tasks, PASTA(layers=[2, 3]), method="tasks", top=8)
    lists = []
    for table in found.how["scores"]:
        lists.append([tuple(row["heads"][0]) for row in table[:8]])
    assert {tuple(one) for one in found.value} == set(lists[0]) & set(lists[1])
    assert [tuple(one) for one in found.value] == [one for one in lists[0] if one in lists[1]]
    with pytest.raises(ValueError, match="among the best of every task"):
        apart = [[one] for one in lists[0] if one not in lists[1]]
        assert apart, "the lists are the same: this test says nothing"
        find_heads(shouted, tasks, PASTA(heads=[*apart[0], *set(lists[1]) - set(lists[0])]),
                   method="tasks", top=1)  # fmt: skip


def test_coarse_to_fine(shouted, task):
    dev = book(8, seed=3)
    method = PASTA(layers=[1, 2, 3])
    found = find_heads(shouted, task[:8], method, method="coarse to fine", dev=dev)
    how = found.how
    layers = [row["heads"][0][0] for row in how["layers scores"]]
    assert len(layers) == 3 and all(len(row["heads"]) == 8 for row in how["layers scores"])
    assert len(how["heads scores"]) == 24 and how["dev digest"] == dev.digest
    best = how["sets scores"][0]
    assert sorted(found.value) == sorted(best["heads"])
    assert best["accuracy"] == max(row["accuracy"] for row in how["sets scores"])
    given = [tuple(one) for one in best["heads"]]
    accuracy, probability = scored(shouted, dev, PASTA(heads=given))
    assert (best["accuracy"], best["probability"]) == pytest.approx((accuracy, probability))
    whole = how["layers scores"][0]
    every = [(layers[0], head) for head in range(8)]
    assert whole["accuracy"] == pytest.approx(scored(shouted, task[:8], PASTA(heads=every))[0])
    order = [row["heads"][0] for row in how["heads scores"]]
    assert found.value == [head for head in order if head in best["heads"]]


def test_the_sets_that_coarse_to_fine_chooses_from():
    """All that the rule names, spelled out; sizes that name the same set count once."""
    layers = [5, 2, 9, 7, 1, 4]
    chance = torch.Generator().manual_seed(0)
    heads = [(layer, head) for layer, head in itertools.product(layers, range(24))]
    heads = [heads[place] for place in torch.randperm(144, generator=chance).tolist()]
    expected = set()
    for count in (3, 4, 5, 6):
        own = layers[:count]
        for size in (4, 6, 8):
            chosen = []
            for layer in own:
                chosen += [head for head in heads if head[0] == layer][:size]
            expected.add(frozenset(chosen))
        for size in (16, 24, 32, 64):
            expected.add(frozenset([head for head in heads if head[0] in own][:size]))
    found = [frozenset(one) for one in sets_of(layers, heads)]
    assert set(found) == expected and len(found) == len(expected) == 28
    small = list(sets_of([1, 0], [(1, 0), (0, 1), (0, 0), (1, 1)]))
    assert small == [((0, 0), (0, 1), (1, 0), (1, 1))]


def test_ties_are_broken_by_the_other_measure_then_by_place():
    scores = {(0, 1): (0.5, 0.3), (1, 0): (0.5, 0.4), (0, 0): (0.5, 0.3), (2, 2): (0.6, 0.1)}

    class Stub:
        def under(self, heads):
            return Score(*scores[heads[0]])

    class Bar:
        def update(self):
            pass

    sets = [(one,) for one in scores]
    for by, order in (
        ("accuracy", [(2, 2), (1, 0), (0, 0), (0, 1)]),
        ("probability", [(1, 0), (0, 0), (0, 1), (2, 2)]),
    ):
        assert [heads[0] for heads, _ in tried(Stub(), sets, by, Bar())] == order


class Killed(Exception):
    pass


def test_a_killed_search_goes_on(shouted, task, late, tmp_path, monkeypatch):
    path, method = tmp_path / "heads.jsonl", PASTA(layers=[2, 3])
    under, calls = Trials._under, []

    def dies(self, heads):
        calls.append(heads)
        if len(calls) == 6:
            raise Killed
        return under(self, heads)

    monkeypatch.setattr(Trials, "_under", dies)
    with pytest.raises(Killed):
        find_heads(shouted, task, method, top=5, save=path)
    assert len(path.read_text().splitlines()) == 6  # the plain model, and five heads
    with path.open("a") as file:
        file.write('{"of": "ab')  # killed while it wrote
    again = find_heads(shouted, task, method, top=5, save=path)
    assert len(calls) == 6 + 11 and again == late and again.how["scores"] == late.how["scores"]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(rows) == 17
    monkeypatch.setattr(
        Trials, "_under", lambda self, heads: [calls.append(heads), under(self, heads)][1]
    )
    calls.clear()
    find_heads(shouted, task, method, by="probability", save=path)  # the same measurements
    assert not calls
    find_heads(shouted, task[:8], PASTA(layers=[3]), top=2, save=path)  # other records
    assert len(calls) == 8
    calls.clear()
    find_heads(shouted, task[:8], PASTA(layers=[3], alpha=0.1), top=2, save=path)
    assert len(calls) == 8
    path.write_text("something else\n")
    with pytest.raises(ValueError, match="line 1 is no measurement of heads"):
        find_heads(shouted, task, method, save=path)


def test_act_is_searched_in_its_own_layers(task):
    model = interp.load("demo-lm")
    found = find_heads(model, task[:8], ACT(alpha=1.0), top=3)
    assert {row["heads"][0][0] for row in found.how["scores"][0]} == {2}
    assert len(found.how["scores"][0]) == 8
    only = find_heads(model, task[:8], ACT(alpha=1.0, heads=[(1, 2), (3, 0)]), top=1)
    assert {tuple(row["heads"][0]) for row in only.how["scores"][0]} == {(1, 2), (3, 0)}


def test_a_finding_is_of_its_model(shouted, task, late, tmp_path):
    path = late.save(tmp_path / "heads.json")
    again = Found.load(path)
    assert again == late and again.how == late.how
    prompt = task.encode(shouted)
    with torch.no_grad():
        expected = shouted.logits(prompt, using=PASTA(heads=[tuple(one) for one in late.value]))
        assert torch.equal(shouted.logits(prompt, using=PASTA(heads=str(path))), expected)
    with pytest.raises(ValueError, match="search again on it"):
        PASTA(heads=again).plan(interp.load("demo-lm"), prompt)


def test_no_head_better_than_the_plain_model_is_said(task):
    model = interp.load("demo-lm")
    with pytest.raises(ValueError, match="no head alone does better than the plain model"):
        find_heads(model, task[:8], PASTA(highlight="first", alpha=1e-6, heads=[(0, 0)]))


def test_sink_dimensions_as_a_finding(tmp_path):
    model = interp.load("demo-vlm", fault="parked-on-sinks")
    task = interp.Task.load("existence", count=8, split="train")
    found = sink_dims(model, task)
    prompt = interp.Task.load("existence", count=4, split="validation").encode(model)
    (channel,) = found.value
    trace = model.trace(prompt, "resid_pre", layers=[2])["resid_pre", 2]
    first = trace[prompt.where("first")].abs().mean(0)
    assert int(first.argmax()) == channel and found.how["sizes"][0][0] == channel
    path = found.save(tmp_path / "dims.json")
    settings = {"rho": 0.0, "layers": [1, 2]}
    with torch.no_grad():
        own = model.logits(prompt, using=VAR(**settings))
        for dims in (found, str(path), [channel]):
            given = model.logits(prompt, using=VAR(dims=dims, **settings))
            assert torch.allclose(given, own, atol=1e-5)
    healthy = interp.load("demo-vlm")
    with pytest.raises(ValueError, match="these sink dims were found on"):
        VAR(dims=found).plan(healthy, prompt)
    with pytest.raises(ValueError, match="these hold|holds sink dims|wants heads"):
        ACT(heads=found).plan(model, prompt)
    with pytest.raises(ValueError, match="has no sink dimensions in these texts"):
        sink_dims(healthy, [prompt])


@dataclass(frozen=True)
class Headless:
    strength: float = 1.0


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"intervention": PAI()}, TypeError, "takes heads="),
        ({"intervention": Headless()}, TypeError, "takes heads="),
        ({"intervention": PASTA}, TypeError, "takes heads="),
        ({"intervention": PASTA.inert()}, ValueError, "acts on no heads"),
        ({"method": "every"}, LookupError, "no method 'every'"),
        ({"by": "loss"}, LookupError, "no by 'loss'"),
        ({"top": 0}, ValueError, "at least 1"),
        ({"top": 1.5}, TypeError, "whole numbers"),
        ({"task": "open_book"}, TypeError, "takes a Task"),
        ({"method": "tasks"}, ValueError, "give several tasks"),
        ({"method": "coarse to fine", "top": 3}, ValueError, "leave top= out"),
        ({"dev": book(2)}, ValueError, "chooses by"),
        ({"batch": 0}, ValueError, "at least 1"),
        ({"task": book(2)[:0]}, ValueError, "at least 1"),
    ],
)
def test_wrong_use_is_refused(shouted, task, change, error, says):
    given = {"task": task[:4], "intervention": PASTA(layers=[3]), **change}
    with pytest.raises(error, match=says):
        find_heads(shouted, given.pop("task"), given.pop("intervention"), **given)


def test_what_cannot_be_scored_is_refused(shouted):
    bare = interp.Task("bare", (interp.Record("The key is in the box. Where is the key?"),))
    with pytest.raises(ValueError, match="no answers to score"):
        find_heads(shouted, bare, ACT(alpha=1.0), top=1)
