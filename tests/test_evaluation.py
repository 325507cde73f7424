"""Scores of what models write: by hand, against plain loops, with the protocol of each."""

import math
import random
from dataclasses import replace

import numpy
import pytest
import torch

import interp
from interp import Hook, Record, Task
from interp.evaluation import (
    MEASURES,
    Answers,
    Bias,
    Rate,
    accuracy,
    answers,
    choice,
    pope,
    qa,
    random_heads,
    tuned_bias,
)
from interp.evaluation.open_book import contains, normalised, token_f1
from interp.evaluation.scored import resampled
from interp.evaluation.yes_no import says_yes
from interp.families import FAMILIES
from interp.interventions import PAI, PASTA


@pytest.fixture(scope="module")
def vlm():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def asked():
    return Task.load("existence", count=20, negatives="adversarial")


@pytest.fixture(scope="module")
def book():
    return Task.load("open_book", count=10)


class Longer:
    """An intervention that changes the prompt: asks the same behind another sentence."""

    def plan(self, model, prompt):
        return model.encode([f"Context: The hat is in the jar. {text}" for text in prompt.text]), []


# What is written, and by what protocol


def test_answers_are_what_generate_gives(vlm, asked):
    said = answers(vlm, asked, max_new_tokens=4, batch=7)
    for number in (0, 13):
        prompt = asked[number : number + 1].encode(vlm)
        ids = vlm.generate(prompt, max_new_tokens=4, do_sample=False)
        assert said[number] == vlm.decode(ids, prompt)[0]
    assert len(said) == 20 and said[:2] == said.texts[:2] and all(said.ended)


def test_the_protocol_says_what_decides(vlm, asked):
    made = answers(vlm, asked, using=PAI(alpha=1.5), max_new_tokens=4).protocol
    assert made["task"] == "existence" and made["task digest"] == asked.digest
    assert made["using"] == ["PAI(alpha=1.5, layers=None)"] and made["greedy"] is True
    assert made["max_new_tokens"] == 4 and made["seed"] is None and made["weights"]
    assert made["first prompt"].startswith("USER:<image> Is there") and made["template"]
    assert made["versions"]["transformers"] and made["generation config"]["eos_token_id"] == 2
    turned = replace(asked, records=tuple(asked)[::-1])
    other = answers(vlm, turned, max_new_tokens=1).protocol
    assert other["images"] != made["images"] and other["template"] == made["template"]
    silence = Hook("z", lambda z, at: z * 0, layers=[1])
    assert answers(vlm, asked[:1], hooks=silence, max_new_tokens=1).protocol["using"] == [
        "<lambda> at z"
    ]
    drawn = answers(vlm, asked[:2], max_new_tokens=1, do_sample=True, seed=3).protocol
    assert drawn["greedy"] is False and drawn["seed"] == 3
    assert MEASURES["accuracy"](vlm, asked[:2]).protocol["reads"] == "the next token"


def test_sampling_starts_at_its_seed_and_leaves_the_rest_alone(lm):
    task = Task.load("facts", count=6)
    given = {"max_new_tokens": 3, "do_sample": True, "temperature": 5.0, "top_k": 0}
    state = torch.get_rng_state()
    one = answers(lm, task, seed=1, **given)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    assert answers(lm, task, seed=1, **given).texts == one.texts
    assert answers(lm, task, seed=2, **given).texts != one.texts


def test_answers_end_at_a_text_and_may_be_cut(lm, book):
    whole = answers(lm, book, max_new_tokens=4)
    assert all(whole.ended)
    assert not any(answers(lm, book, max_new_tokens=1).ended)
    evidence = Task.load("open_book", count=4, ask="evidence")
    long, short = (answers(lm, evidence, max_new_tokens=12, until=one) for one in (None, " is"))
    assert [text.split(" is")[0] for text in long] == list(short) and all(short.ended)
    assert not any(answers(lm, evidence, max_new_tokens=2).ended)


