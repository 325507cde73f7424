"""Questions: one file each, `(model, task, *, settings) -> Result`, known by name in ANALYSES.

    from analyses import ANALYSES
    result = ANALYSES["sinks"](model, interp.Task.load("facts"))

An analysis decides nothing about files or pages: it returns a `Result`, and readers show it.
"""

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any

from interp.making import making
from interp.registry import Registry, unknown
from interp.result import Result

ANALYSES: Registry[Callable[..., Result]] = Registry("analysis", "analyses")


def analysis(function: Callable[..., Result]) -> Callable[..., Result]:
    """Adds the function to ANALYSES under its name, and how each result was made to the result."""
    signature = inspect.signature(function)
    settings = [name for name, one in signature.parameters.items() if one.kind is one.KEYWORD_ONLY]

    @functools.wraps(function)
    def run(model: Any = None, task: Any = None, **given: Any) -> Result:
        for name in given:
            if name not in settings:
                raise TypeError(unknown(f"setting of {function.__name__}", name, settings))
        started = time.perf_counter()
        result = function(model, task, **given)
        chosen = {name: given.get(name, signature.parameters[name].default) for name in settings}
        seconds = time.perf_counter() - started
        result.made = making(model, task, chosen, seconds) | result.made
        return result

    ANALYSES.add(function.__name__, run)
    return run
