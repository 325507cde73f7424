"""Generators after published ones, checked from their texts; and tasks in one-token words.

INTERP_GPT2_TOKENIZER names a folder with GPT-2's vocab.json and merges.txt; without it what needs
GPT-2's own tokens is skipped. A tokenizer of the same kind, trained here, is used always.
"""

import hashlib
import importlib
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest

import interp
from interp.tasks import SPLITS, TASKS, suited
from interp.tasks.published import (
    IOI_GIFTS,
    IOI_NAMES,
    IOI_PLACES,
    IOI_TEMPLATES,
    OBJECTS_BLOCK,
    OBJECTS_COLOURS,
    OBJECTS_ITEMS,
    OBJECTS_SURFACES,
    YEARS,
    YEARS_NOUNS,
)
from interp.tasks.words import CAPITALS, COLOURS, WORDS

IOI = ("names", "flip", "io", "s2")
PUBLISHED = [
    *(("ioi", {"wording": "published", "counterfactual": kind}) for kind in IOI),
    ("colored_objects", {"wording": "published"}),
    ("colored_objects", {"wording": "published", "shots": 0}),
    ("greater_than", {"wording": "published"}),
]
each_published = pytest.mark.parametrize(("name", "settings"), PUBLISHED)
SUITED = [
    *(("ioi", {"counterfactual": kind}) for kind in IOI),
    ("ioi", {"variant": "names", "templates": "mixed", "order": "BABA"}),
    *(("colored_objects", {"shots": shots}) for shots in (0, 1)),
    *((name, {}) for name in ("greater_than", "induction", "gapped_repeats", "capitals")),
]
SPLIT = ("Mary", "Jose", "Cody")  # names that the tokenizer trained here has in pieces


# What the published templates say, in both orders.
SAID = [
    r"Then, (\w+) and (\w+) went to the (\w+)\. (\w+) gave a (\w+) to",
    r"Then, (\w+) and (\w+) had a lot of fun at the (\w+)\. (\w+) gave a (\w+) to",
    r"Then, (\w+) and (\w+) were working at the (\w+)\. (\w+) decided to give a (\w+) to",
    r"Then, (\w+) and (\w+) were thinking about going to the (\w+)\. (\w+) wanted to give a (\w+) to",
    r"Then, (\w+) and (\w+) had a long argument, and afterwards (\w+) said to",
    r"After (\w+) and (\w+) went to the (\w+), (\w+) gave a (\w+) to",
    r"When (\w+) and (\w+) got a (\w+) at the (\w+), (\w+) decided to give it to",
    r"When (\w+) and (\w+) got a (\w+) at the (\w+), (\w+) decided to give the \3 to",
    r"While (\w+) and (\w+) were working at the (\w+), (\w+) gave a (\w+) to",
    r"While (\w+) and (\w+) were commuting to the (\w+), (\w+) gave a (\w+) to",
    r"After the lunch, (\w+) and (\w+) went to the (\w+)\. (\w+) gave a (\w+) to",
    r"Afterwards, (\w+) and (\w+) went to the (\w+)\. (\w+) gave a (\w+) to",
    r"Then, (\w+) and (\w+) had a long argument\. Afterwards (\w+) said to",
    r"The (\w+) (\w+) and (\w+) went to had a (\w+)\. (\w+) gave it to",
    r"Friends (\w+) and (\w+) found a (\w+) at the (\w+)\. (\w+) gave it to",
]


def names_in(text, known=IOI_NAMES):
    return [word for word in re.findall(r"\w+", text) if word in known]


def with_names(text, known, name):
    return re.sub(rf"\b({'|'.join(known)})\b", name, text)


def test_the_lists_are_as_long_as_published():
    lists = (IOI_NAMES, IOI_PLACES, IOI_GIFTS, OBJECTS_ITEMS, OBJECTS_COLOURS, OBJECTS_SURFACES)
    assert [len(set(each)) for each in lists] == [len(each) for each in lists]
    assert [len(each) for each in lists] == [99, 8, 8, 17, 8, 3]
    assert len(set(YEARS_NOUNS)) == len(YEARS_NOUNS) == 120
    assert len(IOI_TEMPLATES) == 15


