"""Comparisons: values, intervals and shares by hand, controls, choices, what is refused, what is said."""

import warnings
from dataclasses import dataclass, replace

import numpy
import pandas
import pytest

import interp
from analyses import ANALYSES
from interp import Hook, Record, Result, Task
from interp.evaluation import Bias, Rate, Scored, accuracy, pope
from interp.interventions import INTERVENTIONS, PAI, PASTA

compare = ANALYSES["compare"]
COUNT = 24


@pytest.fixture(scope="module")
def broken():
    return interp.load("demo-vlm", fault="image-suppressed")


@pytest.fixture(scope="module")
def whole():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def tasks():
    return {
        name: Task.load("existence", count=COUNT, negatives=name)
        for name in ("random", "adversarial")
    }


@pytest.fixture(scope="module")
def validation():
    return Task.load("existence", count=COUNT, split="validation")


LOUD = PAI(alpha=1.0, layers=[1, 2, 3])


def silence(model, prompt):
    return prompt, [Hook("z", lambda z, at: z * 0, layers=[0, 1, 2, 3])]


@pytest.fixture(scope="module")
def found(broken, whole, tasks, validation):
    return compare(
        broken, tasks, interventions={"loud": LOUD, "PAI": PAI()}, controls=["yes bias", silence],
        validation=validation, whole=whole, draws=2000, seed=3,
    )  # fmt: skip


def row_of(result, task, name):
    table = result.table
    return table[(table["task"] == task) & (table["name"] == name)].iloc[0]


def test_the_same_records_under_each(found, broken, whole, tasks):
    assert (
        found.table["name"].tolist() == ["plain", "whole", "loud", "PAI", "silence", "yes bias"] * 2
    )
    assert found.table["kind"].tolist()[:6] == [
        "plain", "whole", "intervention", "intervention", "control", "control"
    ]  # fmt: skip
    for name, task in tasks.items():
        plain, loud = (accuracy(broken, task, using=one) for one in (None, LOUD))
        row = row_of(found, name, "loud")
        assert (row["n"], row["value"]) == (COUNT, loud.value)
        assert row["difference"] == pytest.approx(loud.value - plain.value)
        before, after = plain.table["right"], loud.table["right"]
        assert row["helped"] == (after & ~before).sum() and row["hurt"] == (before & ~after).sum()
        assert row["yes_rate"] == loud.values["yes_rate"]
        assert row_of(found, name, "whole")["value"] == accuracy(whole, task).value
        records = found.tables["records"]
        own = records[(records["task"] == name) & (records["name"] == "loud")]
        assert own["score"].tolist() == after.tolist()
        assert own["said"].tolist() == loud.table["said"].tolist()
    plain = row_of(found, "random", "plain")
    assert numpy.isnan(plain["difference"]) and plain["times"] == 1 and plain["verdict"] == ""


def drawn(scores, draws, seed):
    """Means of each draw, by plain loops over the same counts."""
    count = len(next(iter(scores.values())))
    counts = numpy.random.default_rng(seed).multinomial(count, [1 / count] * count, size=draws)
    return {
        name: [sum(int(c) * v for c, v in zip(line, own, strict=True)) / count for line in counts]
        for name, own in scores.items()
    }


def test_intervals_are_paired_percentiles(found):
    records = found.tables["records"]
    own = records[records["task"] == "adversarial"]
    scores = {name: part["score"].tolist() for name, part in own.groupby("name")}
    means = drawn(scores, 2000, 3)

    def ends(values):
        return [float(numpy.percentile(values, end)) for end in (2.5, 97.5)]

    for name in ("loud", "yes bias", "silence"):
        row = row_of(found, "adversarial", name)
        assert [row["low"], row["high"]] == pytest.approx(ends(means[name]))
        off = [one - other for one, other in zip(means[name], means["plain"], strict=True)]
        assert [row["diff_low"], row["diff_high"]] == pytest.approx(ends(off))
    against = found.tables["against"]
    line = against[(against["task"] == "adversarial") & (against["name"] == "loud")].set_index(
        "control"
    )
    off = [one - other for one, other in zip(means["loud"], means["yes bias"], strict=True)]
    assert list(line.loc["yes bias", ["diff_low", "diff_high"]]) == pytest.approx(ends(off))
    assert line.loc["yes bias", "difference"] == pytest.approx(
        row_of(found, "adversarial", "loud")["value"]
        - row_of(found, "adversarial", "yes bias")["value"]
    )
    assert set(line.index) == {"yes bias", "silence"}
    lost = [one - other for one, other in zip(means["whole"], means["plain"], strict=True)]
    gained = [one - other for one, other in zip(means["loud"], means["plain"], strict=True)]
    row = row_of(found, "adversarial", "loud")
    assert row["recovered"] == pytest.approx(
        row["difference"] / row_of(found, "adversarial", "whole")["difference"]
    )
    shares = [one / other for one, other in zip(gained, lost, strict=True) if other]
    assert [row["recovered_low"], row["recovered_high"]] == pytest.approx(ends(shares))


