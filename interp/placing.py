"""A folder that comes into place whole or not at all, whatever ends the process; so does a file."""

import ctypes
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = ".saving"  # how the names of folders end that are not in place yet, or not any more
LEFT = 3600  # seconds after which such a folder is what a killed process left


@contextmanager
def placed(path: Path) -> Iterator[Path]:
    """An empty folder to write into; when all went well it takes the place of `path`, in one step.

    What killed processes left of earlier ones is removed, once it is an hour old.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    written = _beside(path)
    try:
        yield written
        _kept(written)
        now = written.stat().st_mtime  # by the clock of that disk
        _put(written, path)
        _synced(path.parent)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    _clear(path, now)


def write(path: Path, content: bytes) -> None:
    """A file, replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    written = _beside(path)
    try:
        (written / path.name).write_bytes(content)
        _kept(written)
        now = written.stat().st_mtime
        (written / path.name).replace(path)
        _synced(path.parent)
    finally:
        shutil.rmtree(written, ignore_errors=True)
    _clear(path, now)


def _beside(path: Path, more: str = "") -> Path:
    """A folder of its own on the same disk; its name begins with a dot, so no list shows it."""
    made = tempfile.mkdtemp(prefix=f".{path.name}-{more}", suffix=UNFINISHED, dir=path.parent)
    return Path(made)


def _kept(folder: Path) -> None:
    """Rights as if written in place (temporary folders are their owner's alone), and all of it on disk."""
    mask = os.umask(0)  # it can only be read by setting it
    os.umask(mask)
    for file in folder.iterdir():
        file.chmod(0o666 & ~mask)
        _synced(file)
    folder.chmod(0o777 & ~mask)
    _synced(folder)


def _synced(path: Path) -> None:
    """Wait until it is on disk, where the system lets a folder be waited for."""
    try:
        opened = os.open(path, os.O_RDWR if path.is_file() and os.name == "nt" else os.O_RDONLY)
    except PermissionError:  # a folder on Windows, or one that may be written and not read
        return
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _put(written: Path, path: Path) -> None:
    """Rename into place. Where something is there the two change places, in one step."""
    if not path.exists():
        try:
            written.rename(path)
            return
        except OSError:  # another process was first
            if not path.exists():
                raise
    if _exchanged(written, path):
        return
    old = _beside(path, "old-")
    path.rename(old / "result")
    try:
        written.rename(path)
    except OSError:
        (old / "result").rename(path)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the system could let two folders change places (Linux can)."""
    if sys.platform != "linux":
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename is None:
        return False
    return rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


def _clear(path: Path, now: float) -> None:
    """Remove what is left of this path's killed processes. What may still be written to stays."""
    own = re.compile(rf"\.{re.escape(path.name)}-(old-)?[a-z0-9_]{{8}}{re.escape(UNFINISHED)}")
    for left in path.parent.iterdir():
        if own.fullmatch(left.name):
            try:
                stale = left.stat().st_mtime < now - LEFT
            except OSError:  # its own process has just removed it
                continue
            if stale:
                shutil.rmtree(left, ignore_errors=True)
