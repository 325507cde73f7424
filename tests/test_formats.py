"""Public formats: what each becomes, from a few lines of it, and what is told of lines that are wrong."""

import json

import pytest
from PIL import Image

from interp import Record, Task


@pytest.fixture
def file(tmp_path):
    """Writes JSON lines, or one JSON value, and gives the path."""

    def write(*rows, name="mine.jsonl", **how):
        path = tmp_path / name
        whole = len(rows) == 1 and name.endswith(".json")
        path.write_text(json.dumps(rows[0], **how) if whole else "\n".join(map(json.dumps, rows)))
        return path

    return write


CONTEXT = "The map is in the bag. The key is in the jar!  Ann took the hat."
PLAIN = {
    "question": "Where is the key?",
    "context": CONTEXT,
    "answers": ["jar", "the jar"],
    "id": "a1",
}
PROMPT = f"Context: {CONTEXT} Q: Where is the key? A:"


def test_questions_about_a_context(file):
    record = Task.load(file(PLAIN))[0]
    assert (record.prompt, record.answers) == (PROMPT, (" jar", " the jar"))
    assert (record.text("context"), record.text("question")) == (CONTEXT, "Where is the key?")
    assert record.notes == {"id": "a1"} and "key" not in record.spans
    one = {"question": "Where?", "context": "In the jar.", "answer": "jar"}
    assert Task.load(file(one))[0].answers == (" jar",)


def test_squad_as_published_and_by_row(file):
    start = CONTEXT.index("jar")
    asked = {"id": "q1", "question": PLAIN["question"], "answers": [
        {"text": "jar", "answer_start": start}, {"text": "jar", "answer_start": start}]}  # fmt: skip
    other = {"id": "q2", "question": "Who took it?", "answers": [
        {"text": "Ann", "answer_start": CONTEXT.index("Ann")}]}  # fmt: skip
    whole = {"version": "1.1", "data": [
        {"title": "Things", "paragraphs": [{"context": CONTEXT, "qas": [asked, other]}]}]}  # fmt: skip
    for settings in ({}, {"indent": 2}):
        task = Task.load(file(whole, name="squad.json", **settings))
        assert len(task) == 2 and task[0].prompt == PROMPT and task[0].answers == (" jar",)
        assert task[0].text("key") == "The key is in the jar!"
        assert task[1].text("key") == "Ann took the hat."
        assert task[0].notes == {"id": "q1", "title": "Things"}
    row = PLAIN | {"answers": {"text": ["jar"], "answer_start": [start]}, "title": "Things"}
    assert Task.load(file(row))[0].text("key") == "The key is in the jar!"
    inside = row | {
        "context": f"  {CONTEXT}",
        "answers": {"text": ["jar"], "answer_start": [start + 2]},
    }
    assert Task.load(file(inside))[0].prompt == PROMPT
    assert Task.load(file(inside))[0].text("key") == "The key is in the jar!"


DOCUMENTS = [["Rome", ["It is old.", " It is in Italy."]], ["Oslo", ["It is in Norway."]]]
HOPS = {
    "_id": "5a", "question": "Which is in Italy?", "answer": "Rome", "type": "bridge", "level": "hard",
    "context": DOCUMENTS, "supporting_facts": [["Rome", 1], ["Oslo", 0], ["Oslo", 7]],
}  # fmt: skip


def test_questions_over_documents(file):
    record = Task.load(file([HOPS], name="hops.json"))[0]
    context = "Rome: It is old. It is in Italy.\n\nOslo: It is in Norway."
    assert record.prompt == f"Context: {context} Q: Which is in Italy? A:"
    named = {name: record.text(name) for name in record.spans}
    assert named == {
        "context": context, "question": "Which is in Italy?", "key": "It is in Italy.",
        "key 1": "It is in Norway.", "document 0": "Rome: It is old. It is in Italy.",
        "document 1": "Oslo: It is in Norway.",
    }  # fmt: skip
    assert record.notes == {"_id": "5a", "type": "bridge", "level": "hard"}
    columns = HOPS | {
        "context": {"title": ["Rome", "Oslo"], "sentences": [one for _, one in DOCUMENTS]},
        "supporting_facts": {"title": ["Rome", "Oslo"], "sent_id": [1, 0]},
    }
    assert Task.load(file(columns))[0] == record


LETTERED = "2 + 2 =\nA. 3\nB. 4\nC. 5\nAnswer:"
ARC = {"stem": "2 + 2 =", "choices": [
    {"text": "3", "label": "A"}, {"text": "4", "label": "B"}, {"text": "5", "label": "C"}]}  # fmt: skip
