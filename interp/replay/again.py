"""The chunks of a sweep on workers: the run is made again there, and must be the one that it is here."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.mapping import current
from interp.replay.changes import Change
from interp.sites import Hook

if TYPE_CHECKING:
    from interp.model import Model
    from interp.replay.running import Replay

CLOSE = 1e-5  # of the run's metric, above 1: how far a worker's may be off before it is another run


def shared(
    model: "Model", left: Sequence[int], here: Callable[[int], Tensor], again: "Again"
) -> Iterator[tuple[int, Tensor]]:
    """Each chunk's number and values, as they are finished: in order here, in any order on workers."""
    team = current(model) if len(left) > 1 else None
    if team is None:
        for number in left:
            yield number, here(number).detach().cpu()
        return
    off = 0.0
    for at, (values, away) in team.map(model, again, left):
        off = max(off, away)
        yield left[at], values
    if off:
        warnings.warn(
            f"workers of on={team.where!r} compute the run's own metric {off:.1g} differently: their "
            "processors round in another way, and numbers may differ from those of one process in the last "
            "digits.",
            stacklevel=2,
        )


@dataclass(eq=False)
class Again:
    """A sweep's chunks by number. What it is made from travels; what a run keeps is made on the spot."""

    model: "Model"
    given: Any  # the prompt
    stack: str
    asked: list[Any]
    readers: list[Hook]
    wanted: str | None
    path: str
    cells: Sequence[Sequence[Change]]
    metric: Any
    budget: float
    plain: Tensor
    work: list[Any] | None = field(default=None)
    off: float = 0.0

    @classmethod
    def of(
        cls,
        replay: "Replay",
        cells: Sequence[Sequence[Change]],
        metric: Any,
        budget: float,
        plain: Tensor,
    ) -> "Again":
        # Readers keep nothing there, but they choose how attention is computed.
        readers = [replace(hook, fn=_read) for hook in replay.readers]
        return cls(replay.model, replay.given, replay.stack.name, replay.asked, readers, replay.wanted,
                   replay.path, cells, metric, budget, plain)  # fmt: skip

    def __call__(self, number: int) -> tuple[Tensor, float]:
        """A chunk's values, and how far the run's own metric is off."""
        with torch.no_grad():
            if self.work is None:
                self.work = self._made()
            return self.work[number][2]().detach().cpu(), self.off

    def _made(self) -> list[Any]:
        """The chunks, cut as they were."""
        from interp.replay.measuring import read, work_of
        from interp.replay.running import Replay

        replay = Replay(
            self.model, self.given, self.stack, self.asked, (), self.readers, self.wanted
        )
        plain = read(self.metric, replay.logits, replay).cpu()
        self.off = float((plain - self.plain).abs().max()) if plain.numel() else 0.0
        scale = max(1.0, float(self.plain.abs().max())) if plain.numel() else 1.0
        limit = max(CLOSE, 8 * torch.finfo(replay.logits.dtype).eps) * scale
        if replay.path != self.path or not self.off <= limit:
            raise RuntimeError(
                f"a worker's run of the prompt is another one: path {replay.path!r} and not {self.path!r}, "
                f"and its metric {self.off:.2g} off. An intervention that draws at random, or a machine with "
                "other libraries, could be why; leave on= out."
            )
        return list(work_of(replay, self.cells, self.metric, self.budget))


def _read(value: Tensor, at: Any) -> None:
    """A reader that keeps nothing."""
