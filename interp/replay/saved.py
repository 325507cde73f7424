"""Finished chunks of a sweep in a folder, so that a killed one goes on where it was."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from interp.placing import LEFT
from interp.replay.changes import Change
from interp.sites import Hook

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

MANIFEST = "sweep.json"


class Saved:
    """`rule` names what is computed, part by part: another sweep's folder is refused."""

    def __init__(self, folder: str | Path, rule: dict[str, Any], total: int):
        self.folder = Path(folder).expanduser()
        says = {**rule, "chunks": total}
        if self.folder.is_file():
            raise FileExistsError(f"{str(folder)!r} is a file; save= names a folder.")
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = self.folder / MANIFEST
        if manifest.is_file():
            theirs = json.loads(manifest.read_text())
            other = [name for name in says if theirs.get(name) != says[name]]
            if other:
                raise FileExistsError(
                    f"{str(folder)!r} holds another sweep: {', '.join(other)} differ. Save to another "
                    "folder, or remove that one."
                )
        elif any(path.suffix != ".tmp" for path in self.folder.iterdir()):
            raise FileExistsError(
                f"{str(folder)!r} holds something else; save= wants a folder of its own."
            )
        else:
            _write(manifest, json.dumps(says).encode())
        _clear(self.folder)

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


def _clear(folder: Path) -> None:
    """What killed processes were writing; what is young may still be written."""
    for left in folder.glob("chunk-*.tmp"):
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < time.time() - LEFT:
                left.unlink()


def digest(parts: Iterable[Any]) -> str:
    """Names texts, numbers and tensors by their content."""
    content = hashlib.blake2b(digest_size=12)
    for part in parts:
        if isinstance(part, Tensor):
            plain = part.detach().cpu().clone(memory_format=torch.contiguous_format)
            content.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
            content.update(plain.flatten().view(torch.uint8).numpy().data)
        else:
            content.update(f"|{part!r}|".encode())
    return content.hexdigest()


def of_function(function: Any, seen: frozenset[int] = frozenset()) -> Iterable[Any]:
    """A function's code and the data it holds, as parts of a digest; an object by its fields."""
    if id(function) in seen:
        return
    seen = seen | {id(function)}
    if not isinstance(function, FunctionType):
        yield type(function).__qualname__
        yield from _of_value(dict(getattr(function, "__dict__", {})), seen)
        return
    code = function.__code__
    yield from (code.co_name, code.co_code, code.co_names)
    yield [one for one in code.co_consts if not isinstance(one, CodeType)]
    held = [
        *(function.__defaults__ or ()),
        *(cell.cell_contents for cell in function.__closure__ or ()),
    ]
    named = (function.__globals__.get(name) for name in code.co_names)
    for value in [*held, *named]:
        yield from _of_value(value, seen)


def _of_value(value: Any, seen: frozenset[int]) -> Iterable[Any]:
    """Data by content, functions by code; anything else (models, modules, classes) by its type."""
    if isinstance(value, (list, tuple, dict)):
        items = (
            [part for item in value.items() for part in item] if isinstance(value, dict) else value
        )
        yield len(value)
        for one in items:
            yield from _of_value(one, seen)
    elif isinstance(value, (Tensor, int, float, str, bytes, type(None))):
        yield value
    elif isinstance(value, numpy.ndarray):
        yield torch.from_numpy(value)
    elif isinstance(value, FunctionType) or is_dataclass(value) and not isinstance(value, type):
        yield from of_function(value, seen)
    else:
        yield type(value).__qualname__


def of_run(model: "Model", prompt: "Prompt", hooks: Sequence[Hook]) -> dict[str, str]:
    """Weights, prompt and hooks of the run that is changed."""
    from interp import making

    parts = [
        (hook.site, hook.layers, hook.heads, hook.stack, *of_function(hook.fn)) for hook in hooks
    ]
    content = [part for one in parts for part in one]
    return {
        "weights": making.weights_digest(model.plain),
        "prompt": making.digest(prompt),
        "hooks": digest(content),
    }


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