def test_prompts_that_an_intervention_changes(lm, book):
    behind = [
        replace(one, prompt=f"Context: The hat is in the jar. {one.prompt}", spans={})
        for one in book
    ]
    by_hand = Task("longer", tuple(behind))
    assert (
        answers(lm, book, using=Longer(), max_new_tokens=4).texts
        == answers(lm, by_hand, max_new_tokens=4).texts
    )
    own, other = accuracy(lm, book, using=Longer()), accuracy(lm, by_hand)
    assert own.table["probability"].tolist() == pytest.approx(
        other.table["probability"].tolist(), abs=1e-6
    )
    own, other = choice(lm, book, using=Longer()), choice(lm, by_hand)
    assert own.table["value"].tolist() == pytest.approx(other.table["value"].tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="leaves the option out of it: ask by='first'"):
        choice(lm, book, using=Longer(), by="likelihood")


def test_wrong_asking_is_refused(lm, book, vlm):
    with pytest.raises(TypeError, match="answers are to a Task, not to list"):
        answers(lm, [book[0]])
    with pytest.raises(ValueError, match="has no records"):
        answers(lm, Task("none", ()))
    with pytest.raises(ValueError, match="writes no answers in words"):
        answers(interp.load("demo-vit"), Task.load("digits", count=1))
    for given in ({"batch": 0}, {"max_new_tokens": True}, {"max_new_tokens": 0}):
        with pytest.raises(ValueError, match="a whole number of at least 1"):
            answers(lm, book, **given)
    with pytest.raises(ValueError, match="gave 4 answers to 2 records"):
        answers(lm, book[:2], num_return_sequences=2, num_beams=2, max_new_tokens=1)
    with pytest.raises(TypeError, match="pope takes Answers"):
        pope(["yes"])
    with pytest.raises(ValueError, match="2 texts for 10 records"):
        qa(["a", "b"], book)
    with pytest.raises(TypeError, match="no setting of pope 'offical'. Did you mean 'official'"):
        MEASURES["pope"](vlm, book, offical=True)


# Rates and their intervals


def test_rates_and_their_draws_against_loops():
    chance = random.Random(0)
    tops = [chance.random() for _ in range(12)]
    bottoms = [chance.choice([0.0, 1.0, 3.0]) for _ in tops]
    rate = Rate.of(tops, bottoms)
    assert rate.value == pytest.approx(sum(tops) / sum(bottoms))
    drawn = resampled(numpy.array([tops, bottoms, [1.0] * 12]).T, draws=500, seed=4)
    assert drawn.shape == (500, 3) and (drawn[:, 2] == 12).all()  # each draw is of 12 records
    counts = numpy.random.default_rng(4).multinomial(12, [1 / 12] * 12, size=500)
    for draw in (0, 499):
        by_hand = sum(count * top for count, top in zip(counts[draw], tops, strict=True))
        assert drawn[draw, 0] == pytest.approx(by_hand)
    assert numpy.array_equal(drawn, resampled(numpy.array([tops, bottoms, [1.0] * 12]).T, 500, 4))
    assert not numpy.array_equal(
        drawn, resampled(numpy.array([tops, bottoms, [1.0] * 12]).T, 500, 5)
    )
    with pytest.raises(ValueError, match="draws=0"):
        resampled(numpy.ones((2, 1)), 0)


def test_intervals_are_those_of_a_mean(book):
    right = [True] * 30 + [False] * 70
    said = ["x" if one else "y" for one in right]
    task = Task("hundred", tuple(Record("?", ("x",)) for _ in right))
    scored = qa(said, task)
    low, high = scored.interval("em")
    error = 1.96 * math.sqrt(0.3 * 0.7 / 100)
    assert (low, high) == pytest.approx((0.3 - error, 0.3 + error), abs=0.015)
    groups = ["a"] * 30 + ["b"] * 70
    assert {name: own["em"] for name, own in scored.by(groups).items()} == {"a": 1, "b": 0}
    assert list(scored.values) == ["em", "f1", "contains"] and "100 records: em 0.300" in repr(
        scored
    )
    with pytest.raises(ValueError, match="2 groups for 100 records"):
        scored.by(["a", "b"])


# Yes and no

SAID = {  # an answer: as read here, as POPE's code reads it
    "Yes": (True, True),
    "no.": (False, False),
    "No, there is no dog": (False, False),
    "Yes, there is. No cat though": (True, True),
    "There is no dog": (False, False),
    "There is not": (None, False),
    "I do not know": (None, False),
    "A dog": (None, True),
    "NO": (False, True),  # published: one of No, no, not
    "no\nyes": (False, True),  # published: words are parted by spaces alone
    "Nothing, yes": (True, True),
    "yes or no": (True, False),
    "know": (None, True),
    "": (None, True),
    "(No)": (False, True),
}


