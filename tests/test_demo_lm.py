"""demo-lm does what its card says, offline, and its heads are where they are said to be."""

import json

import pytest
import torch

import interp
from data.recipes import report_lm, report_lm_heads
from data.recipes.bounds import WANTED
from data.recipes.saving import MODELS
from interp.scoring import score
from interp.tasks import TASKS

CARD = json.loads((MODELS / "demo-lm" / "report.json").read_text())["shipped"]
ASKED = WANTED["demo-lm"]


@pytest.fixture(scope="module")
def model():
    return interp.load("demo-lm")


@pytest.mark.parametrize("name", report_lm.ACCURACY)
def test_the_card_is_true(model, name):
    """Measured again on fewer prompts: within the sampling error of what the card says."""
    task, settings = report_lm.ACCURACY[name]
    measured = float(score(model, report_lm.held_out(task, 100, **settings))["right"].mean())
    error = (max(CARD[name] * (1 - CARD[name]), 0.01) / 100) ** 0.5
    assert abs(measured - CARD[name]) <= 3.5 * error


@pytest.mark.parametrize("name", [name for name in report_lm.ACCURACY if name in ASKED])
def test_what_was_asked_is_reached(name):
    low, high = ASKED[name]
    assert low <= round(CARD[name], 3) <= high


def test_years_and_evidence(model):
    years = score(model, report_lm.held_out("greater_than", 100))
    assert (years["probability"] - years["against"]).mean() >= 0.8
    assert report_lm.written(model, 50) >= 0.8


def test_heads(model):
    for task, settings in (("facts", {}), ("open_book", {"sentences": 8}), ("ioi", {})):
        assert len(report_lm_heads.sinks(model, task, settings)) >= 4
    seen = report_lm_heads.looking_back(model)
    assert seen["best previous-token head"] > 0.7
    assert seen["best induction head"] > 0.7
    assert seen["induction, first half"] < 0.1  # nothing to copy yet: no peeking


def test_dormant_heads_wake_up_for_repeats(model):
    gone = report_lm_heads.silenced(2, (0, 1, 2, 3))
    facts, repeats = TASKS["facts"](100), TASKS["induction"](100)
    assert score(model, facts, hooks=gone)["right"].mean() > 0.9
    assert score(model, repeats, hooks=gone)["right"].mean() < 0.3


def test_facts_are_read_at_the_last_subject_token(model):
    from data.recipes import report_lm_tracing

    found = report_lm_tracing.measure(model, facts=10)
    assert found["tracing: best residual at the last subject token, share restored"] > 0.7
    assert found["tracing: best MLP window there, share restored"] > 0.4
    assert found["tracing: probability, noised"] < 0.5


def test_induction_is_learnt_between_the_checkpoints():
    task = TASKS["induction"](100)
    before, after = (
        score(interp.load(f"demo-lm-{when}-induction"), task)["right"].mean()
        for when in ("before", "after")
    )
    assert before <= 0.1
    assert after >= 0.7


def test_it_opens_as_any_hugging_face_folder():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = MODELS / "demo-lm"
    hf, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder),
        AutoTokenizer.from_pretrained(folder),
    )
    record = TASKS["facts"](1)[0]
    ids = tokenizer(record.prompt, return_tensors="pt")
    said = hf.generate(**ids, max_new_tokens=1, do_sample=False)[0, -1]
    assert tokenizer.decode(said).strip() == record.answers[0].strip()
    assert tokenizer.decode(ids["input_ids"][0], skip_special_tokens=True).strip() == record.prompt
    assert hf.config.num_key_value_heads < hf.config.num_attention_heads
    assert ids["input_ids"][0, 0] == tokenizer.bos_token_id
    assert torch.isfinite(hf.get_input_embeddings().weight).all()
