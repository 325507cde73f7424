"""Vision-aware heads damped: what VHR reinforces."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.faults import FAULTS, Fault
from interp.faults.planting import projection
from interp.tasks import TASKS

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

DAMPING = 0.3


def damp(model: "Model") -> None:
    """The heads of each layer but the first whose output the image changes more than the median."""
    change = image_change(model)
    width = model.stacks["text"].d_head
    for layer in range(1, len(change)):
        weight = projection(model, layer, "o_proj").weight
        for head in (change[layer] > change[layer].median()).nonzero().flatten().tolist():
            weight[:, head * width : (head + 1) * width] *= DAMPING


def image_change(model: "Model") -> Tensor:
    """[layer, head]: how far the output at the last token moves when the image is left out."""
    task = TASKS["existence"](48, "train")
    blind = model.encode([record.prompt for record in task])
    seen, unseen = _last_outputs(model, task.encode(model)), _last_outputs(model, blind)
    return (seen - unseen).norm(dim=-1).mean(1)


def _last_outputs(model: "Model", prompt: "Prompt") -> Tensor:
    """[layer, batch, head, d_head]"""
    trace = model.trace(prompt, "z", stack="text")
    last = prompt.where("last")
    return torch.stack([trace["z", layer][last] for layer in trace.layers("z")])


FAULTS.add(
    "damped-visual-heads",
    Fault(
        "damped-visual-heads",
        "demo-vlm",
        ("VHR",),
        "The heads that an image moves most give out a third of what they should.",
        damp,
        ("existence", {}),
    ),
)
