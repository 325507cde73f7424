"""Each method mends at least half of the fault that it claims to repair, and its control does not.

Settings are those that the studies chose on validation records (docs/interventions.md); these are test
records, fewer than the studies tell.
"""

from functools import cache

import pytest

import interp
from analyses.compare.items import Planned
from docs import study_controls as control
from docs.studies import EVIDENCE
from interp.interventions import ACT, IRI, PAI, PASTA, VAF, VAR, VHR, AutoPASTA
from interp.tasks import TASKS

BEHIND = [1, 2, 3]
COUNT = 200
KEYED = ("open_book", {"kind": "where", "sentences": 8})
HEADS = [(3, 1), (2, 0), (3, 4), (3, 5)]
INJECTED = {"attn_strength": 4.0, "mlp_strength": 0.0}
CASES = {
    "VAR": (
        "parked-on-sinks", ("colour", {}), VAR(keep=0.1, rho=0.0, mass=0.0, layers=BEHIND),
        Planned(control.random_tokens(0.1, BEHIND)),
    ),
    "ACT": (
        "parked-on-stops", ("ioi", {}), ACT(beta=0.1, alpha=7.0, layers=BEHIND),
        Planned(control.random_tokens(0.1, BEHIND, count=1)),
    ),
    "VHR": (
        "damped-visual-heads", ("count", {}), VHR(alpha=2.5),
        Planned(control.other_heads(VHR(alpha=2.5))),
    ),
    "PAI": (
        "image-outshouted", ("colour", {}), PAI(alpha=0.8, layers=BEHIND),
        Planned(control.louder_words(0.8, BEHIND)),
    ),
    "VAF": (
        "image-outshouted", ("colour", {}), VAF(boost=3.0, damp=0.5, layers=BEHIND),
        Planned(control.scaled_words(3.0, BEHIND)),
    ),
    "IRI": (
        "late-layers-blind", ("colour", {}), IRI(sources=[1], targets=[2, 3], **INJECTED),
        IRI(sources=[0], targets=[2, 3], **INJECTED),
    ),
    "PASTA": (
        "shouted-down", KEYED, PASTA(heads=HEADS),
        Planned(control.another_sentence(PASTA(heads=HEADS))),
    ),
    "AutoPASTA": (
        "drowned-at-the-end", KEYED, AutoPASTA(ask=EVIDENCE, heads=HEADS),
        PASTA(highlight="context", heads=HEADS),
    ),
}  # fmt: skip


@cache
def accuracy(model, fault, task, settings, using):
    opened = interp.load(model, fault=fault)
    asked = TASKS[task](COUNT, "test", **dict(settings))
    return float(interp.score(opened, asked, using=using)["right"].mean())


@pytest.mark.parametrize("name", CASES)
def test_it_mends_its_fault_and_its_control_does_not(name):
    fault, (task, settings), method, instead = CASES[name]
    model = interp.faults.FAULTS[fault].model
    asked = (task, tuple(settings.items()))
    whole, broken = accuracy(model, None, *asked, None), accuracy(model, fault, *asked, None)
    lost = whole - broken
    assert lost >= 0.05  # what is lost has to be worth mending
    opened = interp.load(model, fault=fault)
    records = TASKS[task](COUNT, "test", **settings)
    mended, other = (
        (float(interp.score(opened, records, using=using)["right"].mean()) - broken) / lost
        for using in (method, instead)
    )
    assert mended >= 0.5, (whole, broken, mended)
    assert other < 0.5, (whole, broken, other)
