"""Finished chunks of a sweep in a folder, so that a killed one goes on where it was."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy
import torch
from torch import Tensor

from interp.replay.changes import Change
from interp.sites import Hook

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

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
        elif any(path.suffix != ".tmp" for path in self.folder.iterdir()):
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


def of_function(function: Any, seen: frozenset[int] = frozenset()) -> Iterable[Any]:
    """A function's code and what it holds, as parts of a digest; an object without code by its fields."""
    if id(function) in seen:
        return
    seen = seen | {id(function)}
    code = getattr(function, "__code__", None)
    if code is None:
        yield type(function).__qualname__
        held: Iterable[Any] = vars(function).values() if hasattr(function, "__dict__") else ()
    else:
        yield from (code.co_name, code.co_code, code.co_names)
        yield [one for one in code.co_consts if not hasattr(one, "co_code")]
        names = {name: function.__globals__.get(name) for name in code.co_names}
        held = [*(function.__defaults__ or ()), *(cell.cell_contents for cell in function.__closure__ or ()),
                *(value for value in names.values() if not callable(value))]  # fmt: skip
    for value in held:
        yield from _of_value(value, seen)


def _of_value(value: Any, seen: frozenset[int]) -> Iterable[Any]:
    if isinstance(value, (list, tuple, dict)):
        yield len(value)
        for one in (
            [part for item in value.items() for part in item] if isinstance(value, dict) else value
        ):
            yield from _of_value(one, seen)
    elif isinstance(value, (Tensor, int, float, str, bytes, type(None))):
        yield value
    elif hasattr(value, "__array__"):
        yield torch.as_tensor(numpy.asarray(value))
    elif callable(value) or hasattr(value, "__dict__"):
        yield from of_function(value, seen)


def of_run(model: "Model", prompt: "Prompt", hooks: Sequence[Hook]) -> list[str]:
    """Weights, prompt and hooks of the run that is changed."""
    from interp import making

    parts = [
        (hook.site, hook.layers, hook.heads, hook.stack, *of_function(hook.fn)) for hook in hooks
    ]
    content = [part for one in parts for part in one]
    return [making.weights_digest(model.hf), making.digest(prompt), digest(content)]


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
