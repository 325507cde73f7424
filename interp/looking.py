"""Reading a saved look at attention: one head's map, one query's row, the same laid over the image.

look = Look.of(Result.load("runs/attention"))
look.row(layer=2, head=3, query=-1)  # over keys
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from interp.images import Region, finest, paint
from interp.result import Result

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Look:
    """What the analysis `attention` kept of one text or image."""

    result: Result

    @classmethod
    def of(cls, result: Result) -> "Look":
        """Refuses any other analysis' result."""
        if result.analysis != "attention" or "maps" not in result.tensors:
            raise ValueError(
                f"this is a result of {result.analysis!r}; a look is read from ANALYSES['attention']."
            )
        return cls(result)

    @property
    def layers(self) -> list[int]:
        return list(self.result.made["layers"])

    @property
    def heads(self) -> int:
        return self.result.tensors["maps"].shape[1]

    @cached_property
    def tokens(self) -> list[str]:
        return self.result.tables["tokens"]["token"].tolist()

    @cached_property
    def on_image(self) -> np.ndarray:
        return self.result.tables["tokens"]["image"].to_numpy(bool)

    @property
    def whole(self) -> bool:
        """Whether maps are kept as they were, a cell a token."""
        return "keys" not in self.result.tensors

    @property
    def stretch(self) -> int:
        """Tokens that a cell of a map stands for."""
        return 1 if self.whole else -(-len(self.tokens) // self.result.tensors["maps"].shape[-1])

    def map(self, layer: int, head: int) -> np.ndarray:
        """[row, column]: shares of attention."""
        return self.result.tensors["maps"][self._place(layer, head)].numpy()

    def row(self, layer: int, head: int, query: int) -> np.ndarray:
        """One query over all keys; of a long text all but its largest shares are 0."""
        place = self._place(layer, head)
        query = self._query(query)
        if self.whole:
            return self.result.tensors["maps"][place][query].numpy()
        row = np.zeros(len(self.tokens), dtype=np.float32)
        keys = self.result.tensors["keys"][place][query].numpy()
        row[keys[keys >= 0]] = self.result.tensors["shares"][place][query].numpy()[keys >= 0]
        return row

    def heat(self, layer: int, head: int, query: int) -> "np.ndarray | None":
        """One query's attention over the image, [height, width], mass a patch; None without an image."""
        image = self.result.tensors.get("image")
        if image is None:
            return None
        height, width = image.shape[:2]
        values = torch.from_numpy(self.row(layer, head, query))
        rows, columns = finest(self._regions)
        return (
            paint(self._regions, values, height, width).numpy() * height * width / (rows * columns)
        )

    @cached_property
    def image(self) -> "Image | None":
        from PIL import Image

        pixels = self.result.tensors.get("image")
        return None if pixels is None else Image.fromarray(pixels.numpy())

    @cached_property
    def _regions(self) -> list[Region]:
        regions: list[dict[str, Any]] = self.result.made["regions"]
        return [
            Region(tuple(one["grid"]), torch.tensor(one["index"]), tuple(one["box"]))
            for one in regions
        ]

    def _place(self, layer: int, head: int) -> tuple[int, int]:
        if layer not in self.layers or not 0 <= head < self.heads:
            raise LookupError(
                f"no head {layer}.{head}: layers are {self.layers[0]} to {self.layers[-1]}, heads 0 to "
                f"{self.heads - 1}."
            )
        return self.layers.index(layer), head

    def _query(self, query: int) -> int:
        size = len(self.tokens)
        if not -size <= query < size:
            raise LookupError(f"no query {query}: the text has {size} tokens, 0 to {size - 1}.")
        return query % size
