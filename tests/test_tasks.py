"""What every generator of text tasks promises, checked from the text alone."""

import itertools
import re
from dataclasses import replace

import pytest

import interp
from data.recipes.lm_documents import TEXT_TASKS
from interp.tasks import SPLITS, TASKS, split_of
from interp.tasks.facts import PEOPLE
from interp.tasks.words import (
    BAD,
    CAPITALS,
    DAYS,
    GLAD,
    GOOD,
    MONTHS,
    NAMES,
    NUMBERS,
    ORDINALS,
    SAD,
    TRIGGERS,
)

COUNT = 60


def answer_ioi(record):
    names = re.findall(r"\b([A-Z][a-z]+)\b", record.prompt)
    people = [name for name in names if names.count(name) == 1 and name in NAMES]
    return {people[0]}


def answer_objects(record):
    block = record.prompt.rsplit("Q:", 1)[1]
    asked = re.search(r"What color is the (\w+)\?", block).group(1)
    return {re.search(rf"an? (\w+) {asked}[,.]", block).group(1)}


def answer_repeats(record):
    words = record.prompt.split()
    earlier = [place for place, word in enumerate(words[:-1]) if word == words[-1]]
    return {words[earlier[0] + 1]}


def answer_years(record):
    century, start, again = re.search(r"year (\d\d)(\d\d) .* (\d\d)$", record.prompt).groups()
    assert century == again
    return {f"{year:02d}" for year in range(100) if year > int(start)}


def answer_successor(record):
    words = re.findall(r"\w+", record.prompt)
    kind = next(kind for kind in (DAYS, MONTHS, NUMBERS, ORDINALS) if words[-1] in kind)
    return {kind[(kind.index(words[-1]) + 1) % len(kind)]}


def answer_facts(record):
    (person,) = [one for one in PEOPLE if one.name in record.prompt]
    phrases = {
        "city": "city of|home|house|found|rent",
        "sport": "sport of|weekend|nothing|club|prize",
    }
    for relation, pattern in phrases.items():
        if re.search(pattern, record.text("relation")):
            return {person[relation]}
    return {person["instrument"]}


def answer_capitals(record):
    words = set(re.findall(r"\w+", record.prompt))
    pairs = {**CAPITALS, **{city: country for country, city in CAPITALS.items()}}
    return {pairs[word] for word in words & set(pairs)}


def answer_sentiment(record):
    words = set(record.prompt.replace(".", "").split())
    good = bool(words & set(GOOD))
    assert good != bool(words & set(BAD))
    return set(GLAD if good else SAD)


def answer_backcopy(record):
    *_, copied, trigger = record.prompt.split()
    assert trigger in TRIGGERS
    return {copied}


def answer_open_book(record):
    context, question = record.prompt.removeprefix("Context: ").split(" Q: ")
    asked = re.search(r"(?:Where is the|Who has the|Where does) (.*?)(?: live)?\?", question).group(
        1
    )
    (sentence,) = [
        one + "." for one in context.rstrip(".").split(". ") if asked in one.split(" moved")[0]
    ]
    assert sentence == record.text("key")
    if " has the " in sentence:
        return {sentence.split()[0]}
    return {sentence.rstrip(".").split()[-1]}


ANSWERS = {
    "ioi": answer_ioi,
    "colored_objects": answer_objects,
    "induction": answer_repeats,
    "gapped_repeats": answer_repeats,
    "greater_than": answer_years,
    "successor": answer_successor,
    "facts": answer_facts,
    "capitals": answer_capitals,
    "sentiment": answer_sentiment,
    "bigram_backcopy": answer_backcopy,
    "open_book": answer_open_book,
}
VARIETIES = [
    *((name, {}) for name in TEXT_TASKS),
    *(("colored_objects", {"shots": shots}) for shots in (0, 2)),
    *(("open_book", {"kind": kind, "sentences": 12}) for kind in ("where", "who", "lives")),
    *(("ioi", {"counterfactual": kind}) for kind in ("flip", "io", "s2")),
    ("ioi", {"order": "BABA", "templates": "mixed"}),
    ("colored_objects", {"apart": True, "without": ["cup", "pink"]}),
    ("capitals", {"opened": True, "without": ["Rome"]}),
    ("induction", {"period": 2}),
]
each_variety = pytest.mark.parametrize(("name", "settings"), VARIETIES)


