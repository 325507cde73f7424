"""CHAIR: objects in captions by hand, both readings of its shares, COCO's files, and the words under it."""

import json
from dataclasses import replace

import pytest
from PIL import Image

import interp
from interp import Record, Task
from interp.evaluation import MEASURES, Answers, Synonyms, chair, coco_objects, coco_task
from interp.evaluation.synonyms import COCO
from interp.evaluation.wording import repetition, singulars, whole_sentences, words
from interp.tasks import captions

LINES = """person, man, woman, child, baby, people
dog, puppy,  poodle
hot dog
bear, panda
teddy bear
wine glass
knife, pocketknife
dining table, table, desk
bus, minibus
sandwich, sub
skis, ski
oven, stove top oven
"""


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    path = tmp_path_factory.mktemp("lists") / "objects.txt"
    path.write_text(LINES)
    return Synonyms.load(path, compounds={"baby bear": "bear", "toy bear": "", "adult cub": "cub"})


MENTIONS = {
    "A man with two dogs and a puppy.": ["person", "dog", "dog"],
    "Two hot dogs lie on the table": ["hot dog", "dining table"],
    "A hot-dog, and a dog": ["hot dog", "dog"],
    "TEDDY BEARS, pandas; teddy, bear": ["teddy bear", "bear", "bear"],
    "wine glasses beside a glass of wine": ["wine glass"],
    "knives, sandwiches, buses and subs": ["knife", "sandwich", "bus", "sandwich"],
    "women and children on skis": ["person", "person", "skis"],
    "people's desks": ["person", "dining table"],
    "a baby bear near a baby": ["bear", "person"],
    "a toy bear": [],
    "an adult cub": [],
    "the stove top oven": ["oven"],
    "a dogma of submarines, tabletop": [],
    "": [],
}


@pytest.mark.parametrize("text", MENTIONS)
def test_mentions_by_hand(text, known):
    assert known.mentioned(text) == MENTIONS[text]


def test_the_table_has_a_name_and_a_digest(known, tmp_path):
    assert known.name == "objects" and known.categories[:3] == ("person", "dog", "hot dog")
    assert known.lines[1] == ("dog", "puppy", "poodle")
    same = replace(known, name="other")
    assert same.digest == known.digest != replace(known, lines=known.lines[:-1]).digest
    assert known.digest != replace(known, compounds={}).digest
    assert known.category("panda") == "bear" and known.category("Wine glass") == "wine glass"
    with pytest.raises(LookupError, match="do not know the object 'giraffe'"):
        known.category("giraffe")
    with pytest.raises(ValueError, match="'dog' is both 'dog' and 'pet': a word means one object"):
        Synonyms("two", (("dog", "hound"), ("pet", "dog")))
    with pytest.raises(ValueError, match="name no object"):
        Synonyms("none", ())
    with pytest.raises(FileNotFoundError, match="no file .*absent.txt"):
        Synonyms.load(tmp_path / "absent.txt")


def test_the_public_list_brings_the_published_rules(tmp_path):
    own = ["person, baby", "toilet", "chair, seat", "bird", "train", "hair drier", "elephant"]
    rest = [f"thing{number}" for number in range(80 - len(own))]
    path = tmp_path / "synonyms.txt"
    path.write_text("\n".join(own + rest))
    coco = Synonyms.load(path)
    assert coco.compounds == COCO
    assert coco.mentioned("a baby elephant, an adult bird and a passenger train") == [
        "elephant", "bird", "train"
    ]  # fmt: skip
    assert coco.mentioned("a seat by a toilet") == ["toilet"]
    assert coco.mentioned("a toilet seat") == ["toilet"] and coco.mentioned("a seat") == ["chair"]
    path.write_text("\n".join(own))
    assert Synonyms.load(path).mentioned("a baby elephant") == ["person", "elephant"]


def test_plurals():
    expected = {
        "dogs": "dog", "buses": "bus", "boxes": "box", "puppies": "puppy", "knives": "knife",
        "calves": "calf", "people": "person", "women": "woman", "firemen": "fireman", "vases": "vase",
        "glasses": "glass", "children": "child", "dog's": "dog", "geese": "goose", "crosses": "cross",
    }  # fmt: skip
    for plural, single in expected.items():
        assert single in singulars(plural), plural
    assert singulars("glass") == ["glass"] and singulars("cat") == ["cat"]


