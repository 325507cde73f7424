"""Records go to disk and come back as they were; what others write is understood, or told why not."""

import json

import pytest
from PIL import Image

import interp
from interp import Record, Task
from interp.gallery import PNG_MODES


def picture(mode="RGB", turn=0):
    """A small image in which no two pixels are equal."""
    image = Image.linear_gradient("L").resize((6, 4)).rotate(turn)
    return image.convert(mode) if mode != "I;16" else Image.new(mode, (6, 4), 40_000)


TEXT = Record(
    prompt="Rome is in\u2028“Italië” and\tRome",
    answers=(" Italy", " Europe"),
    wrong=(" Spain",),
    counterfactual="Oslo is in",
    counterfactual_answers=(" Norway",),
    spans={"subject": (0, 4), "again": (24, 28)},
    notes={"kind": "city", "numbers": [1, 2.5, None], "deep": {"yes": True}},
)
SEEN = Record("What is it?", (" red",), image=picture(), counterfactual_image=picture(turn=90))


@pytest.fixture
def file(tmp_path):
    """Writes lines, each as JSON if it is not a string, and gives the path."""

    def write(*rows, name="mine.jsonl"):
        path = tmp_path / name
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def test_a_task_comes_back_as_it_went(tmp_path):
    task = Task("things", (TEXT, SEEN, Record("alone")), {"seed": 3})
    path = task.save(tmp_path / "deep" / "things.jsonl")
    back = Task.load(path)
    assert back.records == task.records and back.digest == task.digest
    assert back.name == "things" and back.made == {"file": "things.jsonl"}
    assert interp.Task.load(str(path), name="mine", count=2).records == task.records[:2]
    assert back[0].text("again") == "Rome"
    assert sorted(found.name for found in path.parent.iterdir()) == ["things", "things.jsonl"]


@pytest.mark.parametrize("mode", PNG_MODES)
def test_images_come_back_pixel_by_pixel(mode, tmp_path):
    task = Task("seen", (Record("", ("a",), image=picture(mode)),))
    back = Task.load(task.save(tmp_path / "seen.jsonl"))
    assert back[0] == task[0] and back.digest == task.digest


def test_what_png_or_json_would_change_is_refused(tmp_path):
    path = tmp_path / "seen.jsonl"
    with pytest.raises(ValueError, match=r"mode 'CMYK' .* image.convert\('RGB'\)"):
        Task("seen", (Record("", image=picture("CMYK")),)).save(path)
    for note in ((1, 2), {1: "one"}, {1, 2}, float("nan")):
        with pytest.raises(ValueError, match="record 1 would not come back from JSON"):
            Task("noted", (TEXT, Record("", notes={"note": note}))).save(path)
    with pytest.raises(ValueError, match="has no records to save"):
        Task("none", ()).save(path)
    with pytest.raises(ValueError, match=r"saved as JSONL: '.*seen.jsonl'\?"):
        Task("seen", (TEXT,)).save(tmp_path / "seen")
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_many_records_show_is_kept_once(tmp_path):
    same = [Record(question, image=picture()) for question in ("What?", "Where?")]
    path = Task("seen", (*same, SEEN)).save(tmp_path / "seen.jsonl")
    names = sorted(found.name for found in (tmp_path / "seen").iterdir())
    assert names == ["0000.png", "0002_counterfactual.png"]
    back = Task.load(path)
    assert back.records == (*same, SEEN) and back[0].image is back[2].image


def test_saving_again_replaces_and_spares_what_is_not_ours(tmp_path):
    path = tmp_path / "seen.jsonl"
    Task("seen", (SEEN, SEEN)).save(path)
    assert Task.load(Task("seen", (TEXT,)).save(path)).records == (TEXT,)
    assert not (tmp_path / "seen").exists()
    own = tmp_path / "photos"
    own.mkdir()
    picture().save(own / "0000.png")
    for earlier in ("", '{"prompt": "", "image": "elsewhere/0000.png"}\n'):
        (tmp_path / "photos.jsonl").write_text(earlier)
        with pytest.raises(FileExistsError, match="'.*photos' is there, and is not"):
            Task("seen", (SEEN,)).save(tmp_path / "photos.jsonl")
        assert (tmp_path / "photos.jsonl").read_text() == earlier
        Task("text", (TEXT,)).save(tmp_path / "photos.jsonl")
        assert (own / "0000.png").exists()


def test_a_row_by_hand(file, tmp_path):
    picture().save(tmp_path / "a.png")
    path = file(
        {"prompt": "Rome is in", "answer": "Italy", "spans": {"subject": "Rome"}},
        "",
        {"prompt": "", "answers": "7", "image": "a.png", "wrong": None},
        {"prompt": "Rome", "counterfactual": "Oslo", "counterfactual_answer": " Norway"},
    )
    first, second, third = Task.load(path)
    assert first == Record("Rome is in", ("Italy",), spans={"subject": (0, 4)})
    assert second == Record("", ("7",), image=picture())
    assert third.counterfactual_answers == (" Norway",)
    listed = file(json.dumps([TEXT.row(), {"prompt": "b"}], indent=2), name="listed.json")
    assert Task.load(listed).records == (TEXT, Record("b"))


