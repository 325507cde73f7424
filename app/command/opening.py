"""A model as a command opens it."""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.model import Model


def loaded(name: str, **where: Any) -> "Model":
    """`interp.load`; the bar of the weights is drawn for those who look, and not into files."""
    import interp

    if not sys.stderr.isatty():
        from transformers.utils import logging

        logging.disable_progress_bar()
    return interp.load(name, **where)
