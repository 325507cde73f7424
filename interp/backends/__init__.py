"""Other libraries' models behind the verbs of `interp.Model`: one folder each.

    model = interp.load("path/or/name", backend="lens")  # TransformerLens
    model = interp.wrap(bridge)  # a live one

A folder offers `open_model(name, processor, **settings)`, `wrap_model(theirs, processor)` and the name of the
package (`PACKAGE`) whose objects it wraps. Nothing of theirs is imported before it is asked for.
"""

import importlib
from types import ModuleType
from typing import Any

from interp.registry import unknown

BACKENDS = {"lens": "transformer_lens", "nnsight": "nnsight"}  # folder -> whose models


def backend(name: str) -> ModuleType:
    """The folder of a back end, by name."""
    if name not in BACKENDS:
        raise ValueError(unknown("backend", name, ["hf", *BACKENDS]))
    return importlib.import_module(f"interp.backends.{name}")


def owner_of(model: Any) -> str | None:
    """Which back end's package a live model comes from; None for one of transformers."""
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    return next((name for name, package in BACKENDS.items() if package in packages), None)