def test_every_rate_has_its_intervals(found):
    rates = found.tables["rates"]
    assert set(rates["rate"]) == {"accuracy", "probability", "yes_rate"}
    own = rates[(rates["rate"] == "accuracy") & (rates["name"] == "loud")].set_index("task")
    row = row_of(found, "random", "loud")
    for name in ("value", "low", "high", "difference", "diff_low", "diff_high"):
        assert own.loc["random", name] == row[name]


def test_the_bias_is_tuned_on_other_records(found, broken, validation, tasks):
    choices = found.tables["choices"]
    assert (
        choices["chosen"].sum() == 1
        and choices["value"].max() == choices["value"][choices["chosen"]].item()
    )
    amount = float(choices["setting"][choices["chosen"]].item())
    value = accuracy(broken, tasks["random"], using=Bias(amount=amount)).value
    assert row_of(found, "random", "yes bias")["value"] == pytest.approx(value)
    assert found.made["validation digest"] == validation.digest
    assert any(
        "was chosen on 24 validation records, which are not among those" in one
        for one in found.notes
    )
    with pytest.raises(ValueError, match="on records that are not reported: give validation=task"):
        compare(broken, tasks, interventions="PAI", controls="yes bias")


def test_validation_and_report_share_nothing(broken, tasks):
    again = tuple(replace(one, notes={"asked": "again"}) for one in tasks["random"][4:6])
    with pytest.raises(ValueError, match="2 questions of the validation task are in 'random' too"):
        compare(broken, tasks, choose={"PAI": [PAI(), LOUD]}, validation=Task("mine", again))
    other = replace(again[0], image=tasks["random"][0].image)
    with pytest.raises(ValueError, match="it is right in"):  # another image: another question
        compare(
            broken,
            tasks,
            interventions="PAI",
            controls="yes bias",
            validation=Task("mine", (other,)),
        )


# A measure of our own, so that what is said can be told beforehand


@dataclass(frozen=True)
class Named:
    name: str

    def plan(self, model, prompt):
        return prompt, []


TOLD = {
    "plain": [1, 1, 1, 1, 1] + [0] * 35,
    "up": [1] * 15 + [0] * 25,  # 10 better
    "few": [1] * 10 + [0] * 30,  # 5 better: an interval without 0, and too few
    "six": [1] * 11 + [0] * 29,
    "down": [0] * 40,  # 5 worse
    "same": [1, 1, 1, 1, 1] + [0] * 35,
    "other": [0, 0, 0, 0, 0] + [1] * 5 + [0] * 30,  # 5 better, 5 worse
    "best": [1] * 40,
}


def told(better):
    def measure(model, task, *, using=None, batch=16):
        values = TOLD["plain" if using is None else using.name]
        table = pandas.DataFrame({"record": range(40), "said": ["?"] * 40})
        return Scored("told", "share", table, {"share": Rate.mean(values, better)})

    return measure


@pytest.fixture(scope="module")
def forty():
    return Task("forty", tuple(Record(f"Rome is in {number}", (" Italy",)) for number in range(40)))


def verdicts(result):
    return dict(zip(result.table["name"], result.table["verdict"], strict=True))


