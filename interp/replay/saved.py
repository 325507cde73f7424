"""Finished chunks of a sweep in a folder, so that a killed one goes on where it was."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from interp.replay.changes import Change

MANIFEST = "sweep.json"


class Saved:
    """`name` says what is computed: another sweep's folder is refused."""

    def __init__(self, folder: str | Path, name: str, total: int):
        self.folder = Path(folder).expanduser()
        says = {"sweep": name, "chunks": total}
        if self.folder.is_file():
            raise FileExistsError(f"{str(folder)!r} is a file; save= names a folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            if json.loads(manifest.read_text()) != says:
                raise FileExistsError(
                    f"{str(folder)!r} holds another sweep (another model, prompt, change, metric or "
                    "budget); save to another folder, or remove that one."
                )
        elif any(self.folder.iterdir()):
            raise FileExistsError(
                f"{str(folder)!r} holds something else; save= wants a folder of its own."
            )
        else:
            _write(manifest, json.dumps(says).encode())

    def read(self, number: int) -> Tensor | None:
        path = self._path(number)
        return torch.from_numpy(numpy.load(path)) if path.is_file() else None

    def write(self, number: int, values: Tensor) -> None:
        import io

        content = io.BytesIO()
        numpy.save(content, values.numpy())
        _write(self._path(number), content.getvalue())

    def _path(self, number: int) -> Path:
        return self.folder / f"chunk-{number:06d}.npy"


def _write(path: Path, content: bytes) -> None:
    """Whole, or not at all."""
    half = path.with_suffix(f".{os.getpid()}.tmp")
    with half.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    half.replace(path)


def digest(parts: Iterable[Any]) -> str:
    """Names texts, numbers and tensors by their content."""
    content = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, Tensor):
            plain = part.detach().cpu().contiguous()
            content.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
            content.update(plain.flatten().view(torch.uint8).numpy().data)
        else:
            content.update(f"|{part!r}|".encode())
    return content.hexdigest()


def of_cells(cells: Sequence[Sequence[Change]]) -> Iterable[Any]:
    for cell in cells:
        yield "cell"
        for change in cell:
            if change.fn is not None:
                raise ValueError(
                    "a function over windows of layers is called anew in every changed run, and cannot be "
                    "named for save=; use window=1 or leave save= out."
                )
            yield from (change.site, change.layer, change.stack, change.rows, change.places)
            yield from (part for part in (change.heads, change.values) if part is not None)
