"""Head importance by gradients (Michel et al. 2019): estimates of what a head is worth, to first order.

Every head gets a gate that its z is multiplied by, 1 as it is and 0 silenced. The paper takes the
gradient by one gate for all positions, the authors' code one absolute value a token: both are here.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_layers, choose_stack
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.sites import At, Hook

if TYPE_CHECKING:
    from interp.model import Model


def gate_slopes(
    model: "Model",
    prompt: Any,
    metric: Any,
    *,
    stack: str | None = None,
    hooks: Sequence[Hook] | Hook = (),
) -> Tensor:
    """The gradient of `metric` by the gate of each head at each position: [batch, layer, position, head].

    Summed over positions it estimates, to first order, by how much the metric falls when the head is
    silenced. `metric` is a readout, or a function of logits -> [batch]. Layers are those of the stack
    that attend, in order.
    """
    tower = choose_stack(model.stacks, stack, model.name)
    prompt = prompt if isinstance(prompt, Prompt) else model.encode(prompt)
    metric = metric.bind(model, prompt) if isinstance(metric, Readout) else metric
    gates: dict[int, Tensor] = {}

    def gate(value: Tensor, at: At) -> Tensor:
        if at.layer in gates:
            raise ValueError(
                f"layer {at.layer} of the {tower.name} stack runs several times in one forward (windows, or "
                "several images), so that a head has no one gate."
            )
        gates[at.layer] = value.new_ones(value.shape[:3]).requires_grad_()
        return value * gates[at.layer][..., None]

    layers = sorted(choose_layers(tower, None, "z"))
    given = [hooks] if isinstance(hooks, Hook) else list(hooks)
    with torch.enable_grad():
        logits = model.logits(prompt, hooks=[*given, Hook("z", gate, layers, tower.name)])
        read = metric(logits, prompt) if isinstance(metric, Readout) else metric(logits)
    if read.shape != (len(prompt),) or not read.requires_grad:
        raise ValueError(
            f"a metric is a number for each of the {len(prompt)} rows, made of logits by what has a "
            f"gradient; this one gave {tuple(read.shape)}."
        )
    slopes = torch.autograd.grad(
        read.sum(), [gates[at] for at in layers], allow_unused=True, materialize_grads=True
    )
    return torch.stack([slope.detach().float().cpu() for slope in slopes], 1)


def token_abs(slopes: Sequence[Tensor], tokens: int | None = None) -> Tensor:
    """The authors' code, [layer, head]: absolute values of tokens, summed, over the number of tokens.

    In the last layer over the number of examples, as they do: there only what answers has a gradient.
    `slopes` are of batches, each of its own length; `tokens` where some positions are padding.
    """
    examples = sum(len(part) for part in slopes)
    counted = tokens or sum(part.shape[0] * part.shape[2] for part in slopes)
    scores = torch.stack([part.abs().sum((0, 2)) for part in slopes]).sum(0)
    scores[:-1] /= counted
    scores[-1] /= examples
    return scores


def by_mask(slopes: Sequence[Tensor]) -> Tensor:
    """The paper's formula, [layer, head]: |gradient by a head's one gate|, mean over examples."""
    return torch.cat([part.sum(2).abs() for part in slopes]).mean(0)


def per_layer(scores: Tensor) -> Tensor:
    """Scores [layer, head] over their L2 norm in the layer, as Michel et al. rank heads of all layers."""
    size = scores.norm(dim=-1, keepdim=True)
    return scores / size.clamp_min(torch.finfo(scores.dtype).tiny)
