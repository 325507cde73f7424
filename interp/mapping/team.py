"""Workers of a Ray cluster that do the items of a job; those that are lost are replaced."""

import itertools
import os
import re
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from interp.extras import need
from interp.mapping.sharing import STRIKES, Hand, Sharing

if TYPE_CHECKING:
    from interp.mapping.worker import Job, Opened
    from interp.model import Model

WAYS = re.compile(r"(ray|auto)(:[1-9][0-9]*)?|ray://[^/\s]+")


class Team:
    """Workers on the cluster that `where` names; they are started when there is work for them."""

    def __init__(self, where: str):
        if not isinstance(where, str) or not WAYS.fullmatch(where):
            raise ValueError(
                f"on={where!r}: give 'ray' (a cluster that is connected or in RAY_ADDRESS, else one started "
                "here), 'ray:4' (with four workers), 'auto' (a cluster that runs already), "
                "'ray://host:10001', or 'here'."
            )
        self.where = where
        self.shared = 0  # items that went to workers
        self.lost = 0  # workers
        self.ray = need("ray", f"on={where!r}")
        self._hands: list[Hand] = []
        self._opened: dict[str, Opened] = {}
        self._jobs = itertools.count()
        self._starts: bool | None = None  # None: nothing is connected yet; else whether by us
        self._busy = False
        self._failed = 0  # workers that were lost before they said hello

    def check(self, model: "Model") -> None:
        """Refuse a model that no worker can hold."""
        from interp.mapping.travel import check

        check(model, self.where)

    def map(
        self, model: "Model", function: Callable[[Any], Any], items: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """(number, what the function makes of that item), as they come; each item once."""
        if self._busy:
            raise RuntimeError(
                f"the workers of on={self.where!r} are at another piece of work; finish it first, or open a "
                "team of its own: with on(...)."
            )
        self._busy = True
        try:
            self._start(model)
            yield from Sharing(self, model, function, items).found()
        finally:
            self._busy = False

    def close(self) -> None:
        """Stop the workers, and the cluster if it was started here."""
        for hand in self._hands:
            self.ray.kill(hand.actor)
        self._hands.clear()
        self._opened.clear()
        if self._starts:
            self.ray.shutdown()
        self._starts = None

    # The cluster

    def _start(self, model: "Model") -> None:
        """Connect, and call as many workers as are asked for or fit."""
        import torch

        self.threads = torch.get_num_threads()
        self.cuda = model.device.type == "cuda"
        if self._starts is None:
            self._starts = self._connect()
        if not self._hands:
            self._failed = 0
            self._hands = [self._hand() for _ in range(self._count())]

    def _connect(self) -> bool:
        """Whether it was connected by us, and is to be left again."""
        if self.ray.is_initialized():
            return False
        import logging

        quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
        name = self.where.partition(":")[0]
        address = self.where if "//" in self.where else os.environ.get("RAY_ADDRESS")
        address = "auto" if name == "auto" else address
        if "//" in (address or "") and find_spec("grpc") is None:
            raise ImportError(
                f"on={self.where!r} needs Ray's client (grpcio), which is not installed: "
                "pip install 'interp[ray]'."
            )
        log = logging.getLogger("ray")
        level = log.level
        log.setLevel(logging.ERROR)
        try:
            if address is None:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                cpus = (self._asked() or self._fitting(_cores())) * self.threads
                self.ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
            else:
                self.ray.init(address=address, **quiet)
        except ConnectionError as problem:
            raise ConnectionError(
                f"no Ray cluster answers for on={self.where!r} ({address}): {problem}. Check the address; a "
                "cluster that asks for a token wants RAY_AUTH_MODE=token and its token here, too."
            ) from problem
        finally:
            log.setLevel(level)
        return True

    def _asked(self) -> int | None:
        """The number of workers behind "ray:" or "auto:"."""
        number = self.where.partition(":")[2]
        return int(number) if number.isdecimal() else None

    def _fitting(self, cpus: float) -> int:
        return max(1, int(cpus // self.threads))

    def _count(self) -> int:
        if self._asked() is not None:
            return self._asked() or 1
        free = self.ray.available_resources()
        return max(1, int(free.get("GPU", 0))) if self.cuda else self._fitting(free.get("CPU", 1))

    def _hand(self) -> Hand:
        from interp.mapping.worker import Worker

        actor = self.ray.remote(Worker)
        needs = {"num_cpus": self.threads, "num_gpus": 1 if self.cuda else 0}
        return Hand(actor.options(max_restarts=0, max_task_retries=0, **needs).remote())

    def replace(self, hand: Hand, problem: Exception) -> None:
        """Another worker in the place of one that is gone."""
        self.lost += 1
        self._failed = 0 if hand.ready else self._failed + 1
        if self._failed >= STRIKES:
            raise RuntimeError(
                f"no worker of on={self.where!r} could be started. The cluster's machines need Python with "
                f"interp, torch and transformers of the versions used here. Ray says: {problem}"
            ) from problem
        self._hands[self._hands.index(hand)] = self._hand()

    @property
    def hands(self) -> list[Hand]:
        """The workers as they are now."""
        return self._hands

    # What they are given

    def opened(self, model: "Model") -> "Opened":
        """How workers come to this model."""
        from interp.mapping.travel import fingerprint, folder_of, packed
        from interp.mapping.worker import Opened

        mark = fingerprint(model)
        if mark not in self._opened:
            where, device = folder_of(model), model.device.type
            self._opened[mark] = Opened(
                mark, type(model.hf), where, device, model.hf.dtype, packed(model.processor)
            )
        return self._opened[mark]

    def whole(self, model: "Model", opened: "Opened") -> "Opened":
        """The same, with the live model put where workers find it."""
        from dataclasses import replace

        from interp.mapping.travel import packed

        if not self._opened[opened.mark].whole:
            content = self.ray.put(packed(model.hf))
            self._opened[opened.mark] = replace(opened, whole=[content])
        return self._opened[opened.mark]

    def job(self, model: "Model", function: Callable[[Any], Any]) -> "Job":
        """The function, put where workers find it, and the settings of torch that go with it."""
        import torch

        from interp.mapping.travel import packed
        from interp.mapping.worker import Job

        return Job(
            next(self._jobs),
            [self.ray.put(packed(function, model))],
            self.threads,
            torch.is_grad_enabled(),
            torch.get_float32_matmul_precision(),
            torch.get_default_dtype(),
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
