"""Attention parked on sink tokens: what VAR and ACT redistribute.

The first token and the image's first patch get a massive activation in one dimension, as real models
have; the keys of all layers but the first pull attention to it, and its value is nothing.
"""

from typing import TYPE_CHECKING

from interp.faults import FAULTS, Fault
from interp.faults.planting import open_channel, patch_features, projector, pull, scenes

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

MASSIVE = 500.0
STEEP = 20.0  # how sharply the projector's unit tells the patch from others
STANDING_OUT = 50.0
PULL = 8.0  # nats


def park(model: "Model") -> None:
    channel = open_channel(model)
    prompt = scenes(model)
    first = int(prompt.ids[prompt.where("first")][0]) if prompt.ids is not None else 0
    model.hf.get_input_embeddings().weight[first, channel.mark] = MASSIVE
    _mark_first_patch(model, prompt, channel.mark)
    pull(model, channel, list(model.stacks["text"].layers)[1:], "first", PULL)


def _mark_first_patch(model: "Model", prompt: "Prompt", dimension: int) -> None:
    """The tower's first place stands out, and one unit of the projector answers to that.

    The unit is the one used least. It writes the stream's dimension and nothing else.
    """
    tower = model.hf.model.vision_tower
    features = patch_features(model, prompt)
    quiet = int(features.abs().amax((0, 1)).argmin())
    tower.embeddings.position_embedding.weight[1, quiet] += STANDING_OUT  # 0 is the class token's
    values = patch_features(model, prompt)[..., quiet]
    first, others = values[:, 0].min(), values[:, 1:].max()
    part = projector(model)
    hidden = part.act(part.linear_1(features)).abs().mean((0, 1))
    unit = int((hidden * part.linear_2.weight.norm(dim=0)).argmin())
    part.linear_1.weight[unit] = 0.0
    part.linear_1.weight[unit, quiet] = STEEP / (first - others)
    part.linear_1.bias[unit] = -STEEP * (first + others) / 2 / (first - others)
    part.linear_2.weight[:, unit] = 0.0
    part.linear_2.weight[dimension, unit] = MASSIVE / (STEEP / 2)


FAULTS.add(
    "parked-on-sinks",
    Fault(
        "parked-on-sinks",
        "demo-vlm",
        ("VAR",),
        "Most attention of the text lies on the first token and the first patch, which say nothing.",
        park,
        ("existence", {}),
    ),
)
