"""Attention parked on full stops: later sinks, as ACT finds and calibrates them in text."""

from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import STOPS, open_channel, pull, stops

if TYPE_CHECKING:
    from interp.model import Model

MASSIVE = 20.0  # of a word embedding's root mean square
PULL = 9.0  # nats


def park(model: "Model") -> None:
    """Full stops stand out in one dimension, to which the keys of all layers but the first draw attention."""
    channel = open_channel(model)
    words = model.hf.get_input_embeddings().weight
    words[stops(model), channel.mark] = MASSIVE * words.pow(2).mean().sqrt()
    pull(model, channel, list(model.stacks["text"].layers)[1:], STOPS, PULL)


FAULTS.add(
    "parked-on-stops",
    Fault(
        "parked-on-stops",
        "demo-lm",
        ("ACT",),
        "Most attention lies on full stops, which say nothing.",
        park,
        ("ioi", {}),
    ),
)
