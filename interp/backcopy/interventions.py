"""Changes of one layer at test time that tell what its sink and its copying are for.

Each takes where the triggers are, [row, position], and gives what `Network.watch` takes.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from interp.backcopy.chain import Chain
from interp.backcopy.measures import risks
from interp.backcopy.network import Change, Network


def no_sink(where: Tensor) -> Change:
    """Nobody looks at <s>; the other weights stay as they were, so a row may sum to less than 1."""

    def change(pattern: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        pattern = pattern.clone()
        pattern[:, :, 0] = 0
        return pattern, value

    return change


def no_sink_value(where: Tensor) -> Change:
    """<s> has nothing to give."""

    def change(pattern: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        value = value.clone()
        value[:, 0] = 0
        return pattern, value

    return change


def clean_attention(where: Tensor) -> Change:
    """Triggers look at the position before and nowhere else, all others at <s>."""

    def change(pattern: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(pattern.shape[-1], device=pattern.device)
        target = torch.where(where, places - 1, 0)
        return torch.nn.functional.one_hot(target, len(places)).to(pattern.dtype), value

    return change


def no_output(where: Tensor) -> Change:
    """The head writes nothing, as if W_O were 0."""
    return lambda pattern, value: (pattern, torch.zeros_like(value))


INTERVENTIONS: dict[str, Callable[[Tensor], Change]] = {
    "zero attention to <s>": no_sink,
    "zero value of <s>": no_sink_value,
    "clean attention": clean_attention,
    "zero W_O": no_output,
}


def intervened(network: Network, chain: Chain, sequences: Tensor) -> list[dict[str, Any]]:
    """The risks of the network as it is, then with each change in each layer alone."""
    tokens = sequences[:, :-1]
    where = chain.is_trigger.to(tokens.device)[tokens]
    rows = [{"intervention": "none", "layer": None, **risks(network(tokens), sequences, chain)}]
    for name, make in INTERVENTIONS.items():
        for layer in range(len(network.blocks)):
            logits, _ = network.watch(tokens, {layer: make(where)})
            rows.append({"intervention": name, "layer": layer, **risks(logits, sequences, chain)})
    return rows