def test_indirect_objects_in_fifteen_templates_and_two_orders():
    found = Counter()
    for record in TASKS["ioi"](2000, "train", wording="published"):
        template, order = record.notes["template"], record.notes["order"]
        assert re.fullmatch(SAID[template], record.prompt)
        first, second, again = names_in(record.prompt)
        subject, receiver = (first, second) if order == "BABA" else (second, first)
        assert again == subject != receiver
        assert record.answers == (f" {receiver}",) and record.wrong == (f" {subject}",)
        found[template, order] += 1
    assert set(found) == set(itertools.product(range(15), ("ABBA", "BABA")))
    assert min(found.values()) > 30  # of 67 on average


def test_mixed_is_the_first_half_of_the_templates():
    def drawn(**settings):
        task = TASKS["ioi"](400, "train", templates="mixed", **settings)
        return {(record.notes["template"], record.notes["order"]) for record in task}

    both = ("ABBA", "BABA")
    assert drawn(wording="published") == set(itertools.product(range(7), both))
    assert drawn() == set(itertools.product(range(4), both))
    assert drawn(wording="published", order="ABBA") == {(each, "ABBA") for each in range(7)}
    assert drawn(wording="published", template=3, order="BABA") == {(3, "BABA")}


@pytest.mark.parametrize("wording", ["published", "demo"])
@pytest.mark.parametrize("kind", IOI)
def test_corruptions_of_indirect_objects(wording, kind):
    known = TASKS["ioi"].wordings[wording].words["name"]
    for record in TASKS["ioi"](300, wording=wording, counterfactual=kind):
        clean, changed = (names_in(t, known) for t in (record.prompt, record.counterfactual))
        assert with_names(record.prompt, known, "") == with_names(record.counterfactual, known, "")
        receiver, subject = record.text("IO"), record.text("S1")
        assert record.text("S2") == subject and sorted(set(clean)) == sorted({receiver, subject})
        at = clean.index(receiver)
        differ = [place for place in range(3) if clean[place] != changed[place]]
        answers = record.counterfactual_answers
        if kind == "names":
            assert len({*clean, *changed}) == 5 and differ == [0, 1, 2] and answers == ()
        elif kind == "flip":
            assert differ == [2] and changed[2] == receiver and answers == (f" {subject}",)
        elif kind == "io":
            assert differ == [at] and len(set(changed)) == 2 and answers == (f" {changed[at]}",)
        else:
            assert differ == [2] and len(set(changed)) == 3 and answers == ()


@pytest.mark.parametrize("wording", ["published", "demo"])
def test_places_of_indirect_objects(wording):
    for record in TASKS["ioi"](300, wording=wording):
        before = record.prompt[: record.spans["S1"][1]]
        rest = record.prompt[len(before) :].split()
        assert record.text("S1+1") == rest[0].strip(".,")
        assert record.spans["S1+1"][0] == len(before) + 1
        assert record.text("END") == "to" and record.spans["END"][1] == len(record.prompt)
        for kind in ("place", "gift"):
            words = TASKS["ioi"].wordings[wording].words[kind]
            assert kind not in record.spans or record.text(kind) in words
        starts = [record.spans[name][0] for name in ("S1", "S2", "END")]
        assert starts == sorted(starts)


def blocks_of(prompt):
    """The blocks of a prompt, each as (surface, objects by colour, asked, answer); strict."""
    colour, noun = "|".join(OBJECTS_COLOURS), "|".join(OBJECTS_ITEMS)
    thing = rf"(an?) ({colour}) ({noun})"
    block = (
        rf"Q: On the ({'|'.join(OBJECTS_SURFACES)}), (?:there is|you see|I see) "
        rf"{thing}, {thing}, and {thing}\. What color is the ({noun})\?\nA:"
        rf"( (?:{'|'.join(each.title() for each in OBJECTS_COLOURS)})\n)?"
    )
    assert re.fullmatch(f"({block})+", prompt), prompt
    found = []
    for match in re.finditer(block, prompt):
        surface, *things, asked, answer = match.groups()
        for place in (0, 3, 6):
            assert things[place] == ("an" if things[place + 1][0] in "aeiou" else "a")
        found.append((surface, dict(zip(things[2::3], things[1::3])), asked, answer))  # noqa: B905
    return found


