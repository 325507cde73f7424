"""See and steer attention inside any Hugging Face transformer.

    model = interp.load("path/or/hub-id")
    trace = model.trace("The capital of France is", "pattern", keep=["received", "entropy"])

Names load on first use, so that `import interp` costs nothing.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.loading import load as load
    from interp.model import Model as Model
    from interp.prompt import Prompt as Prompt
    from interp.result import Result as Result
    from interp.scoring import score as score
    from interp.sites import At as At
    from interp.sites import Hook as Hook
    from interp.task import Record as Record
    from interp.task import Task as Task
    from interp.trace import Trace as Trace
    from interp.wrapping import wrap as wrap

__version__ = "0.1.0"

_HOME = {
    "load": "interp.loading",
    "wrap": "interp.wrapping",
    "Model": "interp.model",
    "Prompt": "interp.prompt",
    "Hook": "interp.sites",
    "At": "interp.sites",
    "Record": "interp.task",
    "Result": "interp.result",
    "Task": "interp.task",
    "Trace": "interp.trace",
    "score": "interp.scoring",
}
__all__ = [
    "At", "Hook", "Model", "Prompt", "Record", "Result", "Task", "Trace",
    "__version__", "load", "score", "wrap",
]  # fmt: skip
_FOLDERS = ("evaluation", "families", "faults", "interventions", "metrics", "plots", "tasks")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _FOLDERS:
        return importlib.import_module(f"interp.{name}")
    raise AttributeError(f"module 'interp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, *_FOLDERS])
