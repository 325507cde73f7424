"""Positions of a prompt as a user names them, and a prompt's rows several times over."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.sites import whole_number

if TYPE_CHECKING:
    from interp.model import Model


def places(prompt: Prompt, where: Any) -> Tensor:
    """[batch, position], True at "all", at a span, an index (negative: from the end), or several."""
    if isinstance(where, Tensor):
        if where.dtype != torch.bool or where.shape != prompt.mask.shape:
            raise ValueError(
                f"positions as a mask are bool [batch, position], here {tuple(prompt.mask.shape)}, not "
                f"{where.dtype} {tuple(where.shape)}."
            )
        return where.to(prompt.mask.device)
    if where is None or (isinstance(where, str) and where == "all"):
        return prompt.mask.clone()
    if isinstance(where, str):
        return prompt.where(where)
    if isinstance(where, Sequence):
        if not len(where):
            raise ValueError("no position is named; leave positions out for all of them.")
        return torch.stack([places(prompt, one) for one in where]).any(0)
    index = whole_number(where, "positions")
    if not -prompt.length <= index < prompt.length:
        raise IndexError(f"position {index} is out of range: rows have {prompt.length} positions.")
    if not bool(prompt.mask.all()):
        raise ValueError("an index counts positions of rows without padding; name a span instead.")
    marked = torch.zeros_like(prompt.mask)
    marked[:, index] = True
    return marked


def repeated(model: "Model", prompt: Prompt, times: int) -> Prompt:
    """All rows, `times` over: row r of copy c is at c * batch + r."""
    if times == 1:
        return prompt
    inputs = {
        name: torch.cat([value] * times) if isinstance(value, Tensor) else value
        for name, value in prompt.inputs.items()
    }
    return Prompt.from_inputs(model, inputs)


def check_prompts(model: "Model", *prompts: Prompt) -> None:
    """Refuse padding, where a replaced value would change nothing, and dropout."""
    if model.hf.training:
        raise ValueError(
            "the model is in training mode, where runs differ by chance; call model.hf.eval() first."
        )
    if not all(bool(prompt.mask.all()) for prompt in prompts):
        raise ValueError("rows have different lengths; give rows of equal length, without padding.")