def test_words_and_what_repeats():
    assert words("It's a dog, a well-fed one: 3!") == [
        "it's",
        "a",
        "dog",
        "a",
        "well",
        "fed",
        "one",
        "3",
    ]
    text = "a red dog runs and a red dog runs"  # runs of 4: 6, of which one stood before
    assert repetition(text) == pytest.approx(1 / 6)
    assert repetition(text, 1) == pytest.approx(4 / 9)
    assert repetition("a b c") == 0 and repetition("go " * 20) == pytest.approx(16 / 17)
    assert whole_sentences("A dog. A cat is") == "A dog."
    assert (
        whole_sentences("A dog") == "A dog"
        and whole_sentences("It is 3.5 m. Yes") == "It is 3.5 m."
    )
    assert whole_sentences('He said "no." And') == 'He said "no."'


TEXTS = (
    "A dog and a dog on a table. A man.",  # dog there, table and man not
    "A panda.",  # right
    "Nothing at all.",
    "Two bears, a bear, a bus and a",  # bear wrong three times, bus right
)
SHOWN = (["dog"], ["bear", "oven"], ["person"], ["bus"])


def task_of(notes):
    return Task("seen", tuple(Record("Describe.", notes=one) for one in notes))


def test_chair_by_hand(known):
    task = task_of([{"present": one} for one in SHOWN])
    scored = chair(TEXTS, task, synonyms=known)
    # mentions: dog dog table man | bear | - | bear bear bus, and of these wrong: 2 | 0 | 0 | 2
    assert scored.values == pytest.approx(
        {
            "chair_s": 2 / 4,
            "chair_i": 4 / 8,
            "chair_i_unique": 3 / 6,
            "recall": 3 / 5,
            "f1": 2 * 3 / (6 + 5),
            "words": (10 + 2 + 3 + 8) / 4,
            "repetition": 0,
            "cut": 0,
        }
    )
    assert scored.headline == "chair_s" and scored.value == 0.5
    row = scored.table.iloc[0]
    assert (row["named"], row["invented"], row["missed"]) == (
        "dog, dog, dining table, person", "dining table, person", "",
    )  # fmt: skip
    assert scored.rates["chair_i"].better == scored.rates["chair_s"].better == "lower"
    assert scored.protocol["synonyms"] == "objects"
    assert scored.protocol["synonyms digest"] == known.digest
    whole = chair(TEXTS, task, synonyms=known, whole=True)
    assert whole.table["said"][3] == TEXTS[3] and whole.protocol["whole"] is True
    cut = Answers(("A dog. A man", *TEXTS[1:]), task, (False, True, True, True))
    assert chair(cut, synonyms=known).values["chair_s"] == 0.5
    fewer = chair(cut, synonyms=known, whole=True)
    assert fewer.values["chair_s"] == 0.25 and fewer.values["cut"] == 0.25


def test_the_two_shares_differ_where_mentions_repeat(known):
    task = task_of([{"present": ["dog"]}])
    scored = chair(["A man, a man, a man and a dog."], task, synonyms=known)
    assert scored.values["chair_i"] == 3 / 4 and scored.values["chair_i_unique"] == 1 / 2


def test_objects_come_from_records_or_beside_them(known):
    by_id = {7: ["dog"], 8: ["bear"]}
    task = task_of([{"image_id": 7}, {"image": 8}])
    assert chair(["a dog", "a dog"], task, synonyms=known, objects=by_id).values["chair_s"] == 0.5
    assert (
        chair(["a dog", "a panda"], task, synonyms=known, objects=[["dog"], ["panda"]]).value == 0
    )
    with pytest.raises(
        LookupError, match="nothing of record 1: its notes say image_id=None, image=8"
    ):
        chair(["a", "b"], task, synonyms=known, objects={7: ["dog"]})
    with pytest.raises(ValueError, match="names 1 images, and there are more"):
        chair(["a", "b"], task, synonyms=known, objects=[["dog"]])
    with pytest.raises(ValueError, match="nothing says what the image of record 0 shows"):
        chair(["a", "b"], task, synonyms=known)
    with pytest.raises(LookupError, match="do not know the object 'giraffe'"):
        chair(["a", "b"], task, synonyms=known, objects=[["giraffe"], []])


