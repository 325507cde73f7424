"""What the scene tasks promise: no scene in two splits, answers that are so, pictures that show it."""

import math
import random
import re

import numpy as np
import pytest

from interp.tasks import SPLITS, TASKS, split_of
from interp.tasks.captions import chair, mentioned
from interp.tasks.drawing import draw
from interp.tasks.phrases import NUMBERS
from interp.tasks.scene import COLOURS, SHAPES, SIDE, layout_of, scene, things_of

KINDS = {
    "existence": ("existence", {}),
    "popular": ("existence", {"negatives": "popular"}),
    "adversarial": ("existence", {"negatives": "adversarial"}),
    "colour": ("colour", {}),
    "small": ("colour", {"small": True}),
    "count": ("count", {}),
    "where": ("where", {}),
    "captions": ("captions", {}),
    "rare": ("captions", {"rare": True}),
}


def task(name, count=40, split="test", seed=0):
    generator, settings = KINDS[name]
    return TASKS[generator](count=count, split=split, seed=seed, **settings)


def true_answer(question, notes):
    """Worked out from the notes alone, by reading the question."""
    objects = notes
    words = re.findall(r"[a-z]+", question.lower())
    colour = next((word for word in words if word in COLOURS), None)
    shape = next((each for word in words for each in SHAPES if word in plurals(each)), None)
    fitting = [
        each
        for each in objects
        if shape in (None, each["shape"]) and colour in (None, each["colour"])
    ]
    if words[0] == "is":
        return " yes" if fitting else " no"
    if words[:2] == ["how", "many"]:
        return f" {NUMBERS[len(fitting)]}"
    if words[0] == "describe":
        return " " + listed([f"{each['colour']} {each['shape']}" for each in objects])
    assert len(fitting) == 1, "the question must be about one object"
    only = fitting[0]
    if words[0] == "what":
        return f" {only['colour']}"
    down = "top" if only["y"] < SIDE / 2 else "bottom"
    return f" {down} {'left' if only['x'] < SIDE / 2 else 'right'}"


def plurals(shape):
    return (shape, f"{shape}s", f"{shape}es")


def listed(names):
    named = [f"an {name}" if name.startswith("orange") else f"a {name}" for name in names]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


@pytest.mark.parametrize("name", KINDS)
def test_the_answers_are_so_on_both_sides(name):
    for record in task(name):
        assert record.answers == (true_answer(record.prompt, record.notes["objects"]),)
        other = true_answer(record.prompt, record.notes["counterfactual_objects"])
        assert record.counterfactual_answers == (other,)
        assert other != record.answers[0] and record.answers[0] not in record.wrong


@pytest.mark.parametrize("name", KINDS)
def test_the_same_seed_makes_the_same_task(name):
    assert task(name, 5).digest == task(name, 5).digest
    assert task(name, 5).digest != task(name, 5, seed=1).digest


def test_no_scene_is_in_two_splits_whatever_is_asked():
    seen = {split: set() for split in SPLITS}
    for name in KINDS:
        for split in SPLITS:
            for record in task(name, 25, split):
                seen[split].add(layout_of(record))
                others = [note["cell"] for note in record.notes["counterfactual_objects"]]
                seen[split].add(" ".join(str(cell) for cell in sorted(others)))
    for split, layouts in seen.items():
        assert {split_of(layout) for layout in layouts} == {split}


@pytest.mark.parametrize("name", KINDS)
def test_the_counterfactual_is_seen(name):
    for record in task(name, 10):
        pixels, other = np.asarray(record.image), np.asarray(record.counterfactual_image)
        assert pixels.shape == other.shape == (SIDE, SIDE, 3)
        assert (pixels != other).any()


@pytest.mark.parametrize("name", ["existence", "popular", "adversarial"])
def test_yes_and_no_are_balanced(name):
    records = task(name, 300)
    yes = sum(record.answers == (" yes",) for record in records)
    assert abs(yes - 150) < 3 * math.sqrt(300 / 4)


def test_an_object_changes_the_pixels_of_its_box_and_no_others():
    chance = random.Random(0)
    for number in range(60):
        things = scene(chance, weak=0.5)
        whole = draw(things, number).astype(int)
        for thing in things:
            rest = [each for each in things if each is not thing]
            changed = (whole != draw(rest, number)).any(-1)
            left, top, right, bottom = thing.box
            inside = np.zeros_like(changed)
            inside[int(top) : math.ceil(bottom), int(left) : math.ceil(right)] = True
            assert not (changed & ~inside).any()
            if thing.alpha == 1:
                assert changed.any()


def test_a_clear_object_has_its_colour_in_the_middle():
    chance = random.Random(1)
    for number in range(30):
        things = scene(chance, weak=0.0)
        pixels = draw(things, number).astype(float)
        for thing in things:
            y, x = int(thing.y), int(thing.x)
            seen = pixels[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1))
            far = {
                name: np.abs(seen - (np.array(rgb) + thing.tint)).sum()
                for name, rgb in COLOURS.items()
            }
            assert min(far, key=far.__getitem__) == thing.colour


def test_notes_hold_the_scene():
    for record in task("where", 10):
        notes = record.notes["objects"]
        assert [thing.note() for thing in things_of(record)] == list(notes)
        asked = notes[record.notes["asked"]]
        assert record.text("shape") == asked["shape"]
        assert record.text("colour") == asked["colour"]


def test_adversarial_questions_go_against_what_is_usual():
    usual = {"circle": "red", "square": "blue", "triangle": "green"}
    for record in task("adversarial", 60):
        shape, yes = record.text("shape"), record.answers == (" yes",)
        if "colour" in record.spans:
            assert (record.text("colour") == usual[shape]) != yes
        else:
            leader = {"square": "circle", "diamond": "cross"}[shape]
            led = any(note["shape"] == leader for note in record.notes["objects"])
            assert led != yes


def test_small_objects_are_small_and_in_company():
    for record in task("small"):
        notes = record.notes["objects"]
        asked = notes[record.notes["asked"]]
        assert len(notes) >= 5 and asked["radius"] <= 1.1
        assert all(note["radius"] > 4 for note in notes if note is not asked)


def test_rare_scenes_lack_a_companion():
    for record in task("rare"):
        shapes = {note["shape"] for note in record.notes["objects"]}
        assert {"circle"} <= shapes - {"square"} or {"cross"} <= shapes - {"diamond"}
        assert not {"circle", "square"} <= shapes or not {"cross", "diamond"} <= shapes


def test_unknown_negatives_are_refused_with_the_list():
    with pytest.raises(ValueError, match="Did you mean 'popular'"):
        TASKS["existence"](count=1, negatives="populer")


def test_chair_counts_what_is_not_there():
    records = list(task("captions", 2))
    truth = [record.answers[0] for record in records]
    assert chair(truth, records) == {"chair_i": 0, "chair_s": 0, "recall": 1}
    absent = next(s for s in SHAPES if s not in {n["shape"] for n in records[0].notes["objects"]})
    added = [f"{truth[0]} and a red {absent}", truth[1]]
    named = len(mentioned(added[0])) + len(mentioned(added[1]))
    assert chair(added, records) == {"chair_i": 1 / named, "chair_s": 0.5, "recall": 1}
