"""How a result was made, so that it can be made again: digests, settings, versions."""

import hashlib
import subprocess
import weakref
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.live import LIVE
from interp.live import version as version_of
from interp.prompt import Prompt
from interp.result import json_value
from interp.spread import local, whole_weight
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model

PACKAGES = ("torch", "transformers", "numpy", "pandas")
_DIGESTS: "weakref.WeakKeyDictionary[Any, tuple[Any, str]]" = weakref.WeakKeyDictionary()


def making(
    model: "Model | None", task: Any, settings: dict[str, Any], seconds: float
) -> dict[str, Any]:
    """What a manifest says besides the tables."""
    found: dict[str, Any] = {}
    if model is not None:
        found |= {"model": model.name, "class": type(model.hf).__name__}
        found |= {"weights": weights_digest(model.plain), "dtype": str(model.hf.dtype)}
        found |= {"device": str(model.device), "begins": begins(model)}
    if model is not None and model.backend != "hf":
        found["backend"] = model.backend
    if task is not None:
        found |= of_task(task)
    found["settings"] = json_value(settings)
    found["using"] = [name for session in LIVE.get() for name in session.named()]
    found["versions"] = {package: version(package) for package in PACKAGES} | {
        "interp": _own_version()
    }
    found |= {"seconds": round(seconds, 3), "at": datetime.now(UTC).isoformat(timespec="seconds")}
    return found


def of_task(task: Any) -> dict[str, Any]:
    """What a manifest says of a task, or of several by name."""
    return {
        "task": named(task),
        "task digest": digest(task),
        "task made": json_value(_made(task)),
        "records": _count(task),
    }


def begins(model: "Model") -> str | None:
    """The token that the tokenizer puts before a text, by name; None where it puts none."""
    if model.tokenizer is None:
        return None
    bare = model.tokenizer("a", add_special_tokens=False)["input_ids"]
    full = model.tokenizer("a")["input_ids"]
    added = [token for token in full[: len(full) - len(bare)] if token not in bare]
    return model.tokenizer.convert_ids_to_tokens(added[0]) if added else None


def weights_digest(hf: Any) -> str:
    """Names the weights by their content; kept while no weight is changed."""
    state = [(name, local(value)) for name, value in sorted(hf.state_dict().items())]
    stamp = tuple(
        (name, 0 if value.is_meta else value.data_ptr(), version_of(value), _sample(value))
        for name, value in state
    )
    known = _DIGESTS.get(hf)
    if known is not None and known[0] == stamp:
        return known[1]
    content = hashlib.blake2b(digest_size=8)
    for name, _ in state:
        owner, _, own = name.rpartition(".")
        value = whole_weight(hf.get_submodule(owner), own)
        content.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        content.update(value.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    _DIGESTS[hf] = (stamp, content.hexdigest())
    return content.hexdigest()


def _sample(value: torch.Tensor) -> float:
    """Tells of most changes that versions do not count, such as those of .data."""
    if value.is_meta:
        return 0.0  # it lies on another device or a disk
    flat = value.detach().flatten()
    return float(flat[:: max(1, len(flat) // 1000)].float().sum())


def named(task: Any) -> str:
    """What a task, several of them, or bare texts are called."""
    if isinstance(task, dict):
        return ", ".join(task)
    if isinstance(task, (list, tuple)) and task and hasattr(task[0], "digest"):
        return ", ".join(part.name for part in task)
    return getattr(task, "name", None) or type(task).__name__


def digest(task: Any) -> str:
    """Equal for equal content."""
    if hasattr(task, "digest"):
        return task.digest
    if isinstance(task, Record):
        return Task("", (task,)).digest
    if isinstance(task, dict):
        return digest(list(task.values()))
    if isinstance(task, (list, tuple)):
        parts = [digest(part) for part in task]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:16]
    if isinstance(task, Prompt):
        return _of_prompt(task)
    return hashlib.sha256(repr(task).encode()).hexdigest()[:16]


def _of_prompt(prompt: Prompt) -> str:
    """Inputs with their names and shapes, and where spans lie."""
    content = hashlib.sha256()
    spans = {name: prompt.where(name) for name in prompt.names}
    for name, value in {**prompt.inputs, **spans}.items():
        content.update(name.encode())
        if isinstance(value, torch.Tensor):
            plain = value.detach().cpu().contiguous()
            content.update(f"{plain.dtype} {tuple(plain.shape)}".encode())
            content.update(plain.flatten().view(torch.uint8).numpy().tobytes())
    return content.hexdigest()[:16]


def _made(task: Any) -> Any:
    if isinstance(task, dict):
        return {name: _made(part) for name, part in task.items()}
    if isinstance(task, (list, tuple)):
        return [_made(part) for part in task]
    return getattr(task, "made", None)


def _count(task: Any) -> Any:
    if isinstance(task, dict):
        return {name: _count(part) for name, part in task.items()}
    return 1 if isinstance(task, (str, Record)) else len(task)


def _own_version() -> str:
    """The version, and the commit where this is a checkout."""
    import interp

    asked = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        done = subprocess.run(asked, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return interp.__version__
    return f"{interp.__version__}+{done.stdout.strip()}"