@each_variety
def test_answers_are_right(name, settings):
    for record in TASKS[name](COUNT, **settings):
        assert {answer.strip() for answer in record.answers} == ANSWERS[name](record), record
        assert not set(record.answers) & set(record.wrong)


@each_variety
def test_counterfactuals_change_the_answer_and_not_the_length(name, settings):
    for record in TASKS[name](COUNT, **settings):
        assert record.counterfactual != record.prompt
        assert len(record.counterfactual.split()) == len(record.prompt.split())
        if name != "greater_than":  # where most answers stay right
            assert not set(record.counterfactual_answers) & set(record.answers)


@each_variety
def test_one_seed_one_task_and_no_item_twice(name, settings):
    task, again, other = (TASKS[name](COUNT, seed=seed, **settings) for seed in (0, 0, 1))
    assert task.digest == again.digest != other.digest
    items = [TASKS[name].item(record) for record in task]
    assert len(set(items)) == COUNT


@each_variety
def test_splits_share_no_item(name, settings):
    generator = TASKS[name]
    drawn = {
        split: {
            generator.item(record)
            for seed in (0, 5)
            for record in itertools.islice(generator.stream(split, seed, **settings), 300)
        }
        for split in SPLITS
    }
    for one, two in itertools.combinations(SPLITS, 2):
        assert not drawn[one] & drawn[two]


def test_what_is_asked_of_one_context_stays_in_one_split():
    """A context, a scene of names or a set of objects is in one split, whatever is asked about it."""
    for name in ("open_book", "colored_objects", "ioi"):
        for record in TASKS[name](COUNT, "test"):
            asked = {"open_book": "question", "colored_objects": "asked", "ioi": "S2"}[name]
            start, end = record.spans[asked]
            other = record.prompt[:start] + "another" + record.prompt[end:]
            kept = {name: span for name, span in record.spans.items() if span[1] <= start}
            changed = replace(record, prompt=other, spans=kept | {asked: (start, start + 7)})
            assert split_of(TASKS[name].item(changed)) == "test"


def test_splits_are_eight_one_one():
    found = [split_of(str(number)) for number in range(5000)]
    assert 0.77 < found.count("train") / 5000 < 0.83
    assert 0.08 < found.count("test") / 5000 < 0.12


@pytest.fixture(scope="module")
def reader():
    """An untrained model that reads with the demo model's tokenizer."""
    from transformers import LlamaForCausalLM

    from data.recipes import demo_lm, lm_tokenizer

    tokenizer = lm_tokenizer.build()
    return interp.wrap(LlamaForCausalLM(demo_lm.configuration(len(tokenizer))), tokenizer)


@each_variety
def test_spans_stand_on_the_right_tokens(reader, name, settings):
    task = TASKS[name](20, **settings)
    prompt = task.encode(reader)
    for row, record in enumerate(task):
        for span in record.spans:
            ids = prompt.ids[row][prompt.where(span)[row]]
            assert reader.tokenizer.decode(ids).strip() == record.text(span), (span, record)


@each_variety
def test_every_word_is_known_and_a_counterfactual_has_as_many_tokens(reader, name, settings):
    for record in TASKS[name](COUNT, **settings):
        ids = reader.tokenizer(record.prompt + record.answers[0])["input_ids"]
        assert reader.tokenizer.unk_token_id not in ids
        both = reader.tokenizer([record.prompt, record.counterfactual])["input_ids"]
        assert len(both[0]) == len(both[1])


