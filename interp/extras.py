"""Packages that only some installations have: imported where they are needed, or named with their extra."""

import importlib
from types import ModuleType

EXTRAS = {"streamlit": "app", "transformer_lens": "lens", "nnsight": "nnsight", "ray": "ray"}


def need(package: str, what: str) -> ModuleType:
    """The package, imported; where it is not installed, an ImportError that says what needs it: `what`."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as problem:
        if problem.name != package:  # installed, and broken: its own message says how
            raise
        named = package.replace("_", "-")
        raise ImportError(
            f"{what} needs {named}, which is not installed: pip install 'interp[{EXTRAS[package]}]'."
        ) from None
