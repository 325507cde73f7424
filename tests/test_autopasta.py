"""AutoPASTA: sentences, which one an output means, and steering to it in the prompt as it was."""

import warnings

import pytest
import torch

import interp
from interp.interventions import INTERVENTIONS, PASTA, AutoPASTA
from interp.interventions.autopasta import ASK, direct_prompt
from interp.steering.sentences import closest, paragraphs, shared_words, split
from tests.pressed import agree, marked, tiny

DEMO_ASK = "Context: {context} Q: {question} Evidence:"


def parts(text, cut=split):
    return [text[start:stop] for start, stop in cut(text)]


def test_sentences_keep_their_characters():
    assert parts("One is here. Two!  Is three? Four") == [
        "One is here.",
        "Two!",
        "Is three?",
        "Four",
    ]
    assert parts("It cost 3.5 dollars. It rose 0.2%.") == ["It cost 3.5 dollars.", "It rose 0.2%."]
    assert parts('He said "yes." She left.') == ['He said "yes."', "She left."]
    assert parts("(A note.) Next.\n\nA title\n\nThe end.") == [
        "(A note.)",
        "Next.",
        "A title",
        "The end.",
    ]
    assert parts("\u4e00\u4e8c\u3002\u4e09\u56db\u3002") == [
        "\u4e00\u4e8c\u3002",
        "\u4e09\u56db\u3002",
    ]
    assert parts("  no end  ") == ["no end"]
    assert split("   ") == []
    assert parts("One. Two.\n \nThree.\nFour.", paragraphs) == ["One. Two.", "Three.\nFour."]


SENTENCES = [
    "The ring is in the box.",
    "The hat of the man is in the old jar.",
    "Nobody knows where the cat went.",
    "The hat is in the bag.",
]


@pytest.mark.parametrize(
    ("output", "place", "how"),
    [
        (" The hat is in the bag.", 3, "exact"),
        ("The ring is in the box. The hat is in the bag.", 0, "exact"),
        ("The hat is in the bag. Q: And? The ring is in the box.", 3, "exact"),
        ('Sure! It is:\n\n"The hat  is in\nthe bag."\n', 3, "exact"),
        ("where the cat went", 2, "part"),
        ("The hat is in the", 3, "part"),
        ('Key sentence:\n"nobody knows where a cat goes"', 2, "words"),
        ("the hat of a man was in an old jar", 1, "words"),
        ("The key is that the ring sits inside the box. The hat!", 0, "words"),
        ("ring", 0, "words"),
    ],
)
def test_an_output_means_a_sentence(output, place, how):
    found = closest(output, SENTENCES)
    assert found is not None
    assert (found.place, found.how) == (place, how)
    assert 0 < found.score <= 1


def test_shared_words_by_hand():
    assert shared_words("The hat, the HAT", "a hat is the hat") == pytest.approx(2 * 3 / 9)
    assert shared_words("one", "two") == 0
    assert closest("  \n .", SENTENCES) is None
    assert closest("zzz", SENTENCES) is not None
    with pytest.raises(ValueError, match="no sentences"):
        closest("one", [])


def test_an_encoder_decides_where_nothing_is_exact():
    def counts(texts):
        return [[text.count("cat"), text.count("x"), 1e-3] for text in texts]

    found = closest("a cat of cats", SENTENCES, encoder=counts)
    assert (found.place, found.how) == (2, "encoder")
    assert found.score == pytest.approx(1, abs=1e-3)
    assert closest("The hat is in the bag.", SENTENCES, encoder=counts).how == "exact"
    with pytest.raises(ValueError, match="one vector a text"):
        closest("a cat of cats", SENTENCES, encoder=lambda texts: torch.zeros(2, 3))