def test_shapes_of_the_shipped_scenes():
    shapes = Synonyms.shapes()
    assert shapes.mentioned("two red circles, three crosses and a rhombus; discs") == [
        "circle", "cross", "diamond", "circle"
    ]  # fmt: skip
    task = Task.load("captions", count=40, rare=True)
    truth = [record.answers[0] for record in task]
    scored = chair(truth, task)
    assert scored.values["chair_s"] == scored.values["chair_i"] == 0
    assert scored.values["recall"] == scored.values["f1"] == 1
    shifted = (
        truth[1:] + truth[:1]
    )  # what another image shows: as the recipes of the model count it
    own, old = chair(shifted, task).values, captions.chair(shifted, list(task))
    assert own["chair_s"] > 0.5
    assert {name: own[name] for name in old} == pytest.approx(old)


def test_captions_that_a_model_writes():
    model = interp.load("demo-vlm")
    task = Task.load("captions", count=8)
    scored = MEASURES["chair"](model, task, max_new_tokens=40)
    assert scored.values["recall"] > 0.8 and scored.values["cut"] == 0
    assert scored.protocol["max_new_tokens"] == 40 and scored.protocol["greedy"]
    short = MEASURES["chair"](model, task, max_new_tokens=3)
    assert short.values["cut"] == 1 and short.values["recall"] < scored.values["recall"]


@pytest.fixture
def coco(tmp_path):
    """COCO's two files, by hand, and its images."""
    instances = {
        "images": [{"id": 5, "file_name": "b.jpg"}, {"id": 9, "file_name": "a.jpg"},
                   {"id": 11, "file_name": "c.jpg"}],
        "categories": [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"},
                       {"id": 67, "name": "dining table"}],
        "annotations": [{"image_id": image, "category_id": category}
                        for image, category in ((5, 18), (5, 18), (5, 1), (9, 67))],
    }  # fmt: skip
    said = {9: "Two women at a table with hot dogs", 5: "A puppy", 99: "A bus"}
    captions = {"annotations": [{"image_id": image, "caption": one} for image, one in said.items()]}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    (tmp_path / "captions.json").write_text(json.dumps(captions))
    for name in "abc":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.jpg")
    return tmp_path


def test_coco_annotations(coco, known):
    plain = coco_objects(coco / "instances.json")
    assert plain == {5: ["dog", "person"], 9: ["dining table"], 11: []}
    both = coco_objects(coco / "instances.json", coco / "captions.json", known)
    assert both == {5: ["dog", "person"], 9: ["dining table", "hot dog", "person"], 11: []}
    with pytest.raises(ValueError, match="captions are read by synonyms="):
        coco_objects(coco / "instances.json", coco / "captions.json")
    with pytest.raises(ValueError, match="has no images and no categories"):
        coco_objects(coco / "captions.json")
    with pytest.raises(FileNotFoundError, match="of annotations"):
        coco_objects(coco / "absent.json")
    (coco / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        coco_objects(coco / "broken.json")


def test_a_task_of_coco(coco, known):
    task = coco_task(coco / "instances.json", coco, count=2, start=1)
    assert [record.notes["image"] for record in task] == ["a.jpg", "c.jpg"]
    assert task[0].notes["present"] == ["dining table"] and task[0].image.size == (4, 4)
    assert task[0].prompt.startswith("Please describe") and task.made["start"] == 1
    assert chair(["A table and a dog", "A bus"], task, synonyms=known).values["chair_s"] == 1
    beside = coco_objects(coco / "instances.json", coco / "captions.json", known)
    scored = chair(["Hot dogs", "Nothing"], task, synonyms=known, objects=beside)
    assert scored.values["chair_s"] == 0
    with pytest.raises(ValueError, match="names 3 images, and none from 3 on"):
        coco_task(coco / "instances.json", coco, start=3)
