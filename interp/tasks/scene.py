"""Scenes of coloured shapes: what is in an image, before it is drawn or asked about.

Scenes are biased as the world is: circles are mostly red and mostly come with a square, and some
objects are hard to see. A model that has learned this can be caught relying on it.
"""

import random
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from interp.task import Record

SIDE, CELL = 96, 16  # pixels; a cell is a patch of the demo model
ACROSS = SIDE // CELL
CELLS = ACROSS * ACROSS
MOST = 5  # objects in a scene, as a rule
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 180, 60),
    "blue": (50, 80, 220),
    "yellow": (230, 215, 50),
    "purple": (150, 60, 190),
    "orange": (240, 140, 40),
}
SHAPES = ("circle", "square", "triangle", "cross", "diamond")
# How often a shape is forced to have its usual colour, and to bring its usual companion.
USUAL_COLOUR = {"circle": ("red", 0.65), "square": ("blue", 0.6), "triangle": ("green", 0.6)}
COMPANION = {"circle": ("square", 0.65), "cross": ("diamond", 0.6)}
WEAK = 0.12  # share of objects that are hard to see, in one of these ways
WEAKNESSES = ("faint", "small", "half")
FAINT = (0.07, 0.22)  # opacity
SMALL = (1.4, 2.4)  # radius in pixels
TINY = (0.7, 1.1)  # only in the scenes that ask for it: see the task `colour`
CLEAR = (5.0, 6.8)
FREE = 0.25  # share of scenes whose objects do not sit in cells
# Left, top, right and bottom of a shape of radius 1 around its centre.
EXTENT = {
    "circle": (-1.0, -1.0, 1.0, 1.0),
    "square": (-0.88, -0.88, 0.88, 0.88),
    "triangle": (-1.02, -1.0, 1.02, 0.85),
    "cross": (-1.0, -1.0, 1.0, 1.0),
    "diamond": (-1.1, -1.1, 1.1, 1.1),
}
SIDES = ("left", "top", "right", "bottom")


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Places and sizes are in pixels."""

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    kind: str = "clear"
    alpha: float = 1.0
    hidden: str = ""  # the side that is cut off near the middle
    tint: tuple[int, int, int] = (0, 0, 0)  # how this one's colour differs from its name's

    @property
    def cell(self) -> int:
        """The cell of its centre, counted along the rows."""
        return int(self.y // CELL) * ACROSS + int(self.x // CELL)

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of what can be seen of it."""
        centre = (self.x, self.y, self.x, self.y)
        pairs = zip(centre, EXTENT[self.shape], strict=True)
        edges = [middle + self.radius * reach for middle, reach in pairs]
        if self.hidden:
            side = SIDES.index(self.hidden)
            edges[side] = centre[side] + (-0.5 if side < 2 else 0.5)
        left, top, right, bottom = (min(max(edge, 0.0), float(SIDE)) for edge in edges)
        return left, top, right, bottom

    def note(self) -> dict[str, Any]:
        """Itself as JSON values, with what follows from it."""
        box = [round(edge, 3) for edge in self.box]
        return {**asdict(self), "tint": list(self.tint), "cell": self.cell, "box": box}

    @classmethod
    def of(cls, note: Mapping[str, Any]) -> "Thing":
        own = {name: note[name] for name in cls.__dataclass_fields__}
        return cls(**{**own, "tint": tuple(note["tint"])})


def things_of(record: Record) -> list[Thing]:
    """The objects of a record's scene, in reading order."""
    return [Thing.of(note) for note in record.notes["objects"]]


def layout(things: Iterable[Thing]) -> str:
    """Names a scene by where its objects are, whatever they are and whatever is asked about them.

    So a scene with one object repainted or reshaped stays in its split.
    """
    return " ".join(str(cell) for cell in sorted(thing.cell for thing in things))


def layout_of(record: Record) -> str:
    return " ".join(str(cell) for cell in sorted(note["cell"] for note in record.notes["objects"]))


def colour_for(chance: random.Random, shape: str, biased: bool = True) -> str:
    if biased and shape in USUAL_COLOUR:
        usual, share = USUAL_COLOUR[shape]
        if chance.random() < share:
            return usual
    return chance.choice(list(COLOURS))


def thing(
    chance: random.Random,
    shape: str,
    colour: str,
    place: tuple[float, float],
    weak: float = WEAK,
    small: tuple[float, float] = SMALL,
) -> Thing:
    """An object at a place, hard to see with probability `weak`."""
    kind = chance.choice(WEAKNESSES) if chance.random() < weak else "clear"
    radius = chance.uniform(*(small if kind == "small" else CLEAR))
    alpha = chance.uniform(*FAINT) if kind == "faint" else 1.0
    hidden = chance.choice(SIDES) if kind == "half" else ""
    red, green, blue = (chance.randint(-18, 18) for _ in range(3))
    x, y = place
    return Thing(
        shape, colour, x, y, round(radius, 3), kind, round(alpha, 4), hidden, (red, green, blue)
    )


def places(chance: random.Random, count: int, free: float = FREE) -> list[tuple[float, float]]:
    """Where objects go: one to a cell near its middle, or anywhere with room between them."""
    if chance.random() >= free:
        return [spot(chance, cell) for cell in chance.sample(range(CELLS), count)]
    found: list[tuple[float, float]] = []
    while len(found) < count:
        x, y = round(chance.uniform(8, SIDE - 8), 2), round(chance.uniform(8, SIDE - 8), 2)
        if all(max(abs(x - other), abs(y - above)) >= CELL for other, above in found):
            found.append((x, y))
    return found


def spot(chance: random.Random, cell: int) -> tuple[float, float]:
    """A place near the middle of a cell."""
    x, y = (cell % ACROSS + 0.5) * CELL, (cell // ACROSS + 0.5) * CELL
    return round(x + chance.uniform(-1.2, 1.2), 2), round(y + chance.uniform(-1.2, 1.2), 2)


def roomy(things: Iterable[Thing]) -> bool:
    """Whether no two objects come nearer than in a scene of cells."""
    pairs = combinations(things, 2)
    return all(max(abs(a.x - b.x), abs(a.y - b.y)) >= CELL - 2.4 for a, b in pairs)


def shapes(chance: random.Random, count: int, biased: bool = True) -> list[str]:
    found: list[str] = []
    while len(found) < count:
        found.append(chance.choice(SHAPES))
        if biased and found[-1] in COMPANION and len(found) < count:
            companion, share = COMPANION[found[-1]]
            if chance.random() < share:
                found.append(companion)
    return found


def scene(
    chance: random.Random,
    counts: tuple[int, int] = (1, MOST),
    weak: float = WEAK,
    biased: bool = True,
    free: float = FREE,
) -> list[Thing]:
    """Objects in reading order."""
    count = chance.randint(*counts)
    kinds = shapes(chance, count, biased)
    spots = places(chance, count, free)
    made = [
        thing(chance, shape, colour_for(chance, shape, biased), spot, weak)
        for shape, spot in zip(kinds, spots, strict=True)
    ]
    return in_order(made)


def in_order(things: Iterable[Thing]) -> list[Thing]:
    """Row by row of cells, each from left to right: the order of captions."""
    return sorted(things, key=lambda each: (each.y // CELL, each.x))


def having(things: Iterable[Thing], shape: str, colour: str | None = None) -> list[Thing]:
    return [each for each in things if each.shape == shape and colour in (None, each.colour)]