COLUMNS = {"text": ["3", "4", "5"], "label": ["A", "B", "C"]}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "2 + 2 =", "choices": ["3", "4", "5"], "answer": 1},
        {"question": "2 + 2 =", "choices": ["3", "4", "5"], "answer": "B"},
        {"question": "2 + 2 =", "choices": ["3", "4", "5"], "answer": "4"},
        {"question": "2 + 2 =", "options": ["3", "4", "5"], "answer": "B"},
        {"question": "2 + 2 =", "options": {"A": "3", "B": "4", "C": "5"}, "answer_idx": "B"},
        {"question": ARC, "answerKey": "B"},
        {"question": "2 + 2 =", "choices": COLUMNS, "answerKey": "B"},
        {"question_stem": "2 + 2 =", "choices": COLUMNS, "answerKey": "B"},
    ],
    ids=str,
)
def test_multiple_choice(row, file):
    record = Task.load(file(row | {"subject": "sums"}))[0]
    assert record == Record(
        LETTERED, (" B",), (" A", " C"),
        notes={"subject": "sums", "choices": ["3", "4", "5"], "right": 1},
    )  # fmt: skip


def test_letters_are_the_files_own(file):
    row = {
        "question": "2 + 2 =",
        "choices": {"text": ["3", "4"], "label": ["1", "2"]},
        "answerKey": "2",
    }
    record = Task.load(file(row))[0]
    assert record.prompt == "2 + 2 =\n1. 3\n2. 4\nAnswer:" and record.answers == (" 2",)


@pytest.mark.parametrize("label", [1, "1"])
def test_endings(label, file):
    row = {"ctx": "She opens the ", "endings": ["sea.", "door."], "label": label, "ind": 4}
    record = Task.load(file(row))[0]
    assert (record.prompt, record.answers, record.wrong) == (
        "She opens the",
        (" door.",),
        (" sea.",),
    )
    assert record.notes == {"ind": 4, "choices": ["sea.", "door."], "right": 1}


def test_classes(file):
    rows = [{"sentence": "A fine film.", "label": "good"}, {"sentence": "Dull.", "label": "bad"}]
    first, second = Task.load(file(*rows))
    assert (first.prompt, first.answers, first.wrong) == (
        "Sentence: A fine film.\nLabel:", (" good",), (" bad",)
    )  # fmt: skip
    assert (second.answers, second.wrong) == ((" bad",), (" good",))
    number = {"text": "Dull.", "label": 0, "instruction": "Good or bad?", "idx": 3}
    record = Task.load(file(number), labels=["bad", "good", "neither"])[0]
    assert record.prompt == "Good or bad?\nText: Dull.\nLabel:" and record.notes == {"idx": 3}
    assert (record.answers, record.wrong) == ((" bad",), (" good", " neither"))


def test_pope_as_the_data_sets_library_holds_it(file, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "Is there a dog?", "answer": "No", "category": "random"}
    record = Task.load(file(row))[0]
    assert (record.prompt, record.answers, record.wrong) == ("Is there a dog?", (" no",), (" yes",))
    assert record.notes == {"category": "random"} and record.image is not None
    plain = {"image": "a.png", "text": "Is there a dog?", "label": "yes"}
    assert Task.load(file(plain))[0].answers == (" yes",)


def test_lists_under_data_and_own_records_stay(file):
    rows = [{"prompt": "a", "answer": "b"}, {"prompt": "c", "answer": "d"}]
    assert len(Task.load(file({"data": rows}, name="rows.json"))) == 2
    assert Task.load(file(rows[0], name="one.json", indent=1))[0] == Record("a", ("b",))
    many = file(*rows, name="lines.json")
    assert len(Task.load(many)) == 2


MISTAKES = {
    "no answer": (PLAIN | {"answers": []}, "has no answer .SQuAD 2"),
    "answers": (PLAIN | {"answers": [3]}, "answers are a text, texts, or SQuAD's"),
    "start": (PLAIN | {"answers": {"text": ["jar"], "answer_start": [999]}}, "answer_start is 999"),
    "context": (PLAIN | {"context": " "}, '"context" must be a text'),
    "documents": (HOPS | {"context": [["Rome", "It is old."]]}, r"\[\[title, \[sentence, ...\]\]"),
    "pairs": (HOPS | {"supporting_facts": ["Rome"]}, r"expected \[\[title, sent_id\], ...\]"),
    "one choice": ({"question": "?", "choices": ["a"], "answer": 0}, "at least two choices"),
    "no such choice": ({"question": "?", "choices": ["a", "b"], "answer": 2}, "no number below 2"),
    "true": ({"question": "?", "choices": ["a", "b"], "answer": True}, "answer True is no letter"),
    "letter": ({"question": "?", "choices": ["a", "b"], "answerKey": "E"}, "'E' is no letter"),
    "no choices": ({"question": "?", "choices": 3, "answer": 0}, "at most 26 choices, not '\\?' with 3"),
    "ending": ({"ctx": "a", "endings": ["b", "c"], "label": ""}, "none of the 2 endings"),
    "endings": ({"ctx": "a", "endings": "b", "label": 0}, "'endings' are at least two"),
    "class": ({"text": "a", "label": 1}, r"the label 1 has no name: Task.load\(path, labels="),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_with_their_place(case, file):
    row, message = MISTAKES[case]
    with pytest.raises(ValueError, match=f"mine.jsonl, line 2: .*{message}"):
        Task.load(file({"prompt": "good"}, row))


def test_labels_that_are_not_there(file):
    for label in (2, "fine"):
        with pytest.raises(ValueError, match=r"is none of labels=\['bad', 'good'\]"):
            Task.load(file({"text": "a", "label": label}), labels=["bad", "good"])
