"""The tokens of a question about an image in seven groups, after FCCT (arXiv 2511.05923)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from interp.images import Region
    from interp.prompt import Prompt
    from interp.task import Record

EARLY_VISUAL, OBJECT_VISUAL, LATE_VISUAL = "early visual", "object visual", "late visual"
EARLY_TEXTUAL, OBJECT_TEXTUAL, LATE_TEXTUAL = "early textual", "textual object", "late textual"
LAST = "last token"
GROUPS = (
    EARLY_VISUAL, OBJECT_VISUAL, LATE_VISUAL, EARLY_TEXTUAL, OBJECT_TEXTUAL, LATE_TEXTUAL, LAST,
)  # fmt: skip
Box = tuple[float, float, float, float]


def boxes(record: "Record") -> list[Box]:
    """Left, top, right and bottom, in pixels, of what a record asks about; none where nothing is known.

    Notes hold them as `boxes`, as one `box`, or as `objects` with a `box` each, of which `asked` is one;
    others that fit the question as well (the same shape, and colour where it is named) count too.
    """
    notes = record.notes
    if "boxes" in notes or "box" in notes:
        given = notes["boxes"] if "boxes" in notes else [notes["box"]]
        return [_box(one) for one in given]
    asked, objects = notes.get("asked"), notes.get("objects")
    if asked is None or not objects:
        return []
    alike = [
        name for name in ("shape", "colour") if name in record.spans and name in objects[asked]
    ]
    key = objects[asked]
    fitting = [one for one in objects if all(one.get(name) == key[name] for name in alike)]
    return [_box(one["box"]) for one in (fitting if alike else [key])]


def _box(given: Sequence[float]) -> Box:
    left, top, right, bottom = (float(edge) for edge in given)
    return left, top, right, bottom


def patches_over(prompt: "Prompt", row: int, found: Sequence[Box]) -> Tensor:
    """[position]: the image tokens of a row whose patch shares some area with one of the boxes."""
    mask = torch.zeros(prompt.length, dtype=torch.bool)
    height, width = prompt.images[row][0].size
    for region in prompt.regions(row):
        for left, top, right, bottom in found:
            share = (left / width, top / height, right / width, bottom / height)
            mask[region.index[_over(region, share)].cpu()] = True
    return mask


def _over(region: "Region", box: Box) -> Tensor:
    """[row, column]: the cells of a grid that a box, in shares of the image, lies over."""
    (rows, columns), (left, top, right, bottom) = region.grid, region.box
    down = torch.linspace(top, bottom, rows + 1, dtype=torch.float64)
    along = torch.linspace(left, right, columns + 1, dtype=torch.float64)
    tall = (down[:-1] < box[3]) & (down[1:] > box[1])
    wide = (along[:-1] < box[2]) & (along[1:] > box[0])
    return tall[:, None] & wide[None]


def groups(prompt: "Prompt", row: int, seen: Tensor, word: Tensor) -> dict[str, Tensor]:
    """Masks [position] of one row by group, from its object's patches and its object's word.

    Late visual is every other image token from the first object patch on, those between object patches
    among them. Text before the image and padding are in no group; neither is text around the word that
    is the last token, which is a group of its own.
    """
    image, last = prompt.where("image")[row].cpu(), prompt.where("last")[row].cpu()
    order = torch.arange(prompt.length)
    ends = int(image.nonzero().max())
    text = prompt.mask[row].cpu() & ~image & (order > ends) & ~last
    first_seen, first_word = int(seen.nonzero().min()), int(word.nonzero().min())
    visual, rest = image & ~seen, text & ~word
    return {
        EARLY_VISUAL: visual & (order < first_seen),
        OBJECT_VISUAL: seen,
        LATE_VISUAL: visual & (order > first_seen),
        EARLY_TEXTUAL: rest & (order < first_word),
        OBJECT_TEXTUAL: word & ~last,
        LATE_TEXTUAL: rest & (order > first_word),
        LAST: last,
    }


def check_among_text(prompt: "Prompt", row: int) -> None:
    """Image tokens have to be positions of the text, and their places on the image known."""
    picture = prompt.images[row][0]
    own = set(picture.positions.tolist())
    if (
        any(not set(region.index.flatten().tolist()) <= own for region in prompt.regions(row))
        or not own
    ):
        raise ValueError(
            "this model sees images by cross attention: none of its positions is an image token, so there "
            "are no "
            "visual groups."
        )