def test_a_photograph_lies_as_its_camera_says(file, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn right to view
    Image.new("RGB", (6, 4)).save(tmp_path / "turned.jpg", exif=exif)
    image = Task.load(file({"prompt": "", "image": "turned.jpg"}))[0].image
    assert image.size == (4, 6) and image.info == {}


def test_pope_questions(file, tmp_path):
    (tmp_path / "photos").mkdir()
    picture().save(tmp_path / "photos" / "one.png")
    row = {"question_id": 4, "image": "one.png", "text": "Is there a dog?", "label": "no"}
    path = file(row, row | {"question_id": 5, "label": "yes"}, name="questions.json")
    task = Task.load(path, images=tmp_path / "photos")
    assert task[0] == Record(
        "Is there a dog?", (" no",), (" yes",), notes={"question_id": 4}, image=picture()
    )
    assert (task[1].answers, task[1].wrong) == ((" yes",), (" no",))
    assert Task.load(task.save(tmp_path / "kept.jsonl")).records == task.records
    with pytest.raises(FileNotFoundError, match="line 1: there is no image .* images= takes"):
        Task.load(path)
    with pytest.raises(ValueError, match="line 1: the label of a POPE question .* not 'perhaps'"):
        Task.load(file(row | {"label": "perhaps"}))


def test_facts_and_pairs(file):
    fact = {
        "known_id": 0, "subject": "Mount Erebus", "attribute": "Antarctica",
        "template": "{} is in", "prompt": "Mount Erebus is in",
    }  # fmt: skip
    record = Task.load(file(json.dumps([fact]), name="facts.json"))[0]
    assert record.text("subject") == "Mount Erebus" and record.answers == (" Antarctica",)
    assert record.notes == {"known_id": 0, "template": "{} is in"}
    pair = ["Q: The pen is blue. What color is the pen?\nA:", " Blue"]
    expected = Record(pair[0], (" Blue",))
    assert Task.load(file(json.dumps([pair, pair]), name="pairs.json")).records == (expected,) * 2
    assert Task.load(file(pair)).records == (expected,)


MISTAKES = {
    "key": ({"prompt": "a", "anser": "b"}, LookupError, "no key 'anser'. Did you mean 'answer'"),
    "no prompt": ({"answer": "b"}, ValueError, 'there is no "prompt".*give ""'),
    "prompt": ({"prompt": 3}, ValueError, '"prompt" must be a string, not 3'),
    "answer": ({"prompt": "a", "answer": 3}, ValueError, '"answer" must be a string .* not 3'),
    "answers": ({"prompt": "a", "wrong": ["b", 3]}, ValueError, '"wrong" must .* a list of strings'),
    "both": ({"prompt": "a", "answer": "b", "answers": ["b"]}, ValueError, "give one of them"),
    "span": (
        {"prompt": "Rome is old", "spans": {"city": "Roma"}},
        ValueError,
        "span 'city' is 'Roma', which the prompt does not contain. Did you mean 'Rome'",
    ),
    "edges": ({"prompt": "Rome", "spans": {"a": [0, 9]}}, ValueError, r"span 'a' is \[0, 9\)"),
    "edge": ({"prompt": "Rome", "spans": {"a": [0]}}, ValueError, r"or \[start, end\] in characters"),
    "spans": ({"prompt": "Rome", "spans": [0, 2]}, ValueError, '"spans" must be an object'),
    "image": ({"prompt": "a", "image": "b.png"}, FileNotFoundError, "there is no image '.*b.png'"),
    "no image": ({"prompt": "a", "image": "mine.jsonl"}, ValueError, "not an image that Pillow"),
    "list": ([1, 2], ValueError, r"a record is an object such as .*, not \[1, 2\]"),
    "json": ("{prompt: a}", ValueError, r"not JSON .* at character 2.*'\{prompt: a\}'"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_with_their_place(case, file):
    row, error, message = MISTAKES[case]
    with pytest.raises(error, match=f"mine.jsonl, line 2: .*{message}"):
        Task.load(file({"prompt": "good"}, row))


def test_files_that_are_no_records(file, tmp_path):
    with pytest.raises(ValueError, match="holds no records. A record is a line such as"):
        Task.load(file(""))
    with pytest.raises(FileNotFoundError, match="there is no file '.*absent.jsonl'"):
        Task.load(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="listed.json, line 2: not JSON"):
        Task.load(file("[", "{", name="listed.json"))
    with pytest.raises(ValueError, match="record 2: there is no"):
        Task.load(file('[{"prompt": "a"}, {}]', name="listed.json"))
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "Itali\xeb"}')
    with pytest.raises(ValueError, match="latin.jsonl is not text in UTF-8"):
        Task.load(tmp_path / "latin.jsonl")
    with pytest.raises(LookupError, match="no task 'digit'. Did you mean 'digits'"):
        Task.load("digit")
