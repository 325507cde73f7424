"""Multi-query associative recall: rows as published, and one of their queries in words."""

import pytest
import torch

import interp
from interp.tasks import TASKS, suited
from interp.tasks.mqar import IGNORED, rows, slot_chances


@pytest.mark.parametrize(
    ("length", "pairs", "slots", "first", "last"),
    [
        (64, 4, 28, (0.2511, 0.1264, 0.0846), 0.0093),
        (256, 16, 112, (0.1847, 0.0930, 0.0623), 0.0017),
    ],
)
def test_published_slots(length, pairs, slots, first, last):
    chances = slot_chances(length, pairs)
    assert len(chances) == slots and float(chances.sum()) == pytest.approx(1)
    assert chances[:3].tolist() == pytest.approx(first, abs=5e-5)
    assert float(chances[-1]) == pytest.approx(last, abs=5e-5)


@pytest.mark.parametrize("others", [False, True])
def test_rows_ask_for_each_key_once(others):
    inputs, labels = rows(500, random_others=others)
    asked = labels != IGNORED
    assert asked.sum(1).tolist() == [4] * 500
    places = asked.nonzero()[:, 1]
    assert int(places.min()) >= 8 and not bool((places % 2).any())
    for row in range(500):
        known = dict(zip(inputs[row, :8:2].tolist(), inputs[row, 1:8:2].tolist(), strict=True))
        queries = inputs[row][asked[row]].tolist()
        assert sorted(queries) == sorted(known) and len(known) == 4
        assert [known[key] for key in queries] == labels[row][asked[row]].tolist()
        rest = inputs[row, 8:][~asked[row, 8:]]
        assert not set(rest.tolist()) & set(known) if others else not bool(rest.any())
    assert int(inputs[:, :8:2].max()) < 4096 <= int(inputs[:, 1:8:2].min())


def test_queries_come_early():
    """Published: in rows of 64 with 4 pairs, labels stand at 22.3 on average."""
    _, labels = rows(4000)
    mean = (labels != IGNORED).nonzero()[:, 1].float().mean()
    assert float(mean) == pytest.approx(22.3, abs=0.4)


def test_rows_are_seeded():
    assert all(torch.equal(one, other) for one, other in zip(rows(9), rows(9), strict=True))
    assert not torch.equal(rows(9)[0], rows(9, seed=1)[0])


def test_a_record_asks_for_the_value_of_its_last_key():
    for record in TASKS["mqar"](60):
        words = record.prompt.split()
        known = dict(zip(words[:8:2], words[1:8:2], strict=True))
        assert record.text("current") == words[-1]
        assert record.answers == (f" {known[words[-1]]}",)
        assert record.text("source") == known[words[-1]]
        assert set(record.wrong) == {f" {value}" for value in known.values()} - {*record.answers}
        other = record.counterfactual.split()
        changed = [at for at, word in enumerate(words) if other[at] != word]
        assert len(changed) == 2 and max(changed) < 8
        assert (
            f" {dict(zip(other[:8:2], other[1:8:2], strict=True))[words[-1]]}"
            == (record.counterfactual_answers[0])
        )


def test_the_demo_model_is_given_words_that_it_has():
    model = interp.load("demo-lm")
    task = suited(model, "mqar", count=20)
    clean, other = task.encode(model), task.encode(model, counterfactual=True)
    assert clean.mask.sum(-1).tolist() == other.mask.sum(-1).tolist()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"pairs": 1}, "at least 2"),
        ({"length": 8}, r"4 \* pairs"),
        ({"words": ["a", "b"]}, "there are 2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TASKS["mqar"](4, **settings)


def test_rows_without_room_are_refused():
    with pytest.raises(ValueError, match="4 \\* pairs"):
        rows(2, length=8)
    with pytest.raises(ValueError, match="vocabulary=8"):
        rows(2, vocabulary=8)
