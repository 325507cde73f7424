"""A Prompt: the tensors of a forward, and the names of the positions in them."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.images import Picture, Region, finest, paint
from interp.spelling import Reading, pieces, read

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class Said:
    """A stretch of a row's text that has names: the nth place where `text` stands."""

    names: tuple[str, ...]
    text: str
    nth: int = 0


@dataclass(eq=False)
class Prompt:
    """One or more rows of input, made by `model.encode`.

    `inputs` goes to `model.hf(**inputs)` and `model.hf.generate(**inputs)` alike. `mask` is True at
    real tokens and False at padding. `ids` is None where there is no text, and then the positions
    are those of the vision tower. `source` holds the arguments that `encode` was called with, so
    that `model.encode(**{**prompt.source, "images": other})` is the same prompt on other images.
    """

    inputs: dict[str, Any]
    mask: Bool[Tensor, "batch position"]
    ids: Int[Tensor, "batch position"] | None = None
    images: list[list[Picture]] = field(default_factory=list)
    spans: dict[str, Any] = field(default_factory=dict)  # name -> mask [batch, position]
    said: list[list[Said]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    tokenizer: Any = None
    texts: list[str] | None = None  # as given to the tokenizer, where that is known
    offsets: list[list[tuple[int, int]]] | None = None  # into `texts`, where they are known
    labels: list[str] | None = None  # stand for tokens where there is no text

    @classmethod
    def from_inputs(cls, model: "Model", inputs: dict[str, Any]) -> "Prompt":
        """A prompt of ready forward inputs; images in it have tokens but no regions."""
        from interp.encode import from_inputs

        return from_inputs(model, inputs)

    def __len__(self) -> int:
        return self.mask.shape[0]

    def __repr__(self) -> str:
        images = sum(len(row) for row in self.images)
        return f"Prompt({len(self)} x {self.length} positions, {images} images)"

    @property
    def length(self) -> int:
        """Positions in a row, padding included."""
        return self.mask.shape[1]

    @cached_property
    def tokens(self) -> list[list[str]]:
        """What each position spells, padding included; ids as digits without a tokenizer."""
        if self.ids is None:
            return [list(self.labels or [])] * len(self)
        rows = self.ids.tolist()
        if self.tokenizer is None:
            return [[str(token) for token in row] for row in rows]
        return [
            [text for text, count in pieces(self.tokenizer, row) for _ in range(count)]
            for row in rows
        ]

    @property
    def text(self) -> list[str]:
        """Each row as it was given to the tokenizer, or as its ids spell it."""
        return self.texts or [reading.text for reading in self.readings]

    @cached_property
    def readings(self) -> list[Reading]:
        """Each row's text with the place of each token in it: what text is looked up in."""
        if self.ids is None or self.tokenizer is None:
            return [Reading("", [])] * len(self)
        if self.texts is not None and self.offsets is not None:
            return [Reading(*row) for row in zip(self.texts, self.offsets, strict=True)]
        rows = zip(self.ids.tolist(), self.mask.tolist(), strict=True)
        return [read(self.tokenizer, ids, real) for ids, real in rows]

    @property
    def names(self) -> list[str]:
        """The spans that have names; any other string is looked up in the text."""
        said = dict.fromkeys(name for row in self.said for part in row for name in part.names)
        heard = [name for name in said if any(self._spoken(row, name) for row in range(len(self)))]
        return list(dict.fromkeys(["prompt", "first", "last", *self.spans, *heard]))

    def where(self, name: str, image: int | None = None) -> Bool[Tensor, "batch key"]:
        """The positions of a span: a name, or a text that every row must contain.

        `image=` picks one of each row's images: `where("image", image=1)` is the second.
        """
        if image is not None:
            return self._one_image(name, image)
        if name == "prompt":
            return self.mask.clone()
        if name == "first":
            return self.mask & (self.mask.long().cumsum(1) == 1)
        if name == "last":
            return self.mask & (self.mask.long().flip(1).cumsum(1).flip(1) == 1)
        if name in self.spans:
            return self.spans[name].clone()
        spoken = [self._spoken(row, name) for row in range(len(self))]
        return self._marked(spoken) if any(spoken) else self.locate([name] * len(self))

    def position(self, name: str) -> Int[Tensor, " batch"]:
        """The last position of a span in each row."""
        mask = self.where(name)
        if not bool(mask.any(1).all()):
            row = int((~mask.any(1)).nonzero()[0])
            raise LookupError(f"row {row} has no {name!r}, so it has no position there.")
        order = torch.arange(self.length, device=mask.device)
        return (mask * order).amax(1)

    def locate(self, parts: Sequence[str]) -> Bool[Tensor, "batch key"]:
        """The positions of one text for each row, wherever it stands in that row."""
        found = [reading.find(part) for reading, part in zip(self.readings, parts, strict=True)]
        for row, positions in enumerate(found):
            if not positions:
                raise LookupError(self._unfound(row, parts[row]))
        return self._marked(found)

    def regions(self, row: int = 0, image: int = 0) -> list[Region]:
        """Where one image's tokens lie on it; several grids where the model sees tiles."""
        picture = self._picture(row, image)
        if not picture.regions:
            raise ValueError(picture.why)
        return list(picture.regions)

    def fold(self, values: Tensor, row: int = 0, image: int = 0) -> Float[Tensor, "... row column"]:
        """Lay values over keys, `[..., key]`, onto one image: a map of cells that cover it.

        One grid over the whole image gives back its cells unchanged. Otherwise the cells are
        those of the finest region, and each token's value is spread over the part of the image it
        shows, by area: the map sums to what the image's tokens sum to. Left out are tokens that
        show no place (newlines, class tokens) and those that show only padding.
        """
        regions = self._covered(values, row, image)
        return paint(regions, values, *finest(regions))

    def heatmap(
        self,
        values: Tensor,
        row: int = 0,
        image: int = 0,
        size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "... height width"]:
        """`fold` at pixel size, height and width, in the units of `fold`: mass a cell."""
        regions = self._covered(values, row, image)
        height, width = size or self._picture(row, image).size
        rows, columns = finest(regions)
        scale = height * width / (rows * columns)
        return paint(regions, values, height, width) * scale

    def _covered(self, values: Tensor, row: int, image: int) -> list[Region]:
        """The image's regions, if the values are over the positions that the regions count."""
        regions = self.regions(row, image)
        own = set(self._picture(row, image).positions.tolist())
        among_text = bool(own) and all(set(r.index.flatten().tolist()) <= own for r in regions)
        if among_text and values.shape[-1] < self.length:
            raise ValueError(
                f"values over {values.shape[-1]} keys are not over this prompt's {self.length} positions; "
                "fold takes rows of the stack that reads the text (a vision tower counts its own patches)."
            )
        return regions

    def _picture(self, row: int, image: int) -> Picture:
        if not self.images:
            raise LookupError(
                "this prompt was made without images that can be shown. "
                "Make it with model.encode(text, images=...)."
            )
        if row not in range(len(self.images)) or image not in range(len(self.images[row])):
            counts = [len(pictures) for pictures in self.images]
            raise LookupError(f"no image {image} in row {row}. Images a row: {counts}.")
        return self.images[row][image]

    def _one_image(self, name: str, image: int) -> Tensor:
        if name != "image":
            raise ValueError(f"image={image} goes with where('image'), not where({name!r}).")
        if not any(image in range(len(pictures)) for pictures in self.images):
            counts = [len(pictures) for pictures in self.images]
            raise LookupError(f"no row has an image {image}. Images a row: {counts}.")
        rows = [row[image : image + 1] for row in self.images]
        marked = self._marked([row[0].positions.tolist() if row else [] for row in rows])
        if not bool(marked.any()):
            raise LookupError(f"image {image} has no tokens of its own among these positions.")
        return marked

    def _spoken(self, row: int, name: str) -> list[int]:
        said = self.said[row] if row < len(self.said) else []
        parts = [part for part in said if name in part.names]
        found = [self.readings[row].find(part.text, part.nth) for part in parts]
        return [position for positions in found for position in positions]

    def _marked(self, rows: Sequence[Sequence[int]]) -> Tensor:
        mask = torch.zeros_like(self.mask)
        for row, positions in enumerate(rows):
            mask[row, list(positions)] = True
        return mask

    def _unfound(self, row: int, part: str) -> str:
        """What was looked for, the nearest there is, and what names there are."""
        names = ", ".join(self.names)
        if self.ids is None or self.tokenizer is None:
            return f"no span {part!r}, and no tokenizer to look text up with. Names are: {names}."
        near = next(iter(difflib.get_close_matches(part, self.names, n=1)), None)
        near = near or self.readings[row].nearest(part)
        guess = f" Did you mean {near!r}?" if near else ""
        place = f"row {row}" if len(self) > 1 else "the text"
        return f"no span {part!r}, and {place} does not contain it.{guess} Names are: {names}."