@pytest.mark.parametrize("text", SAID)
def test_yes_and_no_are_read(text):
    assert (says_yes(text), says_yes(text, official=True)) == SAID[text]


def yes_no(labels):
    return Task("asked", tuple(Record("Is there?", (f" {label}",)) for label in labels))


@pytest.mark.parametrize("official", [False, True])
def test_pope_against_plain_counting(official):
    chance = random.Random(1)
    labels = [chance.choice(["yes", "no"]) for _ in range(80)]
    said = [chance.choice(list(SAID)) for _ in labels]
    hit = false = missed = right = yes = neither = 0
    for text, label in zip(said, labels, strict=True):
        told = SAID[text][official]
        yes += told is True
        neither += told is None
        hit += told is True and label == "yes"
        false += told is True and label == "no"
        missed += told is not True and label == "yes"
        right += told is not None and told == (label == "yes")
    precision, recall = hit / (hit + false), hit / (hit + missed)
    scored = pope(said, yes_no(labels), official=official)
    assert scored.values == pytest.approx(
        {
            "accuracy": right / 80,
            "precision": precision,
            "recall": recall,
            "f1": 2 * precision * recall / (precision + recall),
            "yes_rate": yes / 80,
            "unread": neither / 80,
        }
    )
    assert scored.protocol["official"] is official and (official or neither)


def test_pope_asks_for_yes_or_no(book, vlm, asked):
    with pytest.raises(
        ValueError, match="pope asks for yes or no, and the answers of record 0 are"
    ):
        pope(["yes"] * 10, book)
    never = pope(["no", "no"], yes_no(["yes", "no"])).values
    assert math.isnan(never["precision"]) and never["recall"] == 0 and never["f1"] == 0
    scored = MEASURES["pope"](vlm, asked)
    next_one = MEASURES["accuracy"](vlm, asked)
    assert scored.table["right"].tolist() == next_one.table["right"].tolist()
    assert scored.values["yes_rate"] == next_one.values["yes_rate"]
    assert "yes_rate" not in MEASURES["accuracy"](vlm, Task.load("colour", count=2)).values


# Answers in words


def test_exact_match_and_f1_by_hand():
    assert normalised(" The  U.S.A., an Apple's  a-day! ") == "usa apples aday"
    assert token_f1("the red red hat", "red hat hat") == pytest.approx(2 * 2 / (3 + 3))
    assert token_f1("", "the") == 1 and token_f1("a hat", "") == 0 and token_f1("cat", "hat") == 0
    assert contains("It is in the blue jar.", "Blue jar") and not contains("bluejar", "blue jar")
    assert not contains("concatenate", "cat")
    task = Task("book", (Record("?", (" the jar", " glass jar")), Record("?", (" Ann",))))
    scored = qa(["A jar!", "ann or bo"], task)
    assert scored.table["em"].tolist() == [1, 0] and scored.table["contains"].tolist() == [1, 1]
    assert scored.table["f1"].tolist() == pytest.approx([1, 2 * 1 / (3 + 1)])
    assert scored.values["em"] == 0.5 and scored.headline == "em"
    with pytest.raises(ValueError, match="record 1 has no answers"):
        qa(["a", "b"], Task("mute", (task[0], Record("?"))))


def test_the_demo_model_answers_from_its_book(lm, book):
    scored = MEASURES["qa"](lm, book, max_new_tokens=4)
    assert scored.values["em"] == 1 and scored.protocol["max_new_tokens"] == 4
    silent = Hook("pattern", lambda pattern, at: pattern * 0)
    assert MEASURES["qa"](lm, book, max_new_tokens=4, using=silent).values["em"] < 0.5


# Choices


def likelihood(model, prompt, option):
    """Summed over the option's tokens, each by a forward of its own."""
    before = model.encode(prompt).ids[0].tolist()
    own = model.tokenizer(option, add_special_tokens=False)["input_ids"]
    total = 0.0
    for token in own:
        with torch.no_grad():
            logits = model.hf(torch.tensor([before])).logits[0, -1].double()
        total += float(logits.log_softmax(-1)[token])
        before.append(token)
    return total, len(own)


