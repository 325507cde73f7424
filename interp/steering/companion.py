"""A second run that goes in step with the one that asked for it: of the two only one ever moves.

    def body(offer):
        model.logits(other, hooks=[Hook("z", lambda z, at: z * offer(z))])

    companion = Companion(body, model.device)
    first = companion.send()  # runs until the body offers something, and returns that
    second = companion.send(0.5)  # the offer gives 0.5; the body goes on to its next one

A generator whose `yield` may stand anywhere below its body, such as in a hook of a forward pass. It
takes a thread, which ends with the run, with the companion, or with whatever goes wrong in either.
"""

import contextvars
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from queue import SimpleQueue
from typing import Any

import torch

from interp.shadow import COUNTED

Offer = Callable[[Any], Any]
Settings = Callable[[], Any]  # makes the context that the body runs in


class _Left(BaseException):
    """Ends the body: nobody waits for it any more. No `except Exception` on the way catches it."""


_LEAVE = object()


class Companion:
    """`send` lets the body go on, and waits for what it offers next."""

    def __init__(self, body: Callable[[Offer], None], device: torch.device):
        self._answers: SimpleQueue[Any] = SimpleQueue()
        self._offers: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        context = contextvars.Context()
        context.run(COUNTED.set, COUNTED.get())  # its forwards are the asker's
        # The thread must not hold this object: its end is the thread's.
        self._thread = threading.Thread(
            target=context.run,
            args=(_work, body, self._answers, self._offers, as_here(device)),
            name="companion",
            daemon=True,
        )
        self._begun = self._over = False
        weakref.finalize(self, self._answers.put, _LEAVE)

    def send(self, answer: Any = None) -> Any:
        """What the body offers next; what it raised is raised here."""
        if self._over:
            raise RuntimeError("the second run is over, and offers nothing more.")
        if not self._begun:
            self._thread.start()
            self._begun = True
        self._answers.put(answer)
        value, problem = self._offers.get()
        if problem is not None:
            self._over = True
            self._thread.join()
            raise problem
        return value

    def close(self) -> None:
        """Ends the body where it stands, and waits until it is out."""
        self._over = True
        if self._begun:
            self._answers.put(_LEAVE)
            self._thread.join()


def _work(
    body: Callable[[Offer], None],
    answers: "SimpleQueue[Any]",
    offers: "SimpleQueue[tuple[Any, BaseException | None]]",
    settings: Settings,
) -> None:
    def wait() -> Any:
        answer = answers.get()
        if answer is _LEAVE:
            raise _Left
        return answer

    def offer(value: Any) -> Any:
        offers.put((value, None))
        return wait()

    try:
        wait()
        with settings():
            body(offer)
        end: BaseException = RuntimeError("the second run ended before the first was done with it.")
    except _Left:
        return
    except BaseException as problem:  # whatever it is, someone waits for it
        end = problem
    offers.put((None, end))


def as_here(device: torch.device) -> Settings:
    """This thread's torch settings, to be entered in another: none of them is inherited."""
    inference = torch.is_inference_mode_enabled()
    kinds = sorted({"cpu", device.type})
    casts = {
        kind: torch.get_autocast_dtype(kind) for kind in kinds if torch.is_autocast_enabled(kind)
    }
    cached = torch.is_autocast_cache_enabled()
    stream = torch.cuda.current_stream(device) if device.type == "cuda" else None

    @contextmanager
    def settings() -> Iterator[None]:
        with ExitStack() as entered:
            entered.enter_context(torch.inference_mode() if inference else torch.no_grad())
            for kind, dtype in casts.items():
                entered.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=cached))
            if stream is not None:
                entered.enter_context(torch.cuda.stream(stream))
            yield

    return settings
