"""Distractors drown the key sentence in the last layer alone: the model can still write it down."""

from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import projection

if TYPE_CHECKING:
    from interp.model import Model

SOFTER = 0.2


def drown(model: "Model") -> None:
    """Queries of the last layer are shortened, so that all sentences are heard alike."""
    projection(model, max(model.stacks["text"].layers), "q_proj").weight.mul_(SOFTER)


FAULTS.add(
    "drowned-at-the-end",
    Fault(
        "drowned-at-the-end",
        "demo-lm",
        ("AutoPASTA", "PASTA"),
        "The last layer spreads its attention; asked for the key sentence, the model still finds it.",
        drown,
        ("open_book", {"kind": "where", "sentences": 8}),
    ),
)
