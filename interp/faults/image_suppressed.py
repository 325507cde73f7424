"""Image attention suppressed, in all layers or in the late ones: what PAI, VAF and IRI act against."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import normed, projector, pull, scenes, unused_dimension

if TYPE_CHECKING:
    from interp.model import Model

MARK = 4.0  # of the root mean square of an image token
FAINTER, CUT = -4.0, -14.0  # nats


def suppress(model: "Model", layers: Sequence[int], nats: float) -> None:
    """Every image token carries a mark in one dimension, from which the keys of `layers` turn away."""
    prompt = scenes(model)
    trace = model.trace(prompt, "q", "resid_pre", stack="text")
    dimension = unused_dimension(trace)
    image = prompt.where("image")
    size = trace["resid_pre", 0][image].pow(2).mean().sqrt()
    projector(model).linear_2.bias[dimension] += MARK * size
    marked = model.trace(prompt, "q", "resid_pre", stack="text")
    for layer in layers:
        mark = float(normed(marked, layer)[image][:, dimension].mean())
        pull(model, marked, layer, dimension, nats, mark)


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
        ("existence", {}),
    ),
)
