"""The numbers of a sweep, with the names of their axes."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure


class Grid(Tensor):
    """A tensor [batch, *over] (a last axis more where the metric gives rows), and how it came about.

    `axes` names its axes and `labels` what stands along them; `plain` [batch] is the metric with
    nothing changed. `path` says which way was taken: "positions" (only layers and positions that may
    differ were run), "layers" (all positions) or "whole" (a forward for each cell), and `why` why not
    more. `skipped` counts cells that could not differ from the run. `tokens` are what stands at the
    positions, row by row; empty where the site's positions are not the prompt's. Arithmetic gives plain
    tensors.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    axes: tuple[str, ...]
    labels: dict[str, list[Any]]
    plain: Tensor
    path: str
    why: str
    site: str
    skipped: int
    tokens: list[list[str]]

    @classmethod
    def of(
        cls,
        values: Tensor,
        axes: tuple[str, ...],
        labels: dict[str, list[Any]],
        plain: Tensor,
        path: str,
        why: str,
        site: str,
        skipped: int,
        tokens: list[list[str]],
    ) -> "Grid":
        """A grid from values of all cells and what there was without any change."""
        grid = values.as_subclass(cls)
        grid.axes, grid.labels, grid.plain = axes, labels, plain
        grid.path, grid.why, grid.site, grid.skipped = path, why, site, skipped
        grid.tokens = tokens
        return grid

    def __deepcopy__(self, memo: dict[int, Any]) -> "Grid":
        held = {name: copy.deepcopy(value, memo) for name, value in vars(self).items()}
        grid = self.as_subclass(Tensor).clone().as_subclass(Grid)
        for name, value in held.items():
            setattr(grid, name, value)
        return grid

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        shape = ", ".join(
            f"{name} {size}" for name, size in zip(self.axes, self.shape, strict=False)
        )
        way = f"{self.path}{f' ({self.why})' if self.why else ''}"
        return f"Grid({self.site}: {shape}; path: {way})\n{self.as_subclass(Tensor)!r}"

    @property
    def effect(self) -> Tensor:
        """By how much each change moves the metric."""
        own = self.as_subclass(Tensor)
        shape = [len(self.plain), *[1] * (len(self.axes) - 1), *self.plain.shape[1:]]
        return own - self.plain.reshape(shape)

    def figure(self, row: int | None = None, title: str = "") -> "Figure":
        """The picture of it: `interp.plots.sweep_map(grid)`."""
        from interp.plots import sweep_map

        return sweep_map(self, row, title)

    def table(self) -> "pandas.DataFrame":
        """One row a number: batch, the axes (with the token at a position), value, plain and effect."""
        import pandas

        names = [*self.axes, *(["field"] if self.ndim > len(self.axes) else [])]
        labels = [list(range(self.shape[0])), *(self.labels[name] for name in self.axes[1:])]
        labels += [list(range(self.shape[-1]))] if "field" in names else []
        index = pandas.MultiIndex.from_product(labels, names=names)
        own = self.as_subclass(Tensor)
        effect = self.effect
        content = {"value": own.flatten().numpy(), "plain": (own - effect).flatten().numpy()}
        content["effect"] = effect.flatten().numpy()
        table = pandas.DataFrame(content, index=index).reset_index()
        if "position" in self.axes and self.tokens:
            places = zip(table["batch"], table["position"], strict=True)
            tokens = [self.tokens[row][place] for row, place in places]
            table.insert(list(table).index("position") + 1, "token", tokens)
        return table