def test_verdicts(lm, forty):
    given = {name: Named(name) for name in TOLD if name != "plain"}
    result = compare(lm, forty, interventions=given, measure=told("higher"))
    none = "not told from plain"
    assert verdicts(result) == {
        "plain": "", "up": "helps", "few": none, "six": "helps", "down": none, "same": none, "other": none,
        "best": "helps",
    }  # fmt: skip
    few = row_of(result, "forty", "few")
    assert few["diff_low"] > 0 and (few["helped"], few["hurt"]) == (5, 0)
    other = row_of(result, "forty", "other")
    assert other["difference"] == 0 and (other["helped"], other["hurt"]) == (5, 5)
    lower = compare(lm, forty, interventions=given, measure=told("lower"))
    assert verdicts(lower)["up"] == "hurts" and row_of(lower, "forty", "up")["hurt"] == 10
    neither = compare(lm, forty, interventions=given, measure=told(""))
    assert verdicts(neither)["up"] == "higher" and row_of(neither, "forty", "up")["helped"] == 0
    said = "\n".join(result.notes)
    assert "forty: measure, share of 40 records is 0.125" in said and "higher being better" in said
    assert "forty: up helps by +0.250" in said and "10 records better, 0 worse" in said
    assert "same changed no score at all" in said and "other, same changed" not in said
    assert "8 differences" not in said and "7 differences are told" in said


def test_controls_are_held_against_what_helps(lm, forty):
    result = compare(
        lm, forty, interventions={"up": Named("up"), "six": Named("six")},
        controls={"best": Named("best"), "few": Named("few")}, measure=told("higher"),
    )  # fmt: skip
    said = "\n".join(result.notes)
    assert "forty, against the control 'best': worse: up (-0.625" in said
    assert "forty, against the control 'few': not to be told apart: up (+0.125" in said  # 5 records
    assert "the control 'best' helps by +0.875" in said


def test_shares_of_what_was_lost(lm, forty):
    given = {"up": Named("up"), "best": Named("best"), "few": Named("few")}
    result = compare(lm, forty, interventions=given, measure=told("higher"), reference=0.625)
    shares = result.table.set_index("name")["recovered"]
    assert shares["up"] == pytest.approx(0.5) and shares["best"] == pytest.approx(0.875 / 0.5)
    assert numpy.isnan(shares["plain"])
    assert any("come back: best 1.750" in one and "up 0.500" in one and "few" not in one
               for one in result.notes)  # fmt: skip
    by_task = compare(
        lm, forty, interventions=given, measure=told("higher"), reference={"forty": 0.625}
    )
    assert by_task.table["recovered"].equals(result.table["recovered"])
    near = compare(lm, forty, interventions=given, measure=told("higher"), reference=0.13)
    assert near.table["recovered"].isna().all()
    assert any("nothing is lost to be recovered" in note for note in near.notes)
    with pytest.raises(LookupError, match="no value for the task 'forty'"):
        compare(lm, forty, interventions=given, measure=told("higher"), reference={"other": 1.0})


def test_settings_are_chosen_by_the_measures_own_way(lm, forty):
    other = Task("other", tuple(replace(one, prompt=f"Now {one.prompt}") for one in forty))
    given = {
        "mine": [Named("few"), Named("up"), Named("six")],
        "equal": [Named("same"), Named("other")],
    }
    for better, expected in (("higher", "up"), ("lower", "few")):
        result = compare(lm, forty, choose=given, validation=other, measure=told(better))
        choices = result.tables["choices"]
        chosen = choices[choices["chosen"]].set_index("name")["setting"]
        assert f"name={expected!r}" in chosen["mine"] and "name='same'" in chosen["equal"]
        value = sum(TOLD[expected]) / 40
        assert row_of(result, "forty", "mine")["value"] == value
        assert len(choices) == 5 and choices["value"].max() == 15 / 40
    for own in ([PAI()], "PAI"):
        with pytest.raises(ValueError, match="holds at least two settings"):
            compare(lm, forty, choose={"mine": own}, validation=other)


def test_one_record_has_no_interval(lm):
    task = Task.load("facts", count=1)
    result = compare(lm, task, interventions={"silence": silence})
    assert result.table[["low", "high", "diff_low", "diff_high"]].isna().all().all()
    assert verdicts(result)["silence"] == "not told from plain"
    assert any("1 records are few" in note for note in result.notes)


