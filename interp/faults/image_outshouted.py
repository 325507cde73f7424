"""Words out-shout the image: what PAI and VAF act against, by raising the image's own scores."""

from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import WORDS, WORDS_MARK, open_channel, pull

if TYPE_CHECKING:
    from interp.model import Model

PULL = 5.0  # nats


def outshout(model: "Model") -> None:
    """Every word carries the mark, to which the keys of all layers but the first draw attention.

    For attention to the image it is the same as to suppress it. The image's scores stay as they were:
    methods that raise them in proportion find what is worth raising.
    """
    channel = open_channel(model)
    words = model.hf.get_input_embeddings().weight
    words[:, channel.mark] = WORDS_MARK * words.pow(2).mean().sqrt()
    pull(model, channel, list(model.stacks["text"].layers)[1:], WORDS, PULL)


FAULTS.add(
    "image-outshouted",
    Fault(
        "image-outshouted",
        "demo-vlm",
        ("PAI", "VAF"),
        "In all layers but the first, words draw most of the attention that the image should have.",
        outshout,
        ("existence", {}),
    ),
)
