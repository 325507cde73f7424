"""The channels of the residual stream in which sink tokens stand out (VAR, arXiv 2503.03321)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.metrics import owns
from interp.metrics.residual import in_rms, threshold
from interp.prompt import Prompt
from interp.sites import At, Hook

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class SinkDims:
    """`dims` are the channels found, none where the candidates stay below `tau` at the first token.

    `candidates` and `sizes` are the largest channels there, |x| in units of the token's rms, averaged
    over texts and layers.
    """

    dims: tuple[int, ...]
    candidates: tuple[int, ...]
    sizes: tuple[float, ...]
    tau: float
    layers: tuple[int, ...]


def find_sink_dims(
    model: "Model",
    prompts: Iterable[Prompt],
    *,
    stack: str | None = None,
    count: int = 2,
    tau: float | None = None,
    given: Sequence[int] | None = None,
) -> SinkDims:
    """The `count` channels that are largest at the first token, averaged over texts and middle layers.

    `given` channels are taken as they are, and measured.

    `tau` is 20, or less for streams narrower than 4096 (`interp.metrics.residual.threshold`).
    """
    tower = model.stacks[stack] if stack else next(iter(model.stacks.values()))
    layers = _middle(tower.size)
    sums: list[Tensor] = []

    def first(value: Tensor, at: At) -> None:
        rows = torch.arange(len(value), device=value.device)
        place = torch.zeros_like(rows)
        if at.prompt is not None and owns(at.stack, at.prompt):
            place = at.prompt.mask.int().argmax(-1).to(value.device)
        sums.append(in_rms(value.detach().float()[rows, place]))

    hook = Hook("resid_pre", first, layers=layers, stack=tower.name)
    with torch.no_grad():
        for prompt in prompts:
            model.logits(prompt, hooks=hook)
    if not sums:
        raise ValueError("sink dimensions are looked for in prompts, and none were given.")
    mean = torch.cat(sums).mean(0)  # over texts and layers: every text counts the same
    least = threshold(len(mean)) if tau is None else tau
    if given is not None:
        if not given or not all(0 <= channel < len(mean) for channel in given):
            raise IndexError(
                f"dims={given!r}: channels of the stream, 0 to {len(mean) - 1}, at least one."
            )
        sizes = tuple(mean[list(given)].tolist())
        return SinkDims(tuple(given), tuple(given), sizes, least, tuple(layers))
    largest = mean.topk(min(count, len(mean)))
    candidates, sizes = largest.indices.tolist(), largest.values.tolist()
    dims = tuple(channel for channel, size in zip(candidates, sizes, strict=True) if size >= least)
    return SinkDims(dims, tuple(candidates), tuple(sizes), least, tuple(layers))


def _middle(layers: int) -> list[int]:
    """Layers 2 to L-2, as the re-implementations take them; of a shallow stack what there is."""
    return list(range(2, layers - 1)) or [layers - 1]
