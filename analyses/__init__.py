"""Questions: one file each, `(model, task, *, settings) -> Result`, known by name in ANALYSES."""

from collections.abc import Callable
from typing import Any

from interp.registry import Registry

ANALYSES: Registry[Callable[..., Any]] = Registry("analysis", "analyses")
