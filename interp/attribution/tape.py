"""What a run is asked for beside its sites: calls of projections, and only the logits that are read."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interp.prompt import Prompt
from interp.readouts import Readout
from interp.shadow import Around, shadowed

Calls = dict[nn.Module, list[tuple[Tensor, Tensor]]]  # inputs and outputs of modules, call by call


@dataclass(eq=False)
class Tape:
    """Met by the modules that stand in shadow while it runs, in its own context alone."""

    readout: Readout | None  # what says which positions' logits are read
    prompt: Prompt
    unread: bool  # no logits are read at all
    narrowed: bool = False
    noted: Calls = field(default_factory=dict)

    @contextmanager
    def running(self, head: nn.Module | None, note: Iterable[nn.Module]) -> Iterator[None]:
        """Keeps what passes `note`, and lets `head`, the unembedding, see only what is read."""
        shadows: list[tuple[nn.Module, str, Around]] = [
            (module, "forward", _around_projection) for module in note
        ]
        if head is not None:
            shadows.append((head, "forward", _around_head))
        token = _TAPE.set(self)
        try:
            with shadowed(shadows):
                yield
        finally:
            _TAPE.reset(token)


_TAPE: ContextVar[Tape | None] = ContextVar("attribution", default=None)


def _around_head(original: Any, module: nn.Module, args: tuple, kwargs: dict) -> Any:
    """At every position the unembedding would cost more than some layers do."""
    tape = _TAPE.get()
    if tape is None or not args or not (tape.unread or tape.readout):
        return original(*args, **kwargs)
    hidden = args[0]
    if hidden.ndim != 3 or hidden.shape[:2] != tape.prompt.mask.shape:
        return original(*args, **kwargs)
    tape.narrowed = True
    places = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    if tape.readout is not None:
        places = tape.readout.places(tape.prompt, hidden)
    rows = torch.arange(len(hidden), device=hidden.device)
    return original(hidden[rows, places][:, None], *args[1:], **kwargs)


def _around_projection(original: Any, module: nn.Module, args: tuple, kwargs: dict) -> Any:
    output, tape = original(*args, **kwargs), _TAPE.get()
    if tape is not None and isinstance(output, Tensor):
        value = args[0] if args else next(iter(kwargs.values()))
        tape.noted.setdefault(module, []).append((value, output))
    return output