OPTIONS = ((" in the jar",), (" Rome", " in the blue drawer with a lamp"))


@pytest.mark.parametrize("by", ["first", "likelihood", "length"])
def test_choices_against_single_forwards(lm, by):
    prompts = [
        "Q: Where is the hat? A:",
        "The hat is in the jar. Q: Where is the hat that Mary has? A:",
    ]
    task = Task("mine", tuple(Record(one, *OPTIONS) for one in prompts))
    if by == "first":
        task = Task("mine", tuple(Record(one, (" Rome",), (" jar", " Mary")) for one in prompts))
    settings = {"by": "likelihood", "length_normalised": True} if by == "length" else {"by": by}
    scored = choice(lm, task, batch=2, **settings)
    for number, record in enumerate(task):
        values = []
        for option in (*record.answers, *record.wrong):
            total, count = likelihood(lm, record.prompt, option)
            if by == "first":
                with torch.no_grad():
                    logits = lm.logits(record.prompt)[0, -1]
                total = float(
                    logits[lm.tokenizer(option, add_special_tokens=False)["input_ids"][0]]
                )
            values.append(total / (count if by == "length" else 1))
        row = scored.table.iloc[number]
        assert row["value"] == pytest.approx(values[0], abs=1e-4)
        assert row["against"] == pytest.approx(max(values[1:]), abs=1e-4)
        assert row["right"] == (values[0] > max(values[1:]))
    assert scored.value == scored.table["right"].mean()


def test_length_makes_a_difference(lm):
    task = Task("mine", (Record("The hat is in the jar. Q: Where is the hat? A:", *OPTIONS),))
    plain = choice(lm, task, by="likelihood").table["against"][0]
    normal = choice(lm, task, by="likelihood", length_normalised=True).table["against"][0]
    assert plain < normal < 0


def test_choices_of_images_and_under_interventions(vlm, asked):
    first = choice(vlm, asked)
    plain = accuracy(vlm, asked)
    assert first.table["right"].tolist() == plain.table["right"].tolist()
    assert (
        choice(vlm, asked, by="likelihood", batch=5).table["right"].tolist()
        == first.table["right"].tolist()
    )
    steered = {
        by: choice(vlm, asked, using=PAI(alpha=6.0), by=by) for by in ("first", "likelihood")
    }
    values = [one.table["value"] - one.table["against"] for one in steered.values()]
    assert values[0].tolist() == pytest.approx(values[1].tolist(), abs=1e-4)
    assert (values[0] - (first.table["value"] - first.table["against"])).abs().max() > 0.1


def test_choices_that_cannot_be_made(lm, book):
    alike = Task("mine", (Record("Q: Where? A:", (" in the jar",), (" in the box",)),))
    with pytest.raises(ValueError, match="begin with the same token.*by='likelihood'"):
        choice(lm, alike)
    with pytest.raises(ValueError, match="has 1 right and 0 wrong answers"):
        choice(lm, Task("mine", (Record("?", (" a",)),)))
    with pytest.raises(ValueError, match="offers an answer twice"):
        choice(lm, Task("mine", (Record("?", (" a",), (" a",)),)))
    with pytest.raises(ValueError, match="holds a word that the tokenizer does not know"):
        choice(lm, Task("mine", (Record("Q:", (" xyzzy",), (" jar",)),)), by="likelihood")
    with pytest.raises(ValueError, match="by='letters'"):
        choice(lm, book, by="letters")
    with pytest.raises(ValueError, match="one token has one length"):
        choice(lm, book, length_normalised=True)


# Controls


