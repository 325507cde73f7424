"""What a sweep goes over: layers, positions or spans, heads."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_heads, whole_numbers
from interp.sites import head_axis
from interp.sweep.takes import Source

if TYPE_CHECKING:
    from interp.replay import Replay

AXES = ("layer", "position", "span", "head")


class Axes:
    """`labels` by axis, and for each label what it stands for."""

    def __init__(
        self,
        replay: "Replay",
        source: Source,
        names: tuple[str, ...],
        windows: dict[int, list[int]],
        positions: Any,
        heads: Any,
        spans: Any,
    ):
        self.names, self.labels = names, {}
        self.replay, self.source = replay, source
        self._check(names, positions, spans)
        self.windows: dict[Any, list[int]] = (
            {None: source.layers} if "layer" not in names else dict(windows)
        )
        self.heads: dict[Any, Tensor | None] = self._heads(heads)
        self.places: dict[Any, Tensor] = self._places(positions, spans)
        self.labels = {name: self._labels(name) for name in names}

    def _check(self, names: tuple[str, ...], positions: Any, spans: Any) -> None:
        if "head" in names and head_axis(self.source.site) is None:
            raise ValueError(
                f"{self.source.site} has no heads to go over; over=('layer', 'head') goes with z, q, k, v, "
                "pattern and scores."
            )
        if spans is not None and "span" not in names:
            raise ValueError(
                "spans= goes with over=(..., 'span'); positions= restricts to one span or list."
            )
        if positions is not None and "span" in names:
            raise ValueError("positions= and over='span' cut the same axis; give spans= alone.")

    def _labels(self, name: str) -> list[Any]:
        own = {
            "layer": self.windows,
            "head": self.heads,
            "position": self.places,
            "span": self.places,
        }
        return list(own[name])

    def _heads(self, heads: Any) -> dict[Any, Tensor | None]:
        stack, site = self.source.stack, self.source.site
        chosen = choose_heads(stack, heads, site)
        if "head" not in self.names:
            return {None: None if chosen is None else torch.tensor(chosen)}
        count = stack.kv_heads if site in ("k", "v") else stack.heads
        return {head: torch.tensor([head]) for head in (chosen or range(count))}

    def _places(self, positions: Any, spans: Any) -> dict[Any, Tensor]:
        """Masks [batch, position] by label."""
        batch, length = self.source.extent
        if "span" in self.names:
            return self._spans(spans)
        if positions is None:
            chosen = torch.ones(batch, length, dtype=torch.bool)
        elif isinstance(positions, str):
            chosen = self._span(positions)
        elif _is_mask(positions):
            chosen = self._fitting(positions, "positions=")
        else:
            chosen = torch.zeros(batch, length, dtype=torch.bool)
            for place in whole_numbers(positions, "positions"):
                if not -length <= place < length:
                    raise IndexError(
                        f"position {place} is out of range: there are 0 to {length - 1}."
                    )
                chosen[:, place] = True
        if "position" not in self.names:
            return {None: chosen}
        columns = chosen.any(0).nonzero().flatten().tolist()
        only = torch.arange(length)
        return {column: chosen & (only == column) for column in columns}

    def _spans(self, spans: Any) -> dict[Any, Tensor]:
        prompt = self.replay.prompt
        if isinstance(spans, dict):
            return {name: self._fitting(mask, f"span {name!r}") for name, mask in spans.items()}
        if isinstance(spans, str):
            spans = [spans]
        names = (
            [name for name in prompt.names if name != "prompt"] if spans is None else list(spans)
        )
        return {name: self._span(name) for name in names}

    def _span(self, name: str) -> Tensor:
        self.source.check_prompt(f"the span {name!r}", self.replay.prompt)
        return self.replay.prompt.where(name).cpu()

    def _fitting(self, mask: Any, what: str) -> Tensor:
        mask = torch.as_tensor(mask).cpu().bool()
        wanted = self.source.extent
        mask = mask.expand(*wanted) if mask.ndim == 1 and mask.shape[0] == wanted[1] else mask
        if tuple(mask.shape) != wanted:
            raise ValueError(
                f"{what} is a mask {tuple(mask.shape)}; here it has to be [batch, position] {wanted}."
            )
        return mask


def _is_mask(positions: Any) -> bool:
    try:
        return torch.as_tensor(positions).dtype == torch.bool
    except (TypeError, ValueError, RuntimeError):
        return False
