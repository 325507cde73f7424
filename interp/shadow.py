"""Standing before a module's method for a while.

The method is shadowed on the instance, since hooks that torch keeps in ordered dictionaries must not
come and go while another thread's forward walks over them; an attribute is replaced in one step. A
shadow that finds nothing live in its own context calls straight through.
"""

import copy
import functools
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from torch import nn

from interp.live import LIVE

# (the method, the module, its arguments) -> what the method would return
Around = Callable[[Callable[..., Any], nn.Module, tuple, dict], Any]

_LOCK = threading.RLock()
_SHADOWS: dict[tuple[nn.Module, str], "Shadow"] = {}


@dataclass(eq=False)
class Calls:
    """How often a module's forward is called from where it is set, while it is shadowed."""

    module: nn.Module
    count: int = 0


COUNTED: ContextVar[Calls | None] = ContextVar("interp_counted", default=None)


class Shadow:
    """A method of one module with `around` before it."""

    def __init__(self, module: nn.Module, method: str, around: Around):
        self.module, self.method, self.around = module, method, around
        self.own = module.__dict__.get(method)  # accelerate shadows `forward` the same way
        self.original = getattr(module, method)
        self.users = 0
        self.gone = False  # whoever shadowed the method after us may still call through here
        self.bare = 0  # calls from contexts in which nothing is live
        functools.update_wrapper(self, self.original, updated=())  # not what another shadow holds

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.gone:
            return self.original(*args, **kwargs)
        calls = COUNTED.get()
        if calls is not None and calls.module is self.module and self.method == "forward":
            calls.count += 1
        if not LIVE.get():
            self.bare += 1
            return self.original(*args, **kwargs)
        return self.around(self.original, self.module, args, kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        """A copied model runs by itself: its method is its own, with nothing before it."""
        if self.own is not None:
            return copy.deepcopy(self.own, memo)
        return getattr(type(self.module), self.method).__get__(memo[id(self.module)])

    def put(self) -> None:
        # Past the module's own __setattr__: TransformerLens' hand some names on to what they wrap.
        object.__setattr__(self.module, self.method, self)

    def remove(self) -> None:
        self.gone = True
        if self.module.__dict__.get(self.method) is not self:
            return  # someone shadowed it after us: theirs now, and ours steps aside by itself
        if self.own is None:
            object.__delattr__(self.module, self.method)
        else:
            object.__setattr__(self.module, self.method, self.own)


@contextmanager
def shadowed(wanted: Iterable[tuple[nn.Module, str, Around]]) -> Iterator[None]:
    """Shadow these methods for the length of the block; threads that want the same share them."""
    held: list[Shadow] = []
    try:
        with _LOCK:
            for module, method, around in wanted:
                shadow = _SHADOWS.get((module, method))
                if shadow is None:
                    shadow = _SHADOWS[module, method] = Shadow(module, method, around)
                    shadow.put()
                held.append(shadow)
                shadow.users += 1
        yield
    finally:
        with _LOCK:
            for shadow in held:
                shadow.users -= 1
                if shadow.users <= 0:
                    _SHADOWS.pop((shadow.module, shadow.method), None)
                    shadow.remove()


def bare_calls(module: nn.Module) -> int:
    """How often the whole model was called past its shadow, by someone who asked nothing."""
    shadow = _SHADOWS.get((module, "forward"))
    return shadow.bare if shadow is not None else 0
