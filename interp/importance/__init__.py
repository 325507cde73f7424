"""How much a number rests on each head, by gradients; and how much each head rests on the image.

Exact importance is a sweep: model.sweep(prompt, "z", take="zero", over=("layer", "head"), metric=...).
"""

from interp.importance.divergence import VisionDivergence, vision_divergence, without_image
from interp.importance.gradient import by_mask, gate_slopes, per_layer, token_abs

__all__ = [
    "VisionDivergence",
    "by_mask",
    "gate_slopes",
    "per_layer",
    "token_abs",
    "vision_divergence",
    "without_image",
]