def test_colored_objects_are_as_published():
    asked = Counter()
    for record in TASKS["colored_objects"](1000, "train", wording="published"):
        (_, first, about, answer), (_, last, now, none) = blocks_of(record.prompt)
        assert len(set(first)) == len(set(first.values())) == 3 == len(last)
        assert not set(first) & set(last) and not set(first.values()) & set(last.values())
        assert answer == f" {first[about].title()}\n" and none is None
        assert record.answers == (f" {last[now].title()}",)
        assert {*record.answers, *record.wrong} == {f" {each.title()}" for each in last.values()}
        solved, (_, same, other, _) = blocks_of(record.counterfactual)
        assert solved == (blocks_of(record.prompt)[0]) and same == last
        assert other != now and other in last
        assert record.counterfactual_answers == (f" {last[other].title()}",)
        place = record.prompt.rindex(f"{now}?")
        assert record.spans["asked"] == (place, place + len(now))
        assert record.prompt[:place] + other + record.prompt[place + len(now) :] == (
            record.counterfactual
        )
        assert record.text("END") == ":" and record.spans["END"][1] == len(record.prompt)
        assert record.text("shot 1 answer") == answer.strip()
        asked[list(last).index(now)] += 1
    assert all(abs(asked[place] - 1000 / 3) < 60 for place in range(3)), asked  # 4 deviations


def test_the_shape_of_a_published_block():
    """Word by word, so that the texts are not only as the constants have them."""
    (record,) = TASKS["colored_objects"](1, wording="published", shots=0)
    things = r"an? \w+ \w+, an? \w+ \w+, and an? \w+ \w+"
    surface = r"Q: On the (table|desk|floor), (there is|you see|I see) "
    assert re.fullmatch(surface + things + r"\. What color is the \w+\?\nA:", record.prompt)
    assert OBJECTS_BLOCK.endswith("?\nA:")


def test_blocks_that_share_no_colour():
    def shared(**settings):
        task, count = TASKS["colored_objects"](300, "train", **settings), 0
        for record in task:
            shots = range(1, record.notes["shots"] + 1)
            said = [
                {record.text(f"{start}colour {order}") for order in range(3)}
                for start in ("", *(f"shot {shot} " for shot in shots))
            ]
            count += len(set().union(*said)) < sum(map(len, said))
        return count

    assert shared(apart=True) == shared(apart=True, shots=2) == 0
    assert shared() > 100  # without it two blocks of three of ten colours often share one
    with pytest.raises(ValueError, match="take 12 of them, and there are 10"):
        TASKS["colored_objects"](5, shots=3, apart=True)
    assert len(COLOURS) == 10


def test_years_are_as_published():
    years, starts = Counter(), set()
    for record in TASKS["greater_than"](3000, "train", wording="published"):
        said = r"The (\w+) lasted from the year (\d\d)(\d\d) to the year (\d\d)"
        noun, century, start, again = re.fullmatch(said, record.prompt).groups()
        assert century == again and 11 <= int(century) <= 17 and 2 <= int(start) <= 98
        assert noun in YEARS_NOUNS and century + start in YEARS
        assert record.answers == tuple(f"{each:02d}" for each in range(int(start) + 1, 100))
        assert len(record.answers) + len(record.wrong) == 100
        place = record.spans["start"][0]
        assert record.counterfactual == record.prompt[:place] + "01" + record.prompt[place + 2 :]
        assert record.spans["END"] == (len(record.prompt) - 2, len(record.prompt))
        years[int(start)] += 1
        starts.add(century)
    assert set(years) == set(range(2, 99)) and starts == {str(each) for each in range(11, 18)}
    assert all(8 < count < 62 for count in years.values())  # 31 on average: none is favoured


