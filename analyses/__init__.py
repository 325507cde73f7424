"""Questions: one file each, `(model, task, *, settings) -> Result`, known by name in ANALYSES.

    from analyses import ANALYSES
    result = ANALYSES["sinks"](model, interp.Task.load("facts"))

An analysis decides nothing about files or pages: it returns a `Result`, and readers show it.
"""

import functools
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from interp import mapping
from interp.live import LIVE
from interp.making import making
from interp.model import Model
from interp.registry import Registry, unknown
from interp.result import Result

ANALYSES: Registry[Callable[..., Result]] = Registry("analysis", "analyses")


def _check_call(name: str, model: Any, task: Any, more: tuple, settings: list[str]) -> None:
    """What is often given by mistake, said before anything runs."""
    if more:
        raise TypeError(
            f"{name}(model, task) takes settings by name, such as {settings[0]}={more[0]!r}."
        )
    if isinstance(task, Model):
        raise TypeError(f"model and task are swapped: {name}(model, task).")
    if model is not None and not isinstance(model, Model):
        hint = (
            "interp.load(name or folder)"
            if isinstance(model, str)
            else "interp.wrap(hf, tokenizer)"
        )
        raise TypeError(f"{name} takes an interp model, not {type(model).__name__}: {hint}.")


@contextmanager
def _in_eval(model: Any) -> Iterator[bool]:
    """Without dropout, whatever mode the model is in; every module gets its own mode back."""
    modules = list(model.hf.modules()) if hasattr(model, "hf") else []
    training = [module for module in modules if module.training]
    for module in training:
        module.training = False
    try:
        yield bool(training)
    finally:
        for module in training:
            module.training = True


def _check_on(name: str, alone: str, where: Any) -> None:
    """An analysis without work to share out says so, rather than run here in silence."""
    if alone and where not in (None, mapping.HERE):
        raise ValueError(
            f"{name} shares no work out, so on={where!r} would do nothing: {alone}. Leave on= out."
        )


def analysis(function: Callable[..., Result] | None = None, *, alone: str = "") -> Any:
    """Adds the function to ANALYSES under its name, and how each result was made to the result.

    What is added takes `on=` beside the settings: where its work goes (interp.mapping). `alone` says why
    an analysis has no work to share out; it refuses `on=` then.
    """
    if function is None:
        return functools.partial(analysis, alone=alone)
    signature = inspect.signature(function)
    settings = [name for name, one in signature.parameters.items() if one.kind is one.KEYWORD_ONLY]

    @functools.wraps(function)
    def run(
        model: Any = None, task: Any = None, *more: Any, on: str | None = None, **given: Any
    ) -> Result:
        _check_call(function.__name__, model, task, more, settings)
        for name in given:
            if name not in settings:
                raise TypeError(unknown(f"setting of {function.__name__}", name, settings))
        _check_on(function.__name__, alone, on)
        started = time.perf_counter()
        with mapping.on(on) as team, _in_eval(model) as was_training:
            result = function(model, task, **given)
        if was_training:
            result.notes.append("The model was in training mode; it was measured in eval mode.")
        if on is not None and team is not None and not team.shared:
            result.notes.append(
                f"on={on!r} found no work in several parts here: all of it was done in this process."
            )
        if any(session.named() for session in LIVE.get()):
            result.notes.append(
                "Asked inside model.using(...): what is live there is part of these numbers (but of weights)."
            )
        chosen = {name: given.get(name, signature.parameters[name].default) for name in settings}
        seconds = time.perf_counter() - started
        where = {} if on is None else {"on": on}
        result.made = making(model, task, chosen, seconds) | where | result.made
        return result

    ANALYSES.add(function.__name__, run)
    return run
