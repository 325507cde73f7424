"""What can be read and what can be changed, tried point by point."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_layers
from interp.prompt import Prompt
from interp.sites import SITES, Hook

if TYPE_CHECKING:
    import pandas

    from interp.model import Model


def probe(model: "Model", prompt: Any = None) -> "pandas.DataFrame":
    """One row a point: stack, layer, site, read, change, and a note where one is False.

    Each point is read once and then changed once, to see whether the logits move; the changes cost
    a forward each.
    """
    import pandas

    prompt = _default_prompt(model) if prompt is None else model._prompt(prompt)
    rows = []
    with torch.no_grad():
        base = model.logits(prompt)
        for name, stack in model.stacks.items():
            seen = _readable(model, prompt, name)
            for layer in sorted(stack.layers):
                for site in SITES:
                    rows.append(
                        _point(model, prompt, base, name, layer, site, (layer, site) in seen)
                    )
    return pandas.DataFrame(rows)


def _readable(model: "Model", prompt: Prompt, stack: str) -> set[tuple[int, str]]:
    try:
        trace = model.trace(prompt, stack=stack)
    except LookupError:
        return set()
    return {(key[1], key[0]) for key in trace}


def _point(
    model: "Model", prompt: Prompt, base: Tensor, stack: str, layer: int, site: str, read: bool
) -> dict[str, Any]:
    row = {"stack": stack, "layer": layer, "site": site, "read": read, "change": False, "note": ""}
    try:
        choose_layers(model.stacks[stack], layer, site)
    except LookupError as problem:
        return {**row, "note": str(problem)}
    if not read:
        return {**row, "note": "this prompt does not pass here"}
    hook = Hook(site, _disturb, layers=[layer], stack=stack)
    moved = (model.logits(prompt, hooks=[hook]) - base).abs().max()
    if not moved > 0:
        return {**row, "note": "changing it leaves the logits as they are"}
    return {**row, "change": True}


def _disturb(value: Tensor, at: Any) -> Tensor:
    """Far from what was there, different in every cell, and still a pattern where it is one."""
    wave = torch.sin(torch.arange(value.numel(), device=value.device) * 0.7).view(value.shape)
    if at.site == "pattern":
        return torch.softmax(4 * wave, -1).to(value)
    if at.site == "scores":
        return torch.where(value > torch.finfo(value.dtype).min / 2, 4 * wave.to(value), value)
    return value + wave.to(value) * (value.abs().amax() + 1)


def _default_prompt(model: "Model") -> Prompt:
    """A few tokens and, where the family is known, an image."""
    if model.family is not None:
        inputs = model.family.inputs(model.hf)
        inputs = {name: item.to(model.device) for name, item in inputs.items()}
        return Prompt.from_inputs(model, inputs)
    words = model.hf.get_input_embeddings().num_embeddings
    return model.encode(torch.arange(6)[None] * 7 % words)
