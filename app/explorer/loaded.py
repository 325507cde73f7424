"""Models that pages ask, loaded once for everybody: what is live in one browser is its thread's alone."""

from typing import TYPE_CHECKING

import streamlit as st

from app.explorer.opened import opened
from interp.registry import unknown

if TYPE_CHECKING:
    from interp.model import Model

AT_ONCE = 6  # models held; the one not asked for longest goes first


def model(name: str, fault: str | None = None) -> "Model":
    """Only models that the explorer was started with, and those that come along."""
    if name not in opened().models:
        raise LookupError(unknown("model offered here", name, list(opened().models)))
    return _model(name, fault)


@st.cache_resource(max_entries=AT_ONCE, show_spinner="opening the model")
def _model(name: str, fault: str | None) -> "Model":
    import interp

    return interp.load(name, fault=fault)


def faults(name: str) -> list[str]:
    """Known damage that a shipped model can be given; faults of the inputs are tasks, and not here."""
    from interp.faults import FAULTS

    return [fault for fault, each in FAULTS.items() if each.model == name and each.edit is not None]
