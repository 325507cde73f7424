"""The folder of a saved result: what its manifest says, and whether this version can open it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

if TYPE_CHECKING:
    import pandas

MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
FORMAT = 1  # what is written; docs/runs.md says what changes it
READS = (1,)  # formats that this version opens
TRIES = 40  # at reading what is replaced meanwhile
Read = TypeVar("Read")
KINDS = {"analysis": str, "tables": list, "notes": list, "made": dict}  # other keys are passed over


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest in a folder; a ValueError says why this version cannot open what it describes."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"it holds no {MANIFEST}") from None
    except (OSError, ValueError) as problem:
        raise ValueError(f"its {MANIFEST} cannot be read: {problem}") from None
    if not isinstance(manifest, dict):
        raise ValueError(f"its {MANIFEST} is no JSON object")
    if manifest.get("format") not in READS:
        raise ValueError(_other_format(manifest))
    bad = [name for name, kind in KINDS.items() if not isinstance(manifest.get(name), kind)]
    if bad:
        raise ValueError(f"its {MANIFEST} has no {' and no '.join(bad)}")
    odd = [name for name in manifest["tables"] if not plain_name(name)]
    if odd:
        raise ValueError(f"its {MANIFEST} names {odd[0]!r} as a table, which is no plain name")
    return manifest


def _other_format(manifest: dict[str, Any]) -> str:
    """Which version made it and what to do, as far as it says."""
    from interp import __version__

    made = manifest.get("made")
    versions = made.get("versions") if isinstance(made, dict) else None
    by = versions.get("interp") if isinstance(versions, dict) else None
    number = manifest.get("format")
    newer = isinstance(number, int) and number > FORMAT
    return (
        f"it has format {number!r}{f', written by interp {by}' if by else ''}; this is interp {__version__}, "
        f"which reads format {' and '.join(map(str, READS))}"
        f"{': open it with the version that wrote it, or a later one' if newer else ''}"
    )


def read_table(path: Path, name: str) -> "pandas.DataFrame":
    """One of its tables, or a ValueError that says what is wrong with it."""
    import pandas

    try:
        return pandas.read_parquet(path / f"{name}.parquet")
    except FileNotFoundError:
        raise ValueError(f"its table {name}.parquet is missing") from None
    except (OSError, ValueError) as problem:  # pyarrow's own among them
        raise ValueError(f"its table {name}.parquet is damaged: {problem}") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Its tensors, if it has any."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path / TENSORS) if (path / TENSORS).is_file() else {}
    except SafetensorError as problem:
        raise ValueError(f"its {TENSORS} is damaged: {problem}") from None


def plain_name(name: Any) -> bool:
    """Whether it can be the name of a file in the result's own folder."""
    return isinstance(name, str) and name[:1] not in ("", ".") and not set(name) & set("/\\")


def steady(path: Path, read: Callable[[Path], Read]) -> Read:
    """What `read` makes of a folder, or its ValueError; a folder that is replaced meanwhile is read again."""
    for _ in range(TRIES):
        before = _which(path)
        try:
            found = read(path)
        except ValueError:
            if _which(path) == before:
                raise
            continue
        if _which(path) == before:
            return found
    raise ValueError("it was replaced each time while it was read")


def _which(path: Path) -> tuple[int, int] | None:
    """Tells a folder from one that has taken its place."""
    try:
        told = path.stat()
    except FileNotFoundError:
        return None
    return told.st_ino, told.st_mtime_ns
