"""Other libraries' models behind the verbs of `interp.Model`: one folder each.

    model = interp.load("path/or/name", backend="lens")  # TransformerLens
    model = interp.wrap(bridge)  # a live one

A folder offers `open_model(name, processor, **settings)`, `wrap_model(theirs, processor)` and the name of the
package (`PACKAGE`) whose objects it wraps. Nothing of theirs is imported before it is asked for.
"""

import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from interp.registry import unknown
from interp.spread import local

BACKENDS = {"lens": "transformer_lens", "nnsight": "nnsight"}  # folder -> whose models


def backend(name: str) -> ModuleType:
    """The folder of a back end, by name."""
    if name not in BACKENDS:
        raise ValueError(unknown("backend", name, ["hf", *BACKENDS]))
    return importlib.import_module(f"interp.backends.{name}")


def refuse_settings(name: str, more: Mapping[str, Any]) -> None:
    """Settings that go with another back end than this one."""
    if "remote" in more and name != "nnsight":
        raise ValueError(f'remote= goes with backend="nnsight", and not with {name!r}.')
    if more.get("tp_plan") is not None and name != "hf":
        raise ValueError(
            f'backend={name!r} knows nothing of heads that are shared out: tp_plan= goes with backend="hf".'
        )


def refuse_spread(hf: Any, name: str) -> None:
    """Weights that lie in several processes, and for TransformerLens on a disk."""
    if any(local(weight) is not weight for weight in hf.parameters()):
        raise ValueError(
            f"the heads of this {type(hf).__name__} are shared out over processes (tp_plan=), and "
            f'backend={name!r} knows nothing of that; backend="hf" serves it.'
        )
    if name == "lens" and any(weight.is_meta for weight in hf.parameters()):
        raise ValueError(
            f"weights of this {type(hf).__name__} lie on a disk or another device (device_map=), and "
            'TransformerLens reads them in place; backend="hf" or "nnsight" serves it.'
        )


def owner_of(model: Any) -> str | None:
    """Which back end's package a live model comes from; None for one of transformers."""
    packages = {kind.__module__.partition(".")[0] for kind in type(model).__mro__}
    return next((name for name, package in BACKENDS.items() if package in packages), None)
