"""Interventions used wrongly say what was given, what would do, and leave nothing behind."""

import pytest

import interp
from interp.interventions import ACT, CARVE, PAI, PAINT, PASTA, VAF, VAR, AutoPASTA, Found
from interp.live import LIVE
from interp.tasks import TASKS

BOOK = {"kind": "where", "sentences": 6}


@pytest.fixture(scope="module")
def lm():
    return interp.load("demo-lm")


@pytest.fixture(scope="module")
def vlm():
    return interp.load("demo-vlm")


@pytest.fixture(scope="module")
def seen(vlm):
    return TASKS["colour"](2).encode(vlm)


def test_a_role_is_no_word_of_the_text(lm):
    text = "Context: The key is in the crate. The scarf is in the bucket. Q: Where is the scarf? A:"
    for method in (PASTA(), AutoPASTA()):
        with pytest.raises(LookupError, match="a word of that name is hardly meant"):
            lm.logits(text, using=method)
    lm.logits(text, using=PASTA(highlight="The scarf is in the bucket."))
    with pytest.raises(LookupError, match="Did you mean"):
        lm.logits(text, using=PASTA(highlight="The scarf is in the basket."))


def test_ready_inputs_carry_no_spans(lm):
    prompt = TASKS["open_book"](1, **BOOK).encode(lm)
    with pytest.raises(LookupError, match="ready inputs carry no spans"), lm.using(PASTA()):
        lm.hf(**prompt.inputs)
    assert LIVE.get() == ()


def test_what_changes_the_prompt_goes_first(vlm, seen):
    crop = CARVE(tokens=1, regions=1)
    with pytest.raises(ValueError, match="put CARVE first"):
        vlm.logits(seen, using=[PAI(), crop])
    vlm.logits(seen, using=[crop, PAI()])


@pytest.mark.parametrize("method", [VAR(), PAI(), VAF(), CARVE(), PAINT()])
def test_methods_for_images_refuse_text(lm, vlm, method):
    with pytest.raises(ValueError, match="reads text only"):
        lm.logits("The capital of France is", using=method)
    with pytest.raises(ValueError, match="needs an image among"):
        vlm.logits("What colour is the square?", using=method)


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (3, r"pairs \[\(layer, head\)"),
        ({3: 1}, r"pairs \[\(layer, head\)"),
        ([(9, 0)], "layer 9 is out of range"),
        ([(1, 99)], "head 99 is out of range"),
        (["2-1"], r"a head is \(layer, head\)"),
        ("nowhere.json", "ACT: there is no file"),
    ],
)
def test_heads_that_are_none(lm, heads, message):
    with pytest.raises((ValueError, LookupError, OSError), match=message):
        lm.logits("The capital of France is", using=ACT(heads=heads))


def test_findings_of_another_model(lm, vlm, seen, tmp_path):
    heads = Found.on(vlm, "heads", [[1, 2]]).save(tmp_path / "heads.json")
    with pytest.raises(ValueError, match="were found on demo-vlm"):
        lm.logits("The capital of France is", using=ACT(heads=str(heads)))
    with pytest.raises(ValueError, match="wants sink dims, and this holds heads"):
        vlm.logits(seen, using=VAR(dims=str(heads), layers=[1, 2]))


@pytest.mark.parametrize(
    "made",
    [
        lambda: PASTA(official="no"),
        lambda: PAINT(official="no"),
        lambda: AutoPASTA(paragraphs="no"),
        lambda: PASTA(alpha=0),
        lambda: PASTA(alpha=float("nan")),
        lambda: PAI(alpha="1"),
    ],
)
def test_settings_that_are_none(made):
    with pytest.raises((TypeError, ValueError)):
        made()