# Names, hooks, heads


def test_names_come_from_what_is_given(lm):
    task = Task.load("open_book", count=3)
    quiet = Hook("z", lambda z, at: z * 0.5, layers=[1])
    given = ["ACT", PASTA, PASTA(alpha=0.5), quiet, [PASTA(alpha=0.5), quiet], silence]
    result = compare(lm, task, interventions=given, controls=[PASTA(highlight="context")])
    assert result.table["name"].tolist() == [
        "plain", "ACT", "PASTA()", "PASTA(alpha=0.5)", "<lambda>", "PASTA + <lambda>", "silence", "PASTA"
    ]  # fmt: skip
    assert result.made["compared"]["PASTA"] == "PASTA(highlight='context')"
    both = accuracy(lm, task, using=[PASTA(alpha=0.5), quiet]).values["probability"]
    rates = result.tables["rates"]
    own = rates[(rates["name"] == "PASTA + <lambda>") & (rates["rate"] == "probability")][
        "value"
    ].item()
    assert own == pytest.approx(both, abs=1e-6)
    named = compare(lm, task, interventions=PASTA(), controls=PASTA(highlight="context"))
    assert named.table["name"].tolist() == ["plain", "PASTA", "PASTA(highlight='context')"]


def test_random_heads_are_averaged(lm):
    task = Task.load("open_book", count=10)
    own = PASTA(heads=[(1, 2), (2, 0), (3, 1)])
    result = compare(lm, task, interventions={"mine": own, "all": PASTA()}, controls="random heads",
                     random_sets=3, measure="qa", scoring={"max_new_tokens": 3}, rate="f1")  # fmt: skip
    drawn = result.tables["draws"]
    row = row_of(result, task.name, "mine, random heads")
    assert row["value"] == pytest.approx(drawn["value"].mean()) and len(drawn) == 3
    assert row["sd"] == pytest.approx(drawn["value"].std()) and row["kind"] == "control"
    assert drawn["heads"].nunique() == 3 and not (result.table["name"] == "all, random heads").any()
    assert result.made["told"] == {"measure": "qa", "rate": "f1", "better": "higher"}
    with pytest.raises(ValueError, match="no intervention has heads="):
        compare(lm, task, interventions="PASTA", controls=["random heads"])


def test_what_is_written_is_scored(whole, tasks):
    result = compare(whole, tasks["random"], interventions={"loud": LOUD}, measure="pope",
                     scoring={"official": True}, rate="f1")  # fmt: skip
    prompt = tasks["random"].encode(whole)
    ids = whole.generate(prompt, using=LOUD, max_new_tokens=16, do_sample=False)
    own = pope(whole.decode(ids, prompt), tasks["random"], official=True)
    row = row_of(result, "existence", "loud")
    assert row["value"] == pytest.approx(own.values["f1"])
    assert row["helped"] <= (own.table["right"]).sum()
    assert result.made["protocol"]["official"] is True
    captions = Task.load("captions", count=6)
    chair = compare(
        whole, captions, interventions="PAI", measure="chair", scoring={"max_new_tokens": 3}
    )
    assert chair.made["told"]["better"] == "lower"
    assert any(
        "reach the limit of new tokens: plain 1.00, PAI 1.00" in note for note in chair.notes
    )


# All of them, and what refuses