def test_a_bias_moves_one_word_where_the_answer_begins(vlm, asked):
    prompt = asked[:3].encode(vlm)
    yes = vlm.tokenizer(" yes", add_special_tokens=False)["input_ids"][0]
    with torch.no_grad():
        plain, moved = (vlm.logits(prompt, using=one) for one in (None, Bias(amount=2.5)))
    expected = torch.zeros_like(plain)
    expected[:, -1, yes] = 2.5
    assert torch.allclose(moved - plain, expected, atol=1e-5)
    said = [vlm.generate(prompt, using=Bias(amount=90.0), max_new_tokens=4, do_sample=False, **more)
            for more in ({}, {"use_cache": False}, {"num_beams": 2})]  # fmt: skip
    for ids in said:
        assert (ids[:, prompt.length] == yes).all() and (ids[:, prompt.length + 1 :] != yes).all()
    assert Bias.inert().plan(vlm, prompt) == (prompt, [])
    padded = asked.encode(vlm)
    with torch.no_grad():
        all_rows = (
            vlm.logits(padded, using=Bias(amount=2.5))[:, -1, yes] - vlm.logits(padded)[:, -1, yes]
        )
    assert all_rows.tolist() == pytest.approx([2.5] * len(asked), abs=1e-4)


def test_the_best_bias_is_found(vlm, asked):
    bias, tried = tuned_bias(vlm, asked)
    yes, no = (
        vlm.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in (" yes", " no")
    )
    with torch.no_grad():
        logits = vlm.logits(asked.encode(vlm))[:, -1]
    wanted = torch.tensor([record.answers[0] == " yes" for record in asked])
    assert logits.topk(2).indices.sort().values.unique(dim=0).tolist() == [sorted((yes, no))]
    best = 0.0
    for step in range(-400, 401):
        told = logits[:, yes] + step / 20 > logits[:, no]
        best = max(best, float((told == wanted).float().mean()))
    own = accuracy(vlm, asked, using=bias).value
    assert own >= best > accuracy(vlm, asked).value and own == pytest.approx(
        tried["accuracy"].max()
    )
    for amount, value in tried.sample(2, random_state=0).itertuples(index=False):
        assert accuracy(vlm, asked, using=Bias(amount=amount)).value == pytest.approx(value)
    as_good = tried[tried["accuracy"] == tried["accuracy"].max()]["amount"].abs()
    assert abs(bias.amount) == as_good.min()


def test_biases_that_mean_nothing(lm, vlm, book, asked):
    with pytest.raises(LookupError, match="none of .'maybe'. is a token"):
        accuracy(vlm, asked, using=Bias(("maybe",)))
    with pytest.raises(ValueError, match="it is right in 0"):
        tuned_bias(vlm, Task.load("colour", count=4))
    for wrong in ({"words": "yes"}, {"words": ()}):
        with pytest.raises(TypeError, match="one word or several"):
            Bias(**wrong)
    for amount in (True, "2", float("nan"), float("inf")):
        with pytest.raises(ValueError, match="Bias.amount="):
            Bias(amount=amount)


def test_random_heads_keep_layers_and_numbers(lm):
    own = PASTA(heads=[(1, 2), (1, 4), (3, 0)])
    drawn = random_heads(lm, own, draws=6, seed=2)
    assert len(drawn) == 6 and len({one.heads for one in drawn}) > 3
    for one in drawn:
        layers = [layer for layer, _ in one.heads]
        assert layers == [1, 1, 3] and len(set(one.heads)) == 3
        assert replace(one, heads=own.heads) == own
    assert random_heads(lm, own, draws=6, seed=2) == drawn != random_heads(lm, own, draws=6, seed=3)
    with pytest.raises(ValueError, match="PASTA has no heads= of its own"):
        random_heads(lm, PASTA())
    with pytest.raises(ValueError, match="PAI has no heads="):
        random_heads(lm, PAI())
    everything = PASTA(heads=[(1, head) for head in range(lm.stacks["text"].heads)])
    with pytest.raises(ValueError, match="all heads of its layers"):
        random_heads(lm, everything)
    with pytest.raises(ValueError, match="draws=0"):
        random_heads(lm, own, draws=0)


def test_other_families_write_and_choose(word_tokenizer):
    model = interp.wrap(FAMILIES["gpt_neox"].model(), word_tokenizer)
    task = Task(
        "words", tuple(Record(f"w{number} w2 w3", ("w4",), ("w5 w6",)) for number in (7, 8))
    )
    said = answers(model, task, max_new_tokens=3)
    assert len(said) == 2 and isinstance(said, Answers) and said.protocol["template"] is None
    assert choice(model, task, by="likelihood").table["value"].notna().all()
