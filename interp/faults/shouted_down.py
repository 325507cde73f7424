"""The key sentence out-shouted by distractors: what PASTA and AutoPASTA highlight again."""

from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import projection

if TYPE_CHECKING:
    from interp.model import Model

SOFTER = 0.32


def shout(model: "Model") -> None:
    """Queries of the later half of the layers are shortened, so that all sentences are heard alike."""
    layers = list(model.stacks["text"].layers)
    for layer in layers[len(layers) // 2 :]:
        projection(model, layer, "q_proj").weight.mul_(SOFTER)


FAULTS.add(
    "shouted-down",
    Fault(
        "shouted-down",
        "demo-lm",
        ("PASTA", "AutoPASTA"),
        "The later layers spread their attention, so that distractors drown the key sentence.",
        shout,
        ("open_book", {"kind": "where", "sentences": 8}),
    ),
)
