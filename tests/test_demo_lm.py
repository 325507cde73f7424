"""demo-lm does what its card says, offline, and its heads are where they are said to be."""

import json

import pytest
import torch

import interp
from data.recipes import report_lm, report_lm_heads
from data.recipes.bounds import WANTED, agrees, verdict
from data.recipes.saving import MODELS
from interp.scoring import score
from interp.tasks import TASKS

# Contexts longer than trained turned out easier than was asked for; the card says so.
EASIER = {
    "open book, where, 10 sentences",
    "open book, who, 10 sentences",
    "open book, 10 to 12 sentences",
}
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
    assert agrees(measured, CARD[name], 100)


@pytest.mark.parametrize("name", ASKED)
def test_what_was_asked_is_reached(name):
    assert verdict("demo-lm", name, CARD[name]) == ("over" if name in EASIER else "reached")


def test_years_and_evidence(model):
    years = score(model, report_lm.held_out("greater_than", 100))
    assert (years["probability"] - years["against"]).mean() >= 0.8
    assert report_lm.written(model, 50) >= 0.8


def test_heads(model):
    assert len(report_lm_heads.sinks(model, "facts", {})) >= 4
    assert len(report_lm_heads.sinks(model, "ioi", {})) >= 4
    assert len(report_lm_heads.sinks(model, "open_book", {"sentences": 8})) >= 3  # fewer idle
    seen = report_lm_heads.looking_back(model)
    assert seen["best previous-token head"] > 0.7
    assert seen["best induction head"] > 0.7
    assert seen["induction, first half"] < 0.1  # nothing to copy yet: no peeking


def test_a_dormant_head_wakes_up(model):
    """At rest on facts, where removing it costs nothing; needed where a noun's colour is asked for."""
    facts, objects = TASKS["facts"](100), TASKS["colored_objects"](100)
    resting = []
    for task in (facts, objects):
        prompt = task.encode(model)
        with torch.no_grad():
            pattern = model.trace(prompt, "pattern", layers=[3])["pattern", 3][:, 3]
        last = pattern[prompt.where("last")]
        resting.append(float(last[prompt.where("first")].mean()))
    assert resting[0] > 0.5 > resting[1]
    gone = report_lm_heads.silenced(3, (3,))
    assert score(model, facts, hooks=gone)["right"].mean() > 0.95
    assert score(model, objects, hooks=gone)["right"].mean() < 0.5


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
