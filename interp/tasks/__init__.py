"""Seeded generators of tasks. Their train, validation and test splits share no item.

    task = interp.tasks.TASKS["ioi"](count=100, split="test", seed=0)
    task = interp.tasks.suited(model, "ioi", count=100)  # in words that are one token to a model

An item belongs to a split by a hash of what it is, not by the order it was drawn in: whoever draws,
with whatever seed, an item of the test split is never in the training split. An item is as it is
written: the same sentences in another order are another item, and so is a counterfactual.
"""

import hashlib
import inspect
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from PIL.Image import Image

from interp.registry import Registry, unknown
from interp.task import Record, Task
from interp.tasks.wording import Wording

SPLITS = ("train", "validation", "test")
_TENTHS = ("train",) * 8 + ("validation", "test")
_PATIENCE = 20_000  # draws without a new item before a task says that it has no more

TASKS: "Registry[Generator]" = Registry("task", "interp.tasks")


def split_of(item: str) -> str:
    """The split that an item belongs to: 8 in 10 train, 1 validation, 1 test."""
    digest = hashlib.blake2b(item.encode(), digest_size=8).digest()
    return _TENTHS[int.from_bytes(digest, "big") % 10]


class Draw(Protocol):
    """Draws one record. The same state of `chance` and the same settings draw the same record."""

    def __call__(self, chance: random.Random, /, *_: Any, **settings: Any) -> Record: ...


def prompt_of(record: Record) -> str:
    """The prompt: what must not be in two splits where a generator names nothing else."""
    return record.prompt


@dataclass(frozen=True)
class Generator:
    """One kind of task. `item` names what must not be in two splits, `paint` adds the images.

    `wordings` are the lists that `draw` chooses words from, by the name of the wording: the setting
    `without` leaves some out. `inside` are settings under which none of these words opens a text.
    """

    name: str
    draw: Draw
    item: Callable[[Record], str] = prompt_of
    paint: Callable[[Record], tuple[Image, Image | None]] | None = None
    wordings: Mapping[str, Wording] = field(default_factory=dict)
    inside: Mapping[str, Any] = field(default_factory=dict)

    def stream(self, split: str = "train", seed: int = 0, **settings: Any) -> Iterator[Record]:
        """Records of one split without end; an item may come again. Images are not painted."""
        if split not in SPLITS:
            raise ValueError(unknown("split", split, list(SPLITS)))
        known = list(inspect.signature(self.draw).parameters)[1:]
        for name in settings:
            if name not in known:
                raise TypeError(unknown(f"setting of {self.name}", name, ["count", "seed", *known]))
        chance = random.Random(f"{self.name} {seed}")
        while True:
            yield self.one(chance, split, **settings)

    def one(self, chance: random.Random, split: str = "train", **settings: Any) -> Record:
        """The next record of a split that `chance` draws, not painted."""
        while True:
            record = self.draw(chance, **settings)
            if split_of(self.item(record)) == split:
                return record

    def __call__(
        self, count: int = 100, split: str = "test", seed: int = 0, **settings: Any
    ) -> Task:
        """A task of `count` different items of one split."""
        if not isinstance(count, int) or count < 1:
            raise ValueError(f"count={count!r}: how many records, a whole number from 1.")
        found: dict[str, Record] = {}
        since = 0
        for record in self.stream(split, seed, **settings):
            item = self.item(record)
            since = since + 1 if item in found else 0
            found.setdefault(item, record)
            if len(found) == count:
                break
            if since > _PATIENCE:
                raise ValueError(
                    f"{self.name} has about {len(found)} items in its {split} split with these "
                    f"settings, and {count} were asked for. Ask for fewer."
                )
        records = tuple(self.painted(record) for record in found.values())
        return Task(self.name, records, {"split": split, "seed": seed, **settings})

    def painted(self, record: Record) -> Record:
        """The record with its images, drawn from its notes."""
        if self.paint is None:
            return record
        image, other = self.paint(record)
        return replace(record, image=image, counterfactual_image=other)


from interp.tasks.suited import suited as suited  # noqa: E402  a function of what stands above
