"""Attention between the patches of an image: by neighbourhood, and by distance."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric, check_owner

if TYPE_CHECKING:
    from interp.prompt import Prompt


@dataclass(frozen=True)
class _Grid(Metric):
    """`grid` (rows, columns) and `before` (class tokens before the patches) say where patches are.

    Without them, the prompt does; `image` says which of several images a row is meant.
    """

    one_sequence: ClassVar[bool] = True

    grid: tuple[int, int] | None = None
    before: int = 0
    image: int | None = None

    def __post_init__(self) -> None:
        if self.before < 0 or (self.grid is not None and min(self.grid) < 1):
            raise ValueError(
                f"grid={self.grid}, before={self.before}: rows and columns from 1, tokens before them from 0."
            )

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        if self.grid is not None:
            return
        if prompt is not None and not prompt.images:
            raise ValueError(
                f"{self.name} reads an image's patches, and this prompt has no image. Encode with "
                "images=..., or give grid=(rows, columns) and before= (class tokens)."
            )
        if prompt is not None:
            try:
                check_owner(self.name, stack, prompt)
            except ValueError as problem:
                raise ValueError(f"{problem} Or give grid=(rows, columns) and before=.") from None

    def places(self, extent: Extent) -> list[Tensor]:
        """For each example its patches' positions, [row, column]."""
        if self.grid is not None:
            rows, columns = self.grid
            last = self.before + rows * columns
            if last > extent.keys:
                raise ValueError(
                    f"grid={self.grid} after {self.before} tokens needs {last} positions, and there are "
                    f"{extent.keys}."
                )
            one = torch.arange(self.before, last, device=extent.device).view(rows, columns)
            return [one] * extent.batch
        prompt = extent.owner(self.name)
        if self.image is None and any(len(row) > 1 for row in prompt.images):
            raise ValueError(
                f"{self.name} reads one image a row, and these have {[len(row) for row in prompt.images]}; "
                "image=0 says which."
            )
        found = [prompt.regions(row, self.image or 0) for row in range(extent.batch)]
        largest = [max(regions, key=lambda region: region.index.numel()) for regions in found]
        return [region.index.to(extent.device) for region in largest]

    def parts(self, block: Block, extent: Extent) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
        """What the metric needs of each example in the block.

        Its number, its patch rows there, and between all patches the attention [head, row, patch]
        and the steps down and across [row, patch, 2].
        """
        places = self.places(extent)
        for order, example in enumerate(range(extent.batch)[block.batch]):
            index = places[example].flatten() - extent.first_key
            columns = places[example].shape[1]
            order_of = torch.arange(len(index), device=index.device)
            spots = torch.stack([order_of // columns, order_of % columns], -1)
            top = block.rows.start
            inside = (index >= top) & (index < top + block.pattern.shape[-2])
            held = (index >= block.left) & (index < block.left + block.pattern.shape[-1])
            rows = index[inside]
            full = block.pattern.new_zeros(block.pattern.shape[1], len(rows), len(index))
            part = block.pattern[order][:, rows - top]
            full[..., held] = part[..., index[held] - block.left]
            steps = (spots[inside][:, None] - spots[None, :]).abs()
            yield example, rows, full.float(), steps


@dataclass(frozen=True)
class Neighbours(_Grid):
    """P(k): mean attention of a patch to the patches k hops away, k = 0, 1, ..., per head.

    `form="sum"` gives the mass at each hop. `hop` is "chebyshev" or "manhattan". Rows are scaled to sum
    to 1 over the patches unless `scaled=False`.
    """

    name: ClassVar[str] = "neighbours"
    per: ClassVar[str] = "hop"

    hop: str = "chebyshev"
    form: str = "mean"
    scaled: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.hop not in ("chebyshev", "manhattan") or self.form not in ("mean", "sum"):
            raise ValueError(
                f"hop={self.hop!r} is chebyshev or manhattan, form={self.form!r} is mean or sum."
            )

    def _hops(self, steps: Tensor) -> Tensor:
        return steps.amax(-1) if self.hop == "chebyshev" else steps.sum(-1)

    def _furthest(self, extent: Extent) -> int:
        sizes = [place.shape for place in self.places(extent)]
        far = [max(h, w) - 1 if self.hop == "chebyshev" else h + w - 2 for h, w in sizes]
        return max(far)

    def start(self, extent: Extent) -> Tensor:
        """Sums, and beside them for how many rows each hop exists."""
        hops = self._furthest(extent) + 1
        return torch.zeros(extent.batch, extent.heads, 2, hops, device=extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        for example, rows, attention, steps in self.parts(block, extent):
            if not len(rows):
                continue
            if self.scaled:
                attention = attention / attention.sum(-1, keepdim=True).clamp_min(1e-12)
            hops = self._hops(steps)
            mass = attention.new_zeros(*attention.shape[:2], total.shape[-1])
            mass.scatter_add_(-1, hops.expand_as(attention), attention)
            count = torch.zeros(len(rows), total.shape[-1], device=total.device)
            count.scatter_add_(-1, hops, torch.ones_like(hops, dtype=count.dtype))
            if self.form == "mean":
                mass = mass / count.clamp_min(1)
            total[example, block.heads, 0] += mass.sum(-2)
            there = count > 0 if self.form == "mean" else torch.ones_like(count)
            total[example, block.heads, 1] += there.sum(-2)

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        return total[:, :, 0] / total[:, :, 1].clamp_min(1)


@dataclass(frozen=True)
class ImageDistance(_Grid):
    """How many patches away a patch looks, as the crow flies, per head and query; NaN at other tokens.

    Rows are scaled to sum to 1 over the patches.
    """

    name: ClassVar[str] = "image_distance"
    per: ClassVar[str] = "query"

    def start(self, extent: Extent) -> Tensor:
        shape = (extent.batch, extent.heads, extent.queries)
        return torch.full(shape, torch.nan, device=extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        for example, rows, attention, steps in self.parts(block, extent):
            away = steps.float().pow(2).sum(-1).sqrt()
            found = (attention * away).sum(-1) / attention.sum(-1).clamp_min(1e-12)
            own = total[example, block.heads]
            own[:, rows] = found


METRICS.add(Neighbours.name, Neighbours)
METRICS.add(ImageDistance.name, ImageDistance)