@each_published
def test_records_come_back_from_disk(tmp_path, name, settings):
    task = TASKS[name](20, **settings)
    again = interp.Task.load(task.save(tmp_path / "task.jsonl"))
    assert again.records == task.records
    assert [record.spans for record in again] == [record.spans for record in task]
    assert [record.notes for record in again] == [record.notes for record in task]
    assert json.loads(json.dumps(task.made)) == task.made


@each_published
def test_splits_share_no_item(name, settings):
    drawn = {
        split: {
            TASKS[name].item(record)
            for seed in (0, 5)
            for record in itertools.islice(TASKS[name].stream(split, seed, **settings), 300)
        }
        for split in SPLITS
    }
    for one, two in itertools.combinations(SPLITS, 2):
        assert not drawn[one] & drawn[two]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("ioi", "b014790de043a11e"),
        ("colored_objects", "5bc8e3adf57e04da"),
        ("greater_than", "a542f2fdc637826e"),
        ("induction", "e4ed23823fd3698e"),
        ("gapped_repeats", "585e3de460142d57"),
        ("capitals", "8ae835d3825731cf"),
    ],
)
def test_what_demo_lm_was_trained_on_stays(name, content):
    """60 records a task, by the hash they had before there was another wording."""
    rows = [
        [one.prompt, one.answers, one.counterfactual, one.counterfactual_answers]
        for one in TASKS[name](60)
    ]
    assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == content


def wrapped(tokenizer):
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_layer": 1, "n_head": 1, "n_embd": 4, "n_positions": 256}
    words = 10 if tokenizer is None else len(tokenizer)
    return interp.wrap(GPT2LMHeadModel(GPT2Config(vocab_size=words, **size)), tokenizer)


