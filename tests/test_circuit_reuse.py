"""The analysis `circuit_reuse`: overlaps beside chance, on demo-lm and on hand-set models."""

import pytest
import torch
from known_models import induction_model
from scipy.stats import hypergeom

import interp
from analyses import ANALYSES
from analyses.__main__ import main
from interp import Task
from interp.circuits import overlap

reuse = ANALYSES["circuit_reuse"]


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def result(demo):
    tasks = {
        "ioi": Task.load("ioi", count=120),
        "colored_objects": Task.load("colored_objects", count=120, apart=True),
    }
    return reuse(demo, tasks, draws=5)


def kept(result, task):
    heads = result.tables["heads"]
    own = heads[(heads["task"] == task) & heads["in_circuit"]]
    return set(zip(own["layer"], own["head"], strict=True))


def test_published_chance_level():
    """Two random sets of 32 of 384 heads share 2.67 on average, 5 at the 95 % quantile; 25 are no chance."""
    first = {(at // 16, at % 16) for at in range(32)}
    second = set(list(first)[:25]) | {(20, head) for head in range(7)}
    found = overlap(first, second, 384)
    assert found.shared == 25 and found.expected == pytest.approx(2.667, abs=1e-3)
    assert found.most == 5 and found.p == pytest.approx(8e-27, rel=0.1)
    assert found.jaccard == pytest.approx(25 / 39)


def test_both_circuits_are_small_and_faithful(result):
    for row in result.tables["faithfulness"].to_dict("records"):
        assert row["share"] >= 0.85 and row["heads"] <= 0.3 * row["of"], row["task"]
        assert row["random_most"] < row["share"]


def test_the_overlap_is_that_of_the_circuits(result):
    row = result.table[result.table["size"] == "own"].iloc[0]
    one, other = kept(result, "ioi"), kept(result, "colored_objects")
    assert (row["first_heads"], row["second_heads"]) == (len(one), len(other))
    assert row["shared"] == len(one & other)
    assert row["ratio"] == pytest.approx(len(one & other) / min(len(one), len(other)))
    assert row["jaccard"] == pytest.approx(len(one & other) / len(one | other))
    chance = hypergeom(32, len(one), len(other))
    assert row["expected"] == pytest.approx(chance.mean())
    assert row["most"] == chance.ppf(0.95)
    assert row["above_chance"] == (row["shared"] > row["most"])


def test_whether_it_is_above_chance_is_said_plainly(result):
    row = result.table[result.table["size"] == "own"].iloc[0]
    (said,) = [note for note in result.notes if "share" in note and "smaller circuit" in note]
    assert ("NOT above chance" in said) != row["above_chance"]


def test_fixed_sizes_take_equally_many_of_both(result):
    fixed = result.table[result.table["size"] != "own"]
    assert fixed["first_heads"].tolist() == [1, 1, 2, 3, 6, 10] == fixed["second_heads"].tolist()


def test_members_and_their_roles(result):
    members = result.tables["members"]
    one, other = kept(result, "ioi"), kept(result, "colored_objects")
    for name, heads in (("both", one & other), ("first", one - other), ("second", other - one)):
        own = members[members["member"] == name]
        assert set(zip(own["layer"], own["head"], strict=True)) == heads
    assert (members.loc[members["member"] == "second", "role_first"] == "").all()
    assert (members.loc[members["member"] == "first", "role_first"] != "").any()


def test_circuits_are_run_on_each_others_task(result):
    crossed = result.tables["crossed"].set_index(["kept", "task"])["share"]
    own = result.tables["faithfulness"].set_index("task")["share"]
    for task in own.index:
        assert crossed[f"circuit of {task}", task] == pytest.approx(own[task], rel=1e-5)
    assert crossed["circuit of ioi", "colored_objects"] < 0.5
    assert ("shared by ioi and colored_objects", "ioi") in crossed.index


def test_published_classes_are_told_where_the_spans_are(result):
    classes = result.tables["ioi_classes"]
    assert set(classes["task"]) == {"ioi"} and len(classes) == 32
    assert any(note.startswith("IOI classes: ") for note in result.notes)


def test_the_same_task_twice_shares_everything():
    known = induction_model()
    found = reuse(known.model, {"one": known.task, "two": known.task}, instead="patch", draws=2,
                  roles=False)  # fmt: skip
    row = found.table.iloc[0]
    assert kept(found, "one") == set(known.heads) == kept(found, "two")
    assert row["jaccard"] == row["ratio"] == 1 and row["above_chance"]


def test_the_papers_method_and_the_estimate(demo):
    tasks = [Task.load("ioi", count=16), Task.load("facts", count=16)]
    for method in ("paths", "eap_ig"):
        found = reuse(demo, tasks, method=method, draws=2, roles=False, sizes=[0.1])
        assert len(found.table) == 2
        assert any("estimates" in note for note in found.notes) == (method == "eap_ig")


def test_a_saved_result_is_drawn_side_by_side(result, tmp_path):
    again = interp.Result.load(result.save(tmp_path / "run"))
    figure = again.figure()
    frames = [one for one in figure.layout.shapes if one.type == "rect"]
    assert len(frames) == len(kept(result, "ioi")) + len(kept(result, "colored_objects"))
    assert [one.text.split(":")[0] for one in figure.layout.annotations[:2]] == [
        "ioi", "colored_objects",
    ]  # fmt: skip
    with pytest.raises(LookupError, match="two of ioi, colored_objects"):
        again.figure(first="ioi", second="facts")


def test_a_model_that_cannot_do_a_task_has_no_circuit_of_it(demo):
    torch.manual_seed(0)
    bare = interp.wrap(type(demo.hf)(demo.hf.config).eval(), demo.tokenizer)
    tasks = [Task.load("ioi", count=32), Task.load("facts", count=32)]
    found = reuse(bare, tasks, draws=1, roles=False, sizes=[0.1])
    assert any("On ioi the whole model is not told apart" in note for note in found.notes)
    able = reuse(demo, tasks, draws=1, roles=False, sizes=[0.1])
    assert not any("is not told apart" in note for note in able.notes)


def test_the_command_prints_the_table_and_draws(tmp_path, capsys):
    out = tmp_path / "reuse"
    asked = ["circuit_reuse", "--model", "demo-lm", "--records", "24", "--draws", "1", "--roles", "False",
             "--sizes", "0.1", "0.2", "--out", str(out)]  # fmt: skip
    assert main(asked) == 0
    said = capsys.readouterr().out
    assert "jaccard" in said and "colored_objects" in said and "smaller circuit" in said
    assert interp.Result.load(out).made["task"] == "ioi, colored_objects, greater_than, induction"
    assert (tmp_path / "reuse.html").stat().st_size > 10_000
    assert main([*asked, "--count", "5"]) == 2
    assert "which is given no task" in capsys.readouterr().err


def test_tasks_are_named_on_the_command_line(tmp_path):
    asked = ["circuit_reuse", "--model", "demo-lm", "--task", "ioi", "facts", "--count", "12", "--draws", "1",
             "--roles", "False", "--out", str(tmp_path / "two")]  # fmt: skip
    assert main(asked) == 0
    assert interp.Result.load(tmp_path / "two").made["task"] == "ioi, facts"


@pytest.mark.parametrize(
    ("task", "settings", "message"),
    [
        (Task.load("ioi", count=8), {}, "two or more"),
        ([Task.load("ioi", count=8)], {}, "was given 1"),
        ([Task.load("ioi", count=8), Task.load("ioi", count=9)], {}, "two tasks are called 'ioi'"),
        (None, {"sizes": [0.1, 2]}, "shares of all heads"),
        (None, {"records": 0}, "records=0"),
        (None, {"method": "sweeep"}, "sweep"),
    ],
)
def test_what_cannot_be_compared_is_refused(demo, task, settings, message):
    with pytest.raises((ValueError, LookupError), match=message):
        reuse(demo, task, **settings)
