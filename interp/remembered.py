"""What was read of the many results below a folder, kept in the user's cache: a list of them comes at once.

Nothing depends on it: where it is missing, damaged, or cannot be written, the results themselves are read.
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

from interp import __version__, placing

MANY = 50  # results below which nothing is kept: reading them takes no time
YOUNG = 2e9  # nanoseconds in which a file may change once more and show the same time


def place(folder: Path) -> Path:
    """The file that holds what is known of a folder; it may be deleted at any time."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = hashlib.blake2b(os.fsencode(folder.resolve()), digest_size=12).hexdigest()
    return home / "interp" / f"runs-{name}.json"


def stamp(files: list[os.stat_result], names: list[str]) -> str | None:
    """Names the state of a result's files, so that no change goes unseen; None while one is too young."""
    newest = max((max(one.st_mtime_ns, one.st_ctime_ns) for one in files), default=0)
    if newest > time.time_ns() - YOUNG:
        return None
    told = [
        (name, one.st_size, one.st_mtime_ns, one.st_ctime_ns, one.st_ino)
        for name, one in zip(names, files, strict=True)
    ]
    return hashlib.blake2b(repr(told).encode(), digest_size=12).hexdigest()


def read(folder: Path) -> dict[str, Any]:
    """By the path below the folder: a stamp, and what was read then."""
    try:
        kept = json.loads(place(folder).read_text(encoding="utf-8"))
        return dict(kept["runs"]) if kept["interp"] == __version__ else {}
    except (OSError, RuntimeError, ValueError, LookupError, TypeError):
        return {}


def keep(folder: Path, entries: dict[str, Any]) -> None:
    """All that is known now; fewer than MANY are not kept."""
    try:
        if len(entries) >= MANY:
            told = json.dumps({"interp": __version__, "runs": entries})
            placing.write(place(folder), told.encode())
    except (OSError, RuntimeError):  # no home, or a full or read-only disk
        pass
