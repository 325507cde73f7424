"""Repair: the written-over run against one spelled out, a planted pair of heads, and what is refused."""

import known_models as known
import pytest
import torch
from spelled_out import Spelled

import interp
from analyses.repair import repair
from analyses.repair.runs import draw
from analyses.repair.spots import cases
from interp.families import FAMILIES
from interp.task import Record, Task

INHIBIT, PLANTED_MOVER, NEGATIVE = (1, 0), (2, 3), (3, 1)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


def said_often():
    """Of two colours that a prompt names the mover says the one that stands there more often.

    Two heads look at a word that is no colour, and could help. What the one sees the mover leaves alone;
    what the other sees is taken off the answer.
    """
    hf = known._idle_model({INHIBIT, PLANTED_MOVER, NEGATIVE}, set())
    blocks = [block.attn for block in hf.transformer.h]
    inhibit, mover, negative = (blocks[one[0]] for one in (INHIBIT, PLANTED_MOVER, NEGATIVE))
    known._look_at_subject(inhibit, INHIBIT[1])
    known._copy_words(inhibit, INHIBIT[1], known.TOKEN, known.MIDDLE)
    mover.c_attn.bias.data[PLANTED_MOVER[1] * known.SIZE] = known.SHARP
    for word in known.SUBJECTS:
        known._read(mover, PLANTED_MOVER[1], "k", known.TOKEN + word, 0, known.SHARP)
        known._read(mover, PLANTED_MOVER[1], "k", known.TOKEN + word, word, known.SHARP)
        known._read(mover, PLANTED_MOVER[1], "q", known.MIDDLE + word, word, -known.SHARP)
    known._copy_words(mover, PLANTED_MOVER[1], known.TOKEN, known.ANSWER)
    known._look_at_subject(negative, NEGATIVE[1])
    known._copy_words(negative, NEGATIVE[1], known.TOKEN, known.ANSWER, -1.0)
    records = []
    for row in range(16):
        right, wrong = known.SUBJECTS[row % 8], known.SUBJECTS[(row + 1 + row // 8) % 8]
        often, seldom = (right, wrong) if row % 4 == 0 else (wrong, right)
        first, second, third = ((often, often, seldom), (often, seldom, often))[row // 4 % 2]
        swap = {right: wrong, wrong: right}
        clean = [12, first, 13, second, 15, third, 3, 2, 14]
        other = [swap.get(word, word) for word in clean]
        records.append(known._record(clean, other, right, wrong, {"filler": 2}))
    return known._known(hf, "said often", records, {INHIBIT, PLANTED_MOVER, NEGATIVE}, set())


@pytest.fixture(scope="module")
def planted():
    return said_often()


@pytest.fixture(scope="module")
def found(planted):
    return repair(planted.model, planted.task, size=2, draws=25, batch=5)


def words(numbers):
    return " ".join(f"w{number}" for number in numbers)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_equals_the_run_written_out(name, scale, word_tokenizer):
    hf = FAMILIES[name].model()
    model, spelled = interp.wrap(hf, word_tokenizer), Spelled(hf)
    rows = [[5, 9, 7, 11, 9, 3, 8], [4, 6, 7, 12, 9, 3, 10]]
    rivals = [(9,), (6, 12)]
    records = tuple(
        Record(words(row), (f" w{row[2]}",), tuple(f" w{one}" for one in wrong))
        for row, wrong in zip(rows, rivals, strict=True)
    )
    heads = [(0, 1), (2, 0), (2, 3)]
    result = repair(model, Task("tiny", records), heads=heads, scale=scale, draws=0)
    ids = torch.tensor(rows)
    new = torch.zeros(2, 7)
    new[0, [1, 4]], new[1, [1, 3]] = 0.5, 0.5  # where wrong answers stand

    def spelled_out(overwritten):
        values = {}

        def change(part, layer, head, value):
            if part == "v":
                values[layer, head] = value
            if part != "z" or (layer, head) not in overwritten:
                return value
            own = torch.einsum("bk,bkd->bd", new, values[layer, head])
            value = value.clone()
            value[:, -1] = scale * own + (1 - scale) * value[:, -1]
            return value

        with torch.no_grad():
            return spelled.run(ids, change)[:, -1]

    conditions = [set(), set(heads), *({head} for head in heads)]
    for row, overwritten in enumerate(conditions):
        logits = spelled_out(overwritten)
        for record, (asked, wrong) in enumerate(zip(rows, rivals, strict=True)):
            wanted = logits[record, asked[2]] - logits[record, list(wrong)].mean()
            assert abs(result.tensors["metric"][row, record] - wanted) < 1e-5
            right = bool(logits[record].argmax() == asked[2])
            assert bool(result.tensors["right"][row, record]) == right
    assert (result.tensors["metric"][1] - result.tensors["metric"][0]).abs().max() > 1e-3


def test_the_planted_heads_mend_everything(planted, found):
    rows = found.table.set_index("condition")
    assert rows.loc["repaired", "heads"] == "1.0 3.1"
    assert found.tables["records"]["record"].tolist() == list(range(8, 16))
    assert rows.loc["plain", "accuracy"] == pytest.approx(2 / 8)
    for name in ("repaired", "1.0", "3.1"):
        assert rows.loc[name, ["accuracy", "options", "mended", "broken"]].tolist() == [1, 1, 6, 0]
    assert rows.loc["repaired", "gain"] == pytest.approx(6 / 8)
    assert len(found.tables["draws"]) == 25 and (found.tables["draws"]["mended"] == 0).all()
    assert rows.loc["elsewhere", "mended"] == 0
    assert rows.loc["random", "accuracy_high"] == found.tables["draws"]["accuracy"].max()
    choosing = found.tables["choosing"]
    assert choosing["accuracy"].tolist()[:3] == [1, 1, 0.25] and len(choosing) == 20
    notes = " ".join(found.notes)
    assert "6 of 6 wrong ones are mended and 0 right ones broken" in notes
    assert "do better than random heads" in notes and "chosen on 8 records" in notes
    assert "8 records are few" in notes


def test_the_metric_of_each_condition_is_what_the_weights_say(found):
    # Attention of the mover times 20: a third or two thirds each; what is taken off is the whole 20.
    often = torch.tensor([row % 4 == 0 for row in range(8, 16)])
    plain = torch.where(often, 20 / 3, -20 / 3)
    wanted = [plain, torch.full((8,), 40.0), torch.full((8,), 20.0), plain + 20]
    assert torch.allclose(found.tensors["metric"][:4], torch.stack(wanted), atol=0.05)


def test_the_mover_turns_from_wrong_to_right(found):
    movers = found.tables["movers"]
    assert set(zip(movers["layer"], movers["head"], strict=True)) == {PLANTED_MOVER}
    wanted = {"right": [(2 / 3 + 3 / 3) / 4, 1], "wrong": [(1 / 3 + 3 * 2 / 3) / 4, 0]}
    for answers, ends in wanted.items():
        row = movers.set_index("answers").loc[answers]
        assert row[["before", "after"]].tolist() == pytest.approx(ends, abs=1e-3)
        assert row["change_low"] < row["change"] == pytest.approx(ends[1] - ends[0], abs=1e-3)
    heads = found.tables["heads"].set_index(["layer", "head"])
    assert heads.loc[PLANTED_MOVER, "importance"] == pytest.approx(1, abs=1e-3)
    assert heads.loc[PLANTED_MOVER, "before"] == pytest.approx(-20 / 6, abs=0.05)
    assert heads.loc[PLANTED_MOVER, "after"] == pytest.approx(20, abs=0.05)
    assert heads.loc[NEGATIVE, "before"] == pytest.approx(0, abs=1e-3)
    assert heads.loc[NEGATIVE, "after"] == pytest.approx(20, abs=0.05)
    assert heads["downstream"].sum() == 10


def test_attention_of_movers_by_hand(planted):
    easy = Task("easy", tuple(planted.task[row] for row in range(0, 16, 4)))
    result = repair(planted.model, easy, heads=["1.0"], draws=0)
    looks = result.tables["movers"].set_index("answers")
    assert set(zip(looks["layer"], looks["head"], strict=True)) == {PLANTED_MOVER}
    assert looks.loc["right", ["before", "after"]].tolist() == pytest.approx([2 / 3, 1], abs=1e-3)
    assert looks.loc["wrong", ["before", "after"]].tolist() == pytest.approx([1 / 3, 0], abs=1e-3)
    assert "nothing to mend" in " ".join(result.notes)
    assert "No random heads were drawn" in " ".join(result.notes)


def test_nothing_is_changed_by_scale_0_and_harm_by_right_answers(planted):
    given = {"heads": [NEGATIVE, INHIBIT], "draws": 3}
    still = repair(planted.model, planted.task, scale=0, **given)
    metric = still.tensors["metric"]
    assert (metric - metric[:1]).abs().max() < 1e-4
    assert (still.table["mended"] == 0).all() and (still.table["gain"] == 0).all()
    assert (still.tables["heads"]["change"].abs() < 1e-4).all()
    turned = repair(planted.model, planted.task, places="right", **given).table
    assert turned.set_index("condition").loc["repaired", "accuracy"] == 0


def test_heads_are_not_chosen_on_what_is_reported(planted):
    first, second = planted.task[:8], planted.task[8:]
    result = repair(planted.model, second, choose_on=first, size=1, draws=0)
    halves = repair(planted.model, planted.task, size=1, draws=0)
    assert result.table.equals(halves.table)
    with pytest.raises(ValueError, match="share 8 prompts"):
        repair(planted.model, second, choose_on=planted.task)


def test_attention_goes_to_wrong_colours_of_the_last_block(demo):
    task = interp.Task.load("colored_objects", shots=3, count=12, split="validation")
    for case in cases(demo, task, "wrong", (), None, "last", 5, 0):
        assert torch.allclose(case.target.sum(-1), torch.ones(len(case.records)))
        for row, record in enumerate(case.records):
            colours = {record.text(f"colour {order}") for order in range(3)}
            rest = {f" {colour}" for colour in colours} - set(record.answers)
            tokens = case.prompt.tokens[row]
            there = case.target[row].nonzero()[:, 0].tolist()
            assert {f" {tokens[place].strip()}" for place in there} == rest and len(there) == 2
            start = next(
                place
                for place, (left, _) in enumerate(case.prompt.readings[row].offsets)
                if left >= record.spans["colour 0"][0] - 1
            )
            assert min(there) >= start
            other = case.elsewhere[row].nonzero()[:, 0].tolist()
            assert len(other) == 2 and min(other) >= min(there)
            assert not colours & {tokens[place].strip() for place in other}
    nouns = (["noun 0", "noun 1", "noun 2"], ("noun",))
    (case,) = cases(demo, task[:1], *nouns, 0.25, -1, 5, 0)
    there = case.target[0].nonzero()[:, 0].tolist()
    said = {case.prompt.tokens[0][place].strip() for place in there}
    record = task[0]
    assert said == {record.text(f"noun {order}") for order in range(3)} - {record.text("noun")}
    assert case.target[0, there].tolist() == [0.25, 0.25]


def test_on_a_trained_model_the_numbers_agree_with_each_other(demo):
    task = interp.Task.load("colored_objects", shots=4, count=60, split="validation")
    result = repair(demo, task, draws=5)
    rows, records = result.table.set_index("condition"), result.tables["records"]
    judged = interp.score(demo, task[30:])
    assert records["record"].tolist() == list(range(30, 60))
    assert records["plain_right"].tolist() == judged["right"].tolist()
    assert rows.loc["plain", "accuracy"] == pytest.approx(judged["right"].mean())
    assert rows.loc["plain", "metric"] == pytest.approx(judged["difference"].mean(), abs=1e-4)
    plain = judged["right"].sum()
    for name, row in rows.iterrows():
        moved = row["mended"] - row["broken"]
        assert row["accuracy"] * 30 == pytest.approx(plain + moved), name
        assert row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"]
        assert row["gain"] == pytest.approx(row["accuracy"] - rows.loc["plain", "accuracy"])
        assert row["options"] >= row["accuracy"] - 1e-9
    assert result.tensors["right"].shape == (2 + 4 + 1 + 5, 30)
    heads = rows.loc["repaired", "heads"].split()
    assert len(heads) == 4 and not any(
        set(drawn.split()) & set(heads) for drawn in result.tables["draws"]["heads"]
    )
    table = result.tables["heads"]
    assert len(table) == 32 and table["repaired"].sum() == 4
    assert (table["after"] - table["before"] - table["change"]).abs().max() < 1e-5
    first = table.loc[table["repaired"], "layer"].min()
    held = table[(table["layer"] <= first) & ~table["repaired"]]
    assert len(held) > 7 and (held["change"].abs() < 1e-4).all()  # whatever the last norm does
    best = table.loc[table["importance"].idxmax()]
    assert (int(best["layer"]), int(best["head"])) == (3, 3)


def test_runs_that_go_on_equal_whole_forwards(demo):
    task = interp.Task.load("colored_objects", shots=1, count=6, split="validation")
    heads = [(1, 3), (1, 4), (3, 3)]
    result = repair(demo, task, heads=heads, draws=0)
    (case,) = cases(demo, task, "wrong", (), None, "last", 6, 0)

    def written(pattern, at):
        pattern = pattern.clone()
        own = [head for layer, head in heads if layer == at.layer]
        pattern[:, own, -1] = case.target[:, None].expand(-1, len(own), -1)
        return pattern

    with torch.no_grad():
        logits = demo.logits(case.prompt, hooks=interp.Hook("pattern", written, layers=[1, 3]))[
            :, -1
        ]
    for row in range(6):
        right, wrong = list(case.right[row]), list(case.wrong[row])
        wanted = logits[row, right].mean() - logits[row, wrong].mean()
        assert abs(result.tensors["metric"][1, row] - wanted) < 5e-5  # of logits near 20
        assert bool(result.tensors["right"][1, row]) == (int(logits[row].argmax()) in right)
        said = result.tables["records"]["repaired_said"][row]
        assert said == demo.tokenizer.decode([int(logits[row].argmax())])
    assert (result.tensors["metric"][1] - result.tensors["metric"][0]).abs().max() > 1


def test_direct_effects_are_by_the_plain_runs_norm(demo):
    # Only the embedding is as it was, and adds next to nothing to the difference of two places.
    task = interp.Task.load("open_book", sentences=12, count=6, split="validation")
    result = repair(demo, task, heads=[(0, 5), (2, 1)], draws=0)
    table = result.tables["heads"]
    same = table[(table["layer"] == 0) & (table["head"] != 5)]
    assert (same["change"].abs() < 1e-4).all() and same["before"].abs().max() > 1e-3
    assert not any("own last norm" in note for note in result.notes)


def test_the_figure_shows_the_tables(found, planted, tmp_path):
    figure = found.save(tmp_path / "repair")
    figure = type(found).load(figure).figure()
    random, conditions = figure.data[:2]
    assert list(random.x) == found.tables["draws"]["accuracy"].tolist()
    assert list(conditions.y)[:4] == ["plain", "repaired", "1.0 alone", "3.1 alone"]
    assert list(conditions.x)[1] == 1
    points = {
        name: at
        for one in figure.data[2:]
        for name, *at in zip(one.customdata, one.x, one.y, strict=True)
    }
    assert len(points) == 20 and points["2.3"] == pytest.approx([1, 20 + 20 / 6], abs=0.05)
    assert "2.3" in [name for one in figure.data[2:] for name in one.text]
    bare = Task("bare", tuple(Record(one.prompt, one.answers, one.wrong) for one in planted.task))
    result = repair(planted.model, bare, heads=[NEGATIVE], draws=0)
    assert "no importance" in " ".join(result.notes)
    assert result.tables["heads"]["importance"].isna().all()
    assert len(result.figure().data) == 3


def test_draws_differ_and_end():
    heads = [(0, 0), (0, 1), (1, 0)]
    assert draw(heads, 2, 9, 0) == [heads[:2], heads[::2], heads[1:]]
    assert draw(heads, 4, 9, 0) == []
    many = [(layer, head) for layer in range(4) for head in range(8)]
    drawn = draw(many, 4, 20, 0)
    assert len({tuple(one) for one in drawn}) == 20 and drawn != draw(many, 4, 20, 1)


@pytest.mark.parametrize(
    "settings, error, said",
    [
        ({"heads": ["9.0"]}, IndexError, "layers 0 to 3"),
        ({"heads": [(1, 8)]}, IndexError, "heads 0 to 4"),
        ({"heads": ["mlp 1"]}, ValueError, "which is no head"),
        ({"heads": []}, ValueError, "names none"),
        ({"heads": [(1, 0), "1.0"]}, ValueError, "twice"),
        ({"heads": ["1.0"], "size": 2}, ValueError, "leave those out"),
        ({"size": 21}, ValueError, "there are 20 heads"),
        ({"size": 0}, ValueError, "1 or more"),
        ({"places": "wrongs"}, LookupError, "Did you mean 'wrong'"),
        ({"places": ["fillers"]}, LookupError, "Did you mean 'filler'"),
        ({"places": ["filler"], "avoid": ["filler"]}, ValueError, "avoid= takes them all"),
        ({"avoid": "filler"}, ValueError, "goes with places"),
        ({"places": []}, TypeError, "names of spans"),
        ({"mass": 0.8}, ValueError, "more than a row's 1"),
        ({"mass": 0}, ValueError, "above 0"),
        ({"scale": 1.5}, ValueError, "from 0 to 1"),
        ({"position": 0}, ValueError, "does not see"),
        ({"position": 99}, IndexError, "out of range"),
        ({"metric": "logits"}, LookupError, "Did you mean"),
        ({"draws": -1}, ValueError, "0 or more"),
    ],
)
def test_refusals(planted, settings, error, said):
    with pytest.raises(error, match=said):
        repair(planted.model, planted.task, **settings)


def test_tasks_and_models_that_are_refused(planted, word_tokenizer):
    model, record = planted.model, planted.task[0]
    for changed, said in (
        (Record(record.prompt, (" w4",), (" w9",)), "no place to look at"),
        (Record(record.prompt, (" w4",)), "no wrong answers"),
        (Record(record.prompt, (), (" w5",)), "no answers"),
        (Record(record.prompt, (" w4",), (" w4",)), "start with the same token"),
    ):
        with pytest.raises(ValueError, match=said):
            repair(model, Task("one", (changed,)), heads=["1.0"])
    with pytest.raises(ValueError, match="one record cannot both"):
        repair(model, planted.task[:1])
    with pytest.raises(TypeError, match="give a Task"):
        repair(model, model.encode(record.prompt), heads=["1.0"])
    with pytest.raises(ValueError, match="does not go on from its prompt"):
        repair(interp.wrap(FAMILIES["vit"].model()), planted.task)
    windowed = interp.wrap(FAMILIES["mistral"].model(), word_tokenizer)
    far = Record(words([9, *range(20, 40), 7]), (" w7",), (" w9",))
    with pytest.raises(ValueError, match="layer 1 hides some of them"):
        repair(windowed, Task("far", (far,)), heads=["1.0"])