def trained():
    """Byte pairs of all that is said, so that each word is one token, without some of the names."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    digits = pre_tokenizers.Split(Regex(r" ?\d\d"), "isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(False)])
    made.decoder = decoders.ByteLevel()
    texts = [
        r.prompt + r.answers[0] for name, given in PUBLISHED for r in TASKS[name](300, **given)
    ]
    numbers = [f"{each:02d} {each}" for each in range(100)] * 5
    lists = [f" {word} {word.title()}" for word in (*IOI_NAMES, *YEARS_NOUNS, *WORDS)] * 5
    texts = [with_names(text, SPLIT, "") for text in (*texts, *numbers, *lists)]
    trainer = trainers.BpeTrainer(vocab_size=5000, show_progress=False)
    made.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="!")


def gpt2_tokenizer():
    from transformers import GPT2TokenizerFast

    folder = os.environ.get("INTERP_GPT2_TOKENIZER", "")
    files = [Path(folder) / name for name in ("vocab.json", "merges.txt")]
    if not folder or not all(file.is_file() for file in files):
        pytest.skip("INTERP_GPT2_TOKENIZER names no folder with GPT-2's vocab.json and merges.txt")
    vocabulary, merges = map(str, files)
    return GPT2TokenizerFast(vocab=vocabulary, merges=merges)


def demo_tokenizer():
    from data.recipes import lm_tokenizer

    return lm_tokenizer.build()


MAKERS = {"trained": trained, "gpt2": gpt2_tokenizer, "demo-lm": demo_tokenizer}


@pytest.fixture(scope="module", params=list(MAKERS))
def model(request):
    return wrapped(MAKERS[request.param]())


@pytest.fixture(scope="module")
def byte_pairs():
    return wrapped(trained())


@pytest.fixture(scope="module")
def whole_words():
    return wrapped(demo_tokenizer())


@pytest.mark.parametrize(("name", "settings"), SUITED)
def test_suited_records_are_read_token_by_token(model, name, settings):
    task = suited(model, name, count=60, **settings)
    clean, changed = task.encode(model), task.encode(model, counterfactual=True)
    assert (clean.mask.sum(1) == changed.mask.sum(1)).all()
    unknown = model.tokenizer.unk_token_id
    for row, record in enumerate(task):
        assert unknown not in clean.ids[row][clean.mask[row]].tolist()
        for span in record.spans:
            ids = clean.ids[row][clean.where(span)[row]]
            assert model.tokenizer.decode(ids).strip() == record.text(span), (span, record)
            several = span in ("subject", "shot 1 answer") and len(ids) > 1
            assert len(ids) == 1 or several, (span, record)
        if "END" in record.spans:
            assert bool(clean.where("END")[row][clean.where("last")[row]].all())
    assert len(task) == 60 and interp.Task.load(name, count=60, **task.made).digest == task.digest
    assert json.loads(json.dumps(dict(task.made))) == task.made


def test_only_what_is_asked_for_differs_in_tokens(model):
    where = {"flip": ["S2"], "s2": ["S2"], "io": ["IO"], "names": ["IO", "S1", "S2"]}
    for kind, spans in where.items():
        task = suited(model, "ioi", count=60, counterfactual=kind)
        clean, changed = task.encode(model), task.encode(model, counterfactual=True)
        marks = sum(clean.where(span).int() for span in spans).bool()
        assert ((clean.ids != changed.ids) == marks).all()


def test_names_in_pieces_are_left_out(byte_pairs):
    task = suited(byte_pairs, "ioi", count=300)
    assert task.made["wording"] == "published" and task.made["without"] == sorted(SPLIT)
    texts = " ".join(f"{record.prompt} {record.counterfactual}" for record in task)
    assert not set(names_in(texts)) & set(SPLIT) and len(set(names_in(texts))) > 80
    more = suited(byte_pairs, "ioi", count=20, without=["Paul"]).made["without"]
    assert more == sorted((*SPLIT, "Paul"))


def test_whole_words_have_the_demo_wording(whole_words):
    for name in ("ioi", "colored_objects", "greater_than"):
        task = suited(whole_words, name, count=20)
        assert task.made["wording"] == "demo" and "without" not in task.made
        assert task.records == interp.Task.load(name, count=20).records
    assert suited(whole_words, "induction", count=20).made == {"split": "test", "seed": 0}


def test_which_published_texts_demo_lm_can_say(whole_words):
    """What the docstring of `suited` says of it."""
    tokenizer, sayable = whole_words.tokenizer, []
    for number in range(15):
        task = TASKS["ioi"](
            300, "train", wording="published", template=number, without=["bone", "snack"]
        )
        texts = [with_names(record.prompt, IOI_NAMES, "Mary") for record in task]
        known = [tokenizer.unk_token_id not in tokenizer(text)["input_ids"] for text in texts]
        sayable += [number] if all(known) else []
    assert sayable == [0, 5, 13]
    nouns = [noun for noun in YEARS_NOUNS if f"▁{noun}" in tokenizer.get_vocab()]
    assert len(nouns) == 8
    with pytest.raises(ValueError, match=r"does not know every word|are one token"):
        suited(whole_words, "ioi", count=20, wording="published")


def test_runs_start_as_they_return(byte_pairs):
    task = suited(byte_pairs, "induction", count=40, period=4)
    prompt = task.encode(byte_pairs)
    for row, record in enumerate(task):
        ids = prompt.ids[row][prompt.mask[row]].tolist()
        again = len(ids) - 4
        assert again > 0 and ids[:again] == ids[4:], record
    own = ["key", "red", "cup", "Mary", "store", "table", "park", "pen"]
    task = suited(byte_pairs, "induction", count=20, period=3, words=own)
    assert task.made["without"] == ["Mary"] and "Mary" not in " ".join(r.prompt for r in task)
    assert TASKS["induction"](20, period=3, words=own)[0].prompt.split()[0] in own


def test_capitals_never_open_a_text(byte_pairs):
    task = suited(byte_pairs, "capitals", count=60)
    assert task.made["opened"] is True
    assert all(record.spans["subject"][0] > 0 for record in task)


def test_years_are_two_tokens_of_gpt2():
    """The rule of the published code, on GPT-2's tokenizer, gives the list that is kept here."""
    tokenizer, found = gpt2_tokenizer(), []
    for century in range(11, 18):
        own = []
        for year in range(century * 100, century * 100 + 100):
            parts = tokenizer.tokenize(f" {year}")
            own += [str(year)] if len(parts) == 2 and len(parts[1]) == 2 else []
        found += own[1:-1]
    assert tuple(found) == YEARS


