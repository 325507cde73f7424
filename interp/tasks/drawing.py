"""Pictures of scenes: numpy to RGB, the same pixels for the same notes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from interp.task import Record
from interp.tasks.scene import COLOURS, SIDE, Thing

GRAIN, BLOTCH = 9.0, 5.0  # deviations of the noise of pixels and of blocks of 4 x 4
_FINE = 4  # samples along each side of a pixel
Pixels = NDArray[np.floating]


def coverage(thing: Thing, left: int, top: int, size: int) -> Pixels:
    """How much of each pixel of a window the object covers, 0 to 1."""
    steps = (np.arange(_FINE * size, dtype=np.float32) + 0.5) / _FINE
    x = (steps + np.float32(left - thing.x))[None, :]
    y = (steps + np.float32(top - thing.y))[:, None]
    inside = _inside(thing.shape, x, y, thing.radius)
    if thing.hidden in ("left", "right"):
        inside = inside & ((x >= -0.5) if thing.hidden == "left" else (x <= 0.5))
    elif thing.hidden:
        inside = inside & ((y >= -0.5) if thing.hidden == "top" else (y <= 0.5))
    fine = inside.reshape(size, _FINE, size, _FINE)
    return fine.mean((1, 3), dtype=np.float32)


def _inside(shape: str, x: Pixels, y: Pixels, radius: float) -> NDArray[np.bool_]:
    across, down = np.abs(x), np.abs(y)
    if shape == "circle":
        return x * x + y * y <= radius * radius
    if shape == "square":
        return (across <= radius * 0.88) & (down <= radius * 0.88)
    if shape == "triangle":
        return (y <= radius * 0.85) & (y >= -radius) & (across <= (y + radius) * 0.55)
    if shape == "cross":
        thin, long = radius * 0.33, radius
        return ((across <= thin) & (down <= long)) | ((down <= thin) & (across <= long))
    return across + down <= radius * 1.1


def draw(things: Sequence[Thing], seed: int) -> NDArray[np.uint8]:
    """[y, x, RGB]. The seed decides about background and noise, and about nothing else."""
    chance = np.random.default_rng(seed)
    shade = chance.uniform(95, 150) + chance.uniform(-8, 8, 3)
    blotches = chance.standard_normal((SIDE // 4, SIDE // 4, 3), dtype=np.float32) * BLOTCH
    pixels = (blotches + shade.astype(np.float32)).repeat(4, 0).repeat(4, 1)
    for thing in things:
        size = int(2.2 * thing.radius) + 4
        left, top = round(thing.x - size / 2), round(thing.y - size / 2)
        cover = coverage(thing, left, top, size) * np.float32(thing.alpha)
        y0, y1, x0, x1 = max(0, -top), min(size, SIDE - top), max(0, -left), min(size, SIDE - left)
        cover = cover[y0:y1, x0:x1, None]
        under = pixels[top + y0 : top + y1, left + x0 : left + x1]
        paint = np.array(COLOURS[thing.colour], np.float32) + np.array(thing.tint, np.float32)
        under += cover * (paint - under)
    pixels += chance.standard_normal(pixels.shape, dtype=np.float32) * np.float32(GRAIN)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def paint(record: Record) -> tuple[Image.Image, Image.Image | None]:
    """A record's image and, where its notes hold another scene, the counterfactual one."""
    scenes = (record.notes["objects"], record.notes.get("counterfactual_objects"))
    first, other = (
        Image.fromarray(draw([Thing.of(note) for note in notes], record.notes["seed"]))
        if notes is not None
        else None
        for notes in scenes
    )
    assert first is not None
    return first, other


def zoom(image: Image.Image, box: Sequence[float]) -> Image.Image:
    """The part of an image in a box (left, top, right, bottom), at the size of the whole."""
    left, top, right, bottom = box
    return image.resize(image.size, Image.Resampling.BICUBIC, box=(left, top, right, bottom))


def around(x: float, y: float, width: float) -> tuple[float, float, float, float]:
    """The square of a width around a point, moved to lie inside the image."""
    left, top = (min(max(middle - width / 2, 0.0), SIDE - width) for middle in (x, y))
    return left, top, left + width, top + width


def closer(record: Record, times: float) -> Image.Image:
    """What is around the middle of the asked object's box, so many times larger."""
    if record.image is None or record.notes.get("asked") is None:
        raise ValueError("a closer look needs a record with an image and an asked object.")
    left, top, right, bottom = record.notes["objects"][record.notes["asked"]]["box"]
    middle = ((left + right) / 2, (top + bottom) / 2)
    return zoom(record.image, around(*middle, SIDE / times))
