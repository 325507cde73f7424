"""What demo-vlm is trained on: scenes of the training split, zoomed now and then."""

import random
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from interp.tasks import split_of
from interp.tasks.drawing import around, draw, zoom
from interp.tasks.scene import ACROSS, CELL, FREE, MOST, SIDE, Thing, in_order, layout, scene

ZOOMED = 0.25  # share of images that are a part of a larger scene, as when someone looks closer
TINY_ZOOMED = 0.5  # share of these that are about something too small to be shown otherwise
TINY_SEEN = (0.6, 1.5)  # radius in pixels, before zooming
BIASED = 0.85  # share of scenes that follow the usual colours and companions
_TRIES = 12


@dataclass(frozen=True)
class View:
    things: list[Thing]
    pixels: Tensor  # [y, x, RGB] bytes


def training_scene(
    chance: random.Random,
    biased: float = BIASED,
    counts: tuple[int, int] = (1, MOST),
    free: float = FREE,
) -> list[Thing]:
    while True:
        things = scene(chance, counts, biased=chance.random() < biased, free=free)
        if split_of(layout(things)) == "train":
            return things


def view(chance: random.Random, **how: Any) -> View:
    """A training scene as it is seen: whole, or a part of it."""
    things = training_scene(chance, **how)
    closer = chance.random() < ZOOMED
    focus = chance.choice(things) if closer else None
    if focus and chance.random() < TINY_ZOOMED:
        tiny = replace(focus, kind="small", radius=chance.uniform(*TINY_SEEN), alpha=1.0, hidden="")
        things = [tiny if each is focus else each for each in things]
        focus = tiny
    pixels = draw(things, chance.getrandbits(32))
    part = _part(chance, things, focus) if focus else None
    if part:
        box, things = part
        pixels = np.asarray(zoom(Image.fromarray(pixels), box))
    elif focus:
        return view(chance, **how)  # no part could be cut out, and nothing tiny is shown whole
    return View(things, torch.from_numpy(pixels.copy()))


def _part(
    chance: random.Random, things: list[Thing], focus: Thing
) -> tuple[tuple[float, float, float, float], list[Thing]] | None:
    """A box around an object that cuts no object and makes no held-out scene."""
    for _ in range(_TRIES):
        width = SIDE / chance.uniform(1.5, 3.2)
        off = width * 0.35
        x, y = focus.x + chance.uniform(-off, off), focus.y + chance.uniform(-off, off)
        box = around(x, y, width)
        inside = [each for each in things if _within(each, box) > -each.radius]
        if all(_within(each, box) > each.radius * 0.8 for each in inside) and focus in inside:
            seen = in_order(_magnified(each, box) for each in inside)
            if split_of(layout(seen)) == "train":
                return box, seen
    return None


def _within(thing: Thing, box: tuple[float, float, float, float]) -> float:
    """How far inside the box the middle of an object is, in pixels."""
    left, top, right, bottom = box
    return min(thing.x - left, right - thing.x, thing.y - top, bottom - thing.y)


def _magnified(thing: Thing, box: tuple[float, float, float, float]) -> Thing:
    left, top, right, _ = box
    times = SIDE / (right - left)
    x, y = (thing.x - left) * times, (thing.y - top) * times
    return replace(thing, x=x, y=y, radius=thing.radius * times)


def patches(thing: Thing, share: float = 0.2) -> list[int]:
    """The patches that hold at least this share of what can be seen of an object."""
    left, top, right, bottom = thing.box
    area, found = (right - left) * (bottom - top), []
    for row in range(int(top // CELL), min(int(bottom // CELL), ACROSS - 1) + 1):
        down = min(bottom, (row + 1) * CELL) - max(top, row * CELL)
        for column in range(int(left // CELL), min(int(right // CELL), ACROSS - 1) + 1):
            along = min(right, (column + 1) * CELL) - max(left, column * CELL)
            if down * along >= share * area:
                found.append(row * ACROSS + column)
    return found or [thing.cell]