@pytest.mark.parametrize("name", ["demo-lm", "demo-vlm"])
def test_without_names_all_are_compared_or_say_why_not(name):
    model = interp.load(name)
    task = Task.load("open_book" if name == "demo-lm" else "existence", count=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = compare(model, task)
    compared = set(result.table["name"]) - {"plain"}
    refused = set(result.tables["refused"]["name"]) if "refused" in result.tables else set()
    assert compared | refused == set(INTERVENTIONS) and not compared & refused
    expected = {"PASTA", "ACT"} if name == "demo-lm" else {"PAI", "VHR"}
    assert expected <= compared
    assert ("PAI" in refused) == (name == "demo-lm")
    for why in result.tables["refused"]["why"]:
        assert any(why in note for note in result.notes)


def test_warnings_become_notes(whole, tasks):
    def warns(model, prompt):
        warnings.warn("the moon is full", stacklevel=1)
        return prompt, []

    result = compare(whole, tasks["random"][:3], interventions=warns)
    assert [note for note in result.notes if "moon" in note] == ["Warned: the moon is full"]


def test_refusals(lm, broken, tasks, validation):
    book, task = Task.load("open_book", count=3), tasks["random"][:3]
    for settings, error, match in (
        ({"interventions": "PAII"}, LookupError, "no intervention 'PAII'. Did you mean 'PAI'"),
        ({"interventions": []}, ValueError, "there is nothing to compare"),
        ({"interventions": [3]}, TypeError, "3 is nothing to compare"),
        ({"interventions": "PAI"}, ValueError, "PAI: PAI acts on what a model sees"),
        ({"interventions": {"plain": PASTA()}}, ValueError, "two things are called 'plain'"),
        ({"controls": "yes biass"}, LookupError, "no control 'yes biass'. Did you mean 'yes bias'"),
        ({"measure": "accurcy"}, LookupError, "no measure 'accurcy'. Did you mean 'accuracy'"),
        ({"measure": 3}, TypeError, "or a function giving a Scored"),
        ({"measure": lambda *a, **k: 3}, TypeError, "the measure gave int"),
        ({"rate": "f2"}, LookupError, "no rate of the measure accuracy 'f2'"),
        (
            {"scoring": {"official": True}},
            TypeError,
            "no setting of the measure accuracy 'official'",
        ),
        ({"draws": 0}, ValueError, "draws=0"),
        ({"batch": True}, ValueError, "batch=True"),
        ({"random_sets": 1.5}, ValueError, "random_sets=1.5"),
        ({"whole": "demo-lm"}, TypeError, "whole= is a model, not str"),
        ({"whole": lm, "reference": 1.0}, ValueError, "give one"),
        ({"reference": "1"}, TypeError, "reference='1'"),
        ({"validation": "validation"}, TypeError, "validation= is a Task"),
        ({"validation": book}, ValueError, "3 questions of the validation task"),
    ):
        with pytest.raises(error, match=match):
            compare(lm, book, **{"interventions": "PASTA", **settings})
    with pytest.raises(TypeError, match="a Prompt has none"):
        compare(lm, book.encode(lm))
    with pytest.raises(ValueError, match="no task to compare on"):
        compare(lm, {})
    with pytest.raises(LookupError, match="PASTA: the prompt has no span 'key'"):
        compare(broken, task, interventions=["PAI", "PASTA"])


# Saved, and drawn


def test_results_are_saved_and_drawn(found, tmp_path):
    result = Result.load(found.save(tmp_path / "compare"))
    for name, table in found.tables.items():
        pandas.testing.assert_frame_equal(result.tables[name], table)
    figure = result.figure()
    marks = [one for one in figure.data if one.x[0] is not None]
    assert len(marks) == 2 * 3  # a task's three kinds
    own = next(
        one for one in marks if list(one.y) == ["loud", "PAI"] or list(one.y) == ["PAI", "loud"]
    )
    at = list(own.y).index("loud")
    row = row_of(found, "random", "loud")
    assert own.x[at] == pytest.approx(row["difference"])
    assert own.error_x.array[at] == pytest.approx(row["diff_high"] - row["difference"])
    hollow = own.marker.color[at] == "#ffffff"
    assert hollow == (row["verdict"] == "not told from plain")
    assert "accuracy" in figure.layout.title.text and "better" in figure.layout.xaxis.title.text
    shares = result.figure(recovered=True)
    assert len([one for one in shares.data if one.x[0] is not None]) == 2  # lost in one task
    assert result.made["compared"]["loud"] == "PAI(alpha=1.0, layers=[1, 2, 3])"
    assert result.made["settings"]["seed"] == 3 and result.made["protocol"]["weights"]


def test_a_figure_without_a_fault(lm, forty):
    result = compare(lm, forty, interventions={"up": Named("up")}, measure=told("lower"))
    assert "better" in result.figure().layout.xaxis.title.text
    with pytest.raises(ValueError, match="nothing says what was lost"):
        result.figure(recovered=True)
