"""Two people at one explorer, one of them steering the very weights that the other one looks at."""

import os
import re
from concurrent.futures import ThreadPoolExecutor

import browser
import pytest
import torch

import interp
from interp.interventions import PAI

pytestmark = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="needs Chromium: apt-get install chromium"
)
MODEL, FAULT, TASK = "demo-vlm", "parked-on-sinks", "count"
REQUESTS = int(os.environ.get("INTERP_REQUESTS", 80))  # 200 is the whole of it
LOOKS, STEERS = REQUESTS * 4 // 5, REQUESTS // 5
ONE = f"model={MODEL}&fault={FAULT}&of=an example&task={TASK}&record=0"


def test_many_mixed_requests_and_none_wrong(chromium_address):
    expected = _expected()
    assert sum(plain != steered for plain, steered in expected) >= 0.9 * LOOKS, (
        "steering has to be seen"
    )
    with ThreadPoolExecutor(2) as both:
        looked = both.submit(_look, chromium_address)
        steered = both.submit(_steer, chromium_address)
        seen, answers = looked.result(), steered.result()
    wrong = [
        (n, got, plain)
        for n, (got, (plain, _)) in enumerate(zip(seen, expected, strict=True))
        if got != plain
    ]
    wrong += [
        (n, got, own)
        for n, (got, own) in enumerate(zip(answers, expected[:STEERS], strict=True))
        if got != own
    ]
    assert len(seen) + len(answers) == REQUESTS and not wrong, wrong[:5]


@pytest.fixture(scope="module")
def chromium_address():
    with browser.served() as address:
        yield address


def _expected():
    """(plain, under PAI) of each record: the next token and its probability, as pages write them."""
    model = interp.load(MODEL, fault=FAULT)
    task = interp.Task.load(TASK, count=LOOKS)
    rows = []
    for record in range(LOOKS):
        prompt = task[record : record + 1].encode(model)
        rows.append(tuple(_next(model, prompt, using) for using in ((), PAI())))
    return rows


def _next(model, prompt, using):
    with torch.no_grad():
        shares = model.logits(prompt, using=using)[0, -1].softmax(-1)
    best = int(shares.argmax())
    return model.tokenizer.decode([best]).strip(), f"{float(shares[best]):.3g}"


def _records(visit, count):
    """The records one after another; after each, the page is that record's."""
    for record in range(count):
        if record:
            box = visit.page.get_by_role("spinbutton", name="Record")
            box.fill(str(record))
            box.press("Enter")
            visit.page.wait_for_function(
                "n => new URL(location).searchParams.get('record') === n", arg=str(record)
            )
        visit.rest()
        yield record


def _look(address):
    """The answer on the first page, with its first token's probability."""
    found = []
    with browser.launched() as chromium:
        visit = browser.Visit(chromium, address).open(f"?{ONE}")
        for _ in _records(visit, LOOKS):
            text = visit.page.locator(".st-key-answer").inner_text()
            share, answer = re.search(r"probability ([0-9.e-]+)\)\s+(\w+)", text).groups()
            found.append((answer, share))
        visit.fine()
    return found


def _steer(address):
    """What the page Interventions answers, plain and under PAI."""
    found = []
    with browser.launched() as chromium:
        visit = browser.Visit(chromium, address)
        visit.open(f"interventions?ask.from=ask a model now&{ONE}&interventions.using=PAI()")
        for _ in _records(visit, STEERS):
            visit.page.locator(".st-key-run-now button").click()
            visit.page.wait_for_selector(".st-key-answer-PAI")
            visit.rest()
            found.append(tuple(_said(visit, name) for name in ("plain", "PAI")))
        visit.fine()
    return found


def _said(visit, name):
    text = visit.page.locator(f".st-key-answer-{name}").inner_text()
    token, share = re.search(r"next token: (.*), ([0-9.e-]+)", text).groups()
    return token, share
