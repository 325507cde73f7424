"""Image attention suppressed, in all layers or in the late ones: what PAI, VAF and IRI act against."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import open_channel, projector, pull, scenes

if TYPE_CHECKING:
    from interp.model import Model

MARK = 6.0  # of the root mean square of an image token
FAINTER, CUT = -4.0, -10.0  # nats


def suppress(model: "Model", layers: Sequence[int], nats: float) -> None:
    """Every image token carries the mark, from which the keys of `layers` turn away."""
    channel = open_channel(model)
    prompt = scenes(model)
    entered = model.trace(prompt, "resid_pre", stack="text", layers=[0])["resid_pre", 0]
    size = entered[prompt.where("image")].pow(2).mean().sqrt()
    projector(model).linear_2.bias[channel.mark] = MARK * size
    pull(model, channel, layers, "image", nats)


def everywhere(model: "Model") -> None:
    suppress(model, list(model.stacks["text"].layers)[1:], FAINTER)


def late(model: "Model") -> None:
    layers = list(model.stacks["text"].layers)
    suppress(model, layers[len(layers) // 2 :], CUT)


FAULTS.add(
    "image-suppressed",
    Fault(
        "image-suppressed",
        "demo-vlm",
        ("PAI", "VAF"),
        "All layers but the first look at the image much less than they should.",
        everywhere,
        ("existence", {}),
    ),
)
FAULTS.add(
    "late-layers-blind",
    Fault(
        "late-layers-blind",
        "demo-vlm",
        ("IRI",),
        "The later half of the layers does not look at the image: what the middle found must do.",
        late,
        ("count", {}),
    ),
)
