"""Tokens of many rows laid end to end: what a layer needs of its arguments for each of them."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class Tokens:
    """Which row and position of the run each packed token stands for."""

    def __init__(self, rows: Tensor, places: Tensor):
        self.rows, self.places = rows, places  # [n]: rows of the prompt, positions

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, value: Tensor) -> Tensor:
        """[n, ...] of a value [batch, position, ...]."""
        return value[self.rows, self.places]


def packed(given: dict[str, Any], tokens: Tokens, batch: int, positions: int) -> dict[str, Any]:
    """A layer's arguments for tokens in one row, [1, n]: positions' own parts are picked."""
    return {name: _picked(name, value, tokens, batch, positions) for name, value in given.items()}


def _picked(name: str, value: Any, tokens: Tokens, batch: int, positions: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_picked(name, part, tokens, batch, positions) for part in value)
    if isinstance(value, dict):
        return {key: _picked(name, part, tokens, batch, positions) for key, part in value.items()}
    if not isinstance(value, Tensor) or name.startswith("encoder_") or "bias" in name:
        return value
    if "mask" in name and value.ndim == 4 and value.shape[-1] > 1:
        return None  # who sees whom is known from the run's own attention calls
    return _gathered(value, tokens, batch, positions)


def _gathered(value: Tensor, tokens: Tokens, batch: int, positions: int) -> Tensor:
    axis, over = _axes(value, batch, positions)
    if over is None:
        return value
    if axis is None:
        return value[tokens.places]
    moved = value.movedim((axis, over), (0, 1))
    rows = tokens.rows if value.shape[axis] == batch else torch.zeros_like(tokens.rows)
    return moved[rows, tokens.places][None].movedim((0, 1), (axis, over))


def _axes(value: Tensor, batch: int, positions: int) -> tuple[int | None, int | None]:
    """Which axes count rows and positions."""
    shape = list(value.shape)
    if shape[:1] == [positions] and (len(shape) == 1 or positions != batch):
        return None, 0
    for axis, size in enumerate(shape):
        if size not in (1, batch):
            continue
        over = next((i for i in range(axis + 1, len(shape)) if shape[i] == positions), None)
        if over is not None:
            return axis, over
    return None, None


def cuts(given: Sequence[dict[str, Any]], batch: int, positions: int) -> frozenset[Any]:
    """How arguments would be cut: the same cuts of the same arguments need to be tried once only."""
    found = set()
    for one in given:
        for name, value in one.items():
            parts = value if isinstance(value, tuple) else (value,)
            parts = tuple(value.values()) if isinstance(value, dict) else parts
            found |= {(name, part.ndim, *_axes(part, batch, positions))
                      for part in parts if isinstance(part, Tensor)}  # fmt: skip
    return frozenset(found)
