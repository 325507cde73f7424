"""All layers but the first spread their looks: what CARVE answers by cropping the rest away."""

from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import projection

if TYPE_CHECKING:
    from interp.model import Model

SOFTER = 0.37


def scatter(model: "Model") -> None:
    """Queries of these layers are shortened, so that every patch gets nearly as much."""
    for layer in list(model.stacks["text"].layers)[1:]:
        projection(model, layer, "q_proj").weight.mul_(SOFTER)


FAULTS.add(
    "scattered-looks",
    Fault(
        "scattered-looks",
        "demo-vlm",
        ("CARVE",),
        "Looks are spread over the image, and in a full scene other objects speak up.",
        scatter,
        ("colour", {"small": True, "radius": (5.0, 6.8)}),
    ),
)