def test_all_published_words_are_tokens_of_gpt2():
    made = wrapped(gpt2_tokenizer())
    for name in ("ioi", "colored_objects", "greater_than"):
        task = suited(made, name, count=20)
        assert task.made["wording"] == "published" and "without" not in task.made


def test_suited_stays_a_function_when_the_folder_is_read():
    importlib.import_module("interp.tasks.suited")
    assert len(TASKS) and interp.tasks.suited is suited and callable(suited)


def test_what_cannot_be_suited_is_refused(byte_pairs, whole_words):
    with pytest.raises(LookupError, match="Did you mean 'ioi'"):
        suited(byte_pairs, "io")
    with pytest.raises(ValueError, match="asks about images"):
        suited(byte_pairs, "digits")
    with pytest.raises(ValueError, match="has no tokenizer"):
        suited(wrapped(None), "ioi")
    with pytest.raises(ValueError, match="Did you mean 'published'"):
        suited(byte_pairs, "ioi", wording="publishd")
    with pytest.raises(TypeError, match="no setting of ioi 'ordr'"):
        suited(byte_pairs, "ioi", ordr="ABBA")
    with pytest.raises(ValueError, match="of 99 words for 'name' 5 are one token"):
        suited(byte_pairs, "ioi", wording="published", without=IOI_NAMES[5:])
    from tests.tiny_tokenizer import tokenizer

    with pytest.raises(ValueError, match="cannot say 'ioi'. published: of 99 words for 'name'"):
        suited(wrapped(tokenizer()), "ioi")
    with pytest.raises(ValueError, match="Write records in words that it has"):
        suited(wrapped(tokenizer()), "sentiment")


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("ioi", {"wording": "publishd"}, "Did you mean 'published'"),
        ("ioi", {"order": "ABAB"}, "There are: ABBA, BABA"),
        ("ioi", {"templates": "mix"}, "Did you mean 'mixed'"),
        ("ioi", {"wording": "published", "template": 15}, "0 to 14"),
        ("ioi", {"wording": "published", "template": 7, "templates": "mixed"}, "0 to 6"),
        ("ioi", {"wording": "published", "without": ["Marry"]}, "Did you mean 'Mary'"),
        ("ioi", {"wording": "published", "without": IOI_NAMES[:94]}, "5 are left"),
        ("colored_objects", {"wording": "published", "shots": 2}, "take 9 of them"),
        ("colored_objects", {"without": ["cup"], "shots": 5}, "0 to 4"),
        ("colored_objects", {"shots": -1}, "0 to 4"),
        ("greater_than", {"without": ["abduction"]}, "no word 'abduction'"),
        ("induction", {"words": ["a", "b", "a"]}, "each once"),
        ("induction", {"words": ["a", "b c", "d"]}, "without spaces"),
        ("induction", {"words": ["a", "b", "c"], "period": 3}, "3 different words"),
        ("capitals", {"without": list(CAPITALS)[1:]}, "1 are left"),
    ],
)
def test_what_cannot_be_drawn_is_refused(name, settings, said):
    with pytest.raises(ValueError, match=re.escape(said)):
        TASKS[name](**settings)


def test_left_out_words_are_a_list():
    with pytest.raises(TypeError, match="give a list of words"):
        TASKS["ioi"](5, without="Mary")
