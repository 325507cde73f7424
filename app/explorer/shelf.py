"""Saved results on the folders that the explorer was given: found, and opened without a model."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import streamlit as st

from app.explorer.opened import opened
from interp import runs as index
from interp.manifest import MANIFEST
from interp.result import Result

SHIPPED = "shipped"
FRESH = 5.0  # seconds until folders are looked through again


@dataclass(frozen=True)
class Run:
    """One saved result, or why it cannot be opened. `name` is what links know it by."""

    name: str
    path: Path
    analysis: str = ""
    made: dict[str, Any] = field(default_factory=dict)
    size: int = 0  # bytes of its files
    broken: str = ""

    def __str__(self) -> str:
        return self.name

    @property
    def model(self) -> str:
        return str(self.made.get("model") or "")

    @property
    def task(self) -> str:
        return str(self.made.get("task") or "")

    @property
    def at(self) -> str:
        return str(self.made.get("at") or "")

    @property
    def records(self) -> int | None:
        """How many in all."""
        told = self.made.get("records")
        counts: list[Any] = list(told.values()) if isinstance(told, dict) else [told]
        return sum(counts) if all(isinstance(one, int) for one in counts) else None


def runs() -> list[Run]:
    """All runs, folder by folder, newest first."""
    found = []
    for name, folder in opened().folders.items():
        own = _found(name, str(folder))
        if name == SHIPPED:  # all made at one time: by name, so that demo-lm comes first
            found += sorted(own, key=lambda run: run.name)
        else:
            found += sorted(own, key=lambda run: run.at, reverse=True)
    return found


def of(analyses: Sequence[str]) -> list[Run]:
    """Those that can be opened, of some analyses, in the order of these."""
    whole = [run for run in runs() if run.analysis in analyses and not run.broken]
    return sorted(whole, key=lambda run: analyses.index(run.analysis))


def named(name: str) -> Run:
    """A run by its name; no path gets here that no folder lists."""
    for run in runs():
        if run.name == name:
            return run
    raise LookupError(f"no run {name!r} in the folders that the explorer was started with.")


def load(run: Run) -> Result:
    """The whole of it, shared by all who look at it: nobody changes it."""
    if run.broken:
        raise ValueError(f"{run.name} cannot be opened: {run.broken}")
    try:
        told = (run.path / MANIFEST).stat()
        return _load(str(run.path), (told.st_ino, told.st_mtime_ns))
    except Exception as problem:  # parquet's and safetensors' own errors among them
        raise ValueError(f"{run.name} cannot be opened: {' '.join(str(problem).split())}") from None


def zipped(run: Run) -> bytes:
    """The folder of a run, as one file to take along."""
    packed = io.BytesIO()
    index.pack(run.path, packed)
    return packed.getvalue()


@st.cache_resource(ttl=FRESH, show_spinner=False)
def _found(name: str, folder: str) -> list[Run]:
    if not Path(folder).is_dir():  # gone since the start
        return []
    return [_of(name, Path(folder), one) for one in index.found(folder)]


def _of(name: str, folder: Path, one: index.Run) -> Run:
    inside = one.path.relative_to(folder)
    called = name if inside == Path() else f"{name}/{inside.as_posix()}"
    return Run(called, one.path, one.analysis, dict(one.made), one.size, one.problem)


@st.cache_resource(max_entries=32, show_spinner=False)
def _load(path: str, stamp: tuple[int, int]) -> Result:
    return Result.load(path)