def test_an_encoder_of_a_package_that_is_not_there(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    model = interp.load("demo-lm")
    prompt = interp.Task.load("open_book", count=1).encode(model)
    using = AutoPASTA(encoder="all-MiniLM-L6-v2", ask=DEMO_ASK)
    with pytest.raises(ValueError, match="pip install sentence-transformers"):
        using.plan(model, prompt)


@pytest.fixture(scope="module")
def demo():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def task():
    return interp.Task.load("open_book", kind="where", sentences=10, count=24, split="validation")


def test_the_model_names_its_key_sentence(demo, task):
    found = AutoPASTA(ask=DEMO_ASK, max_new_tokens=20).evidence_of(demo, task.encode(demo))
    assert [one.row for one in found] == list(range(24))
    right = [one.sentence == record.text("key") for one, record in zip(found, task, strict=True)]
    assert sum(right) >= 23
    for one, record in zip(found, task, strict=True):
        start, stop = one.span
        assert record.prompt[start:stop] == one.sentence


def test_steering_to_it_is_pasta_on_that_sentence(demo, task):
    prompt = task[:8].encode(demo)
    using = AutoPASTA(ask=DEMO_ASK, max_new_tokens=20, heads=["3.1", "3.6"], alpha=0.05)
    kept, hooks = using.plan(demo, prompt)
    assert kept is prompt
    pasta = PASTA(heads=["3.1", "3.6"], alpha=0.05)
    found, wanted = (demo.logits(prompt, using=each) for each in (using, pasta))
    assert torch.equal(found, wanted)
    given = AutoPASTA(evidence=[r.text("key") for r in task[:8]], heads=["3.1", "3.6"], alpha=0.05)
    assert torch.equal(demo.logits(prompt, using=given), wanted)
    named = AutoPASTA(evidence="key", heads=["3.1", "3.6"], alpha=0.05)
    assert torch.equal(demo.logits(prompt, using=named), wanted)
    assert len(hooks) == 1


def test_the_question_and_the_passage_fill_the_papers_words(demo, task, monkeypatch):
    record = task[0]
    asked = []
    monkeypatch.setattr(
        AutoPASTA,
        "_answers",
        lambda self, model, prompts: asked.extend(prompts) or [""] * len(prompts),
    )
    (found,) = AutoPASTA().evidence_of(demo, task[:1].encode(demo))
    assert (found.how, found.sentence) == ("nothing", "")
    question, context = record.text("question"), record.text("context")
    assert asked == [ASK.replace("{question}", question).replace("{context}", context)]
    assert asked[0].endswith(f"Question: {question}\n\nPassage: {context}\n\nSentence:")


def test_braces_in_the_words_stay(demo):
    text = direct_prompt("A {question} is in {0}.", "What is {context}?")
    assert "Context: A {question} is in {0}.\n\nQuestion: What is {context}?\n\nAnswer:" in text


def test_a_sentence_from_each_paragraph(demo):
    first, second = (
        "The ring is in the box. The hat is in the jar.",
        "The pen is in the bag. It is late.",
    )
    text = f"Context: {first}\n\n{second} Q: x"
    context = text[len("Context: ") : -len(" Q: x")]
    prompt = demo.encode(text, spans={"context": context, "question": "x"})
    using = AutoPASTA(ask=DEMO_ASK, paragraphs=True, max_new_tokens=12)
    found = using.evidence_of(demo, prompt)
    assert [one.row for one in found] == [0, 0]
    assert found[0].sentence in first
    assert found[1].sentence in second
    assert found[1].span[0] > found[0].span[1]
    (hook,) = using.plan(demo, prompt)[1]
    both = PASTA(highlight=[one.sentence for one in found])
    assert torch.equal(demo.logits(prompt, using=using), demo.logits(prompt, using=both))
    assert hook.heads is None


def test_rows_of_which_nothing_is_said_are_told_and_left(demo, task, monkeypatch):
    prompt = task[:2].encode(demo)
    key = task[1].text("key")
    monkeypatch.setattr(
        AutoPASTA, "_answers", lambda self, model, prompts: ["", key][: len(prompts)]
    )
    with pytest.warns(UserWarning, match=r"no sentence for rows \[0\]"):
        found = demo.logits(prompt, using=AutoPASTA())
    plain = demo.logits(prompt)
    torch.testing.assert_close(found[0], plain[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], demo.logits(prompt, using=PASTA())[1], atol=1e-4, rtol=0)
    with pytest.warns(UserWarning, match=r"rows \[0\]"):
        assert AutoPASTA().plan(demo, task[:1].encode(demo))[1] == []
    asked = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    asked |= {"return_dict_in_generate": True, "output_logits": True}
    with pytest.warns(UserWarning, match=r"rows \[0\]"):
        steps = demo.generate(prompt, using=AutoPASTA(), **asked).logits
    for step, wanted in zip(steps, demo.generate(prompt, **asked).logits, strict=True):
        torch.testing.assert_close(step[0], wanted[0], atol=1e-4, rtol=0)


def test_the_extraction_runs_plain_whatever_is_live(demo, task):
    """Inside using(...) of itself and of another change, and in generate with a cache."""
    prompt = task[:3].encode(demo)
    using = AutoPASTA(ask=DEMO_ASK, max_new_tokens=20, layers=[3])
    wanted = demo.generate(prompt, using=PASTA(layers=[3]), max_new_tokens=2, do_sample=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(
            demo.generate(prompt, using=using, max_new_tokens=2, do_sample=False), wanted
        )
    upset = interp.Hook("z", lambda z, at: z * 0)
    silent = demo.logits(prompt, hooks=[upset], using=PASTA(layers=[3]))
    assert torch.equal(demo.logits(prompt, hooks=[upset], using=using), silent)
    with demo.using(upset):
        assert torch.equal(demo.logits(prompt, using=using), silent)
    with demo.using(using):
        assert torch.equal(demo.generate(prompt, max_new_tokens=2, do_sample=False), wanted)


def test_generation_agrees_with_one_forward():
    model, prompt = tiny("llama", batch=2)
    prompt.spans["key"] = marked(prompt, 2, 3)
    agree(model, prompt, AutoPASTA(evidence="key"))


def test_what_cannot_be_is_refused(demo, task):
    prompt = task[:2].encode(demo)
    with pytest.raises(LookupError, match="no span 'passage'"):
        AutoPASTA(context="passage").plan(demo, prompt)
    with pytest.raises(LookupError, match="no span 'query'"):
        AutoPASTA(question="query", alpha=1.0).plan(demo, prompt)
    with pytest.raises(ValueError, match=r"\{context\} is not in it"):
        AutoPASTA(ask="Q: {question}")
    with pytest.raises(ValueError, match="1 sentences for 2 rows"):
        AutoPASTA(evidence=["The ring."]).plan(demo, prompt)
    with pytest.raises(LookupError, match="does not contain it"):
        AutoPASTA(evidence=["The ring is in the moon.", "No."]).plan(demo, prompt)
    with pytest.raises(TypeError, match="encoder=3"):
        AutoPASTA(encoder=3)
    for wrong in (0, "many", True, 2.5):
        with pytest.raises((ValueError, TypeError), match="max_new_tokens"):
            AutoPASTA(max_new_tokens=wrong)
    with pytest.raises(ValueError, match="take the rest"):
        AutoPASTA(alpha=0)
    with pytest.raises(TypeError, match="question"):
        AutoPASTA(question=["a", "b"])
    model, other = tiny("llama")
    with pytest.raises(ValueError, match="has no tokenizer"):
        AutoPASTA().plan(model, other)
    assert AutoPASTA.inert().plan(model, other) == (other, [])
    assert AutoPASTA(alpha=1.0).plan(demo, prompt) == (prompt, [])
    assert INTERVENTIONS["AutoPASTA"] is AutoPASTA