def test_any_two_people_share_at_most_one_name():
    names = [person.name.split() for person in PEOPLE]
    assert len(names) == 60
    for one, two in itertools.combinations(names, 2):
        assert sum(map(str.__eq__, one, two)) < 2


def test_conflicts_are_what_they_say():
    for record in TASKS["open_book"](COUNT, conflict="statements", sentences=6):
        about = [one for one in record.notes["sentences"] if record.text("asked") in one]
        assert len(about) == 2 and record.text("key") in about
        assert any(record.wrong[0].strip() in one for one in about)
    for record in TASKS["open_book"](COUNT, conflict="memory", sentences=4):
        (person,) = [one for one in PEOPLE if one.name == record.text("asked")]
        assert record.wrong == (f" {person.city}",)
        assert record.answers != record.wrong
    last = TASKS["open_book"](COUNT, conflict="statements", sentences=6, last=1.0)
    for record in last:
        places = [
            at for at, one in enumerate(record.notes["sentences"]) if record.text("asked") in one
        ]
        assert record.notes["key"] == places[-1]


def test_evidence_is_the_key_sentence():
    for record in TASKS["open_book"](COUNT, ask="evidence", sentences=8):
        assert record.answers == (" " + record.text("key"),)
        assert record.prompt.endswith("Evidence:")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("ioi", {"split": "tests"}, "Did you mean 'test'"),
        ("ioi", {"counterfactual": "flipped"}, "Did you mean 'flip'"),
        ("open_book", {"kind": "were"}, "Did you mean 'where'"),
        ("open_book", {"kind": "who", "conflict": "memory"}, "goes with kind 'lives'"),
        ("open_book", {"kind": "lives", "conflict": "statements"}, "goes with kind 'where'"),
        ("open_book", {"sentences": 40}, "2 to 15"),
        ("colored_objects", {"shots": 9}, "0 to 4"),
        ("facts", {"relation": "town"}, "There are"),
        ("successor", {"count": 5000}, "Ask for fewer"),
        ("open_book", {"sentences": (8, 2)}, "2 to 15"),
        ("induction", {"period": 1}, "at least 2"),
        ("induction", {"period": 1000}, "different words"),
        ("ioi", {"count": 0}, "a whole number from 1"),
        ("ioi", {"template": 99}, "0 to 7"),
        ("facts", {"person": 60}, "0 to 59"),
        ("facts", {"asides": 20}, "0 to 8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        TASKS[name](**settings)


def test_an_unknown_task_offers_the_nearest():
    with pytest.raises(LookupError, match="Did you mean 'ioi'"):
        interp.Task.load("io")


def test_an_unknown_setting_offers_the_nearest():
    with pytest.raises(TypeError, match="Did you mean 'count'"):
        interp.Task.load("facts", cuont=20)


def test_scores_that_would_mean_nothing_are_refused(reader):
    from interp.families import FAMILIES
    from interp.task import Record, Task

    said = Record("The capital of France is", (" Paris",), (" Rome",))
    with pytest.raises(ValueError, match="start with the same token"):
        interp.score(reader, TASKS["open_book"](3, ask="evidence"))
    with pytest.raises(ValueError, match="does not know"):
        interp.score(reader, Task("own", (Record(said.prompt, (" Xylo",)),)))
    with pytest.raises(ValueError, match="no answers"):
        interp.score(reader, Task("own", (Record(said.prompt),)))
    with pytest.raises(TypeError, match="takes a Task"):
        interp.score(reader, "facts")
    with pytest.raises(ValueError, match="no next token"):
        interp.score(interp.wrap(FAMILIES["bert"].model(), reader.tokenizer), Task("own", (said,)))
    with pytest.raises(TypeError, match="answers are several"):
        Record(said.prompt, " Paris")
    with pytest.raises(LookupError, match="Did you mean 'subject'"):
        TASKS["facts"](1)[0].text("subjct")
