"""Gaussian noise on a prompt's images as the model is given them: normalised pixels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from interp.prompt import Prompt

PIXELS = ("pixel_values",)  # names of inputs that hold pixels start so; sizes and masks do not


def noised(prompt: "Prompt", sigma: float, seed: int, numbers: Sequence[int]) -> "Prompt":
    """The prompt with noise of `sigma` on all pixels of all its images.

    Every record draws its own, by `seed` and its number, whatever stands beside it in the batch; where a
    model lays the patches of all rows end to end, they are drawn together.
    """
    names = [
        name for name in prompt.inputs if name.startswith(PIXELS) and _real(prompt.inputs[name])
    ]
    if not names:
        raise ValueError(
            f"no pixels among the prompt's inputs, {', '.join(prompt.inputs)}: no image to corrupt."
        )
    inputs = dict(prompt.inputs)
    for name in names:
        inputs[name] = inputs[name] + sigma * _drawn(inputs[name], seed, numbers)
    return replace(prompt, inputs=inputs, source={})


def _real(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _drawn(value: Tensor, seed: int, numbers: Sequence[int]) -> Tensor:
    if len(value) != len(numbers):
        return _noise(value.shape, seed, numbers[0]).to(value)
    rows = [_noise(value.shape[1:], seed, number) for number in numbers]
    return torch.stack(rows).to(value)


def _noise(shape: Sequence[int], seed: int, number: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed * 100_003 + number)
    return torch.randn(tuple(shape), generator=generator)
