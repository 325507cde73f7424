"""Real handwritten digits: 1797 scans of 8x8 pixels in 16 greys, which scikit-learn carries.

For image classifiers: the prompt is the image alone, and the answers are the classes' labels.
The counterfactual is an image of another digit, from the same split.
"""

import functools
import random
from typing import Any

from PIL import Image

from interp.task import Record
from interp.tasks import TASKS, Generator, split_of

SIDE = 32  # pixels of a record's image: four for each pixel of the scan
LABELS = tuple("0123456789")


@functools.cache
def scans() -> tuple[Any, Any]:
    """The scans as bytes [scan, 8, 8], ink white on black, and the digit that each one shows."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return (digits.images * (255 / 16)).round().astype("uint8"), digits.target


def item(index: int) -> str:
    """What a split is decided by. No two scans are equal, so their numbers name them."""
    return f"digits {index}"


@functools.cache
def indices(split: str) -> tuple[int, ...]:
    """All scans of a split."""
    return tuple(index for index in range(len(scans()[1])) if split_of(item(index)) == split)


def picture(index: int) -> Image.Image:
    """A scan as an image, enlarged smoothly."""
    return Image.fromarray(scans()[0][index]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def draw(chance: random.Random) -> Record:
    """One scan, and one of another digit to set against it."""
    labels = scans()[1]
    index = chance.randrange(len(labels))
    fellows, other = indices(split_of(item(index))), index
    while labels[other] == labels[index]:
        other = chance.choice(fellows)
    answer = str(labels[index])
    return Record(
        prompt="",
        answers=(answer,),
        wrong=tuple(label for label in LABELS if label != answer),
        counterfactual_answers=(str(labels[other]),),
        notes={"scan": index, "counterfactual_scan": other},
    )


def paint(record: Record) -> tuple[Image.Image, Image.Image]:
    return picture(record.notes["scan"]), picture(record.notes["counterfactual_scan"])


TASKS.add("digits", Generator("digits", draw, lambda record: item(record.notes["scan"]), paint))
