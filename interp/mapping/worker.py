"""What runs in a worker's process: it holds models and jobs, and does a job's items one by one."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class Opened:
    """How a worker comes to a model; `whole` holds where it lies in the cluster, once it was put there."""

    mark: str  # its fingerprint
    kind: type
    folder: str | None
    device: str
    dtype: Any
    tools: bytes  # the processor
    whole: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Job:
    """A function that is called with items; `content` holds where it lies in the cluster."""

    mark: int
    content: list[Any]
    threads: int
    gradients: bool
    precision: str
    dtype: Any


def versions() -> dict[str, str]:
    """What has to be the same on both sides."""
    from importlib.metadata import version

    import interp

    return {name: version(name) for name in ("torch", "transformers")} | {
        "interp": interp.__version__
    }


class Worker:
    """One process of a team. What goes wrong in the work is handed back, not raised: it is the caller's."""

    def __init__(self) -> None:
        self.models: dict[str, Model] = {}
        self.unlike: set[str] = set()  # models that their folder does not give
        self.mark: int | None = None
        self.function: Any = None

    def hello(self, folders: list[str]) -> dict[str, Any]:
        """Ready; with what. `folders` are those that the caller's modules come from."""
        import os
        import sys

        sys.path.extend(folder for folder in folders if folder not in sys.path)
        return {"process": os.getpid(), "versions": versions()}

    def work(self, opened: Opened, job: Job, item: bytes) -> bytes:
        """ "found", what the function made of the item and what it warned of; "raised" and why; or "wants"
        the model."""
        import warnings

        from interp.mapping.travel import packed

        model = None
        try:
            model = self._model(opened)
            if model is None:
                return packed(("wants", None))
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                found = self._found(model, job, item)
            said = [(one.category, str(one.message)) for one in heard]
            return packed(("found", (found, said)), model)
        except Exception as problem:
            return packed_problem(problem, model)

    def _found(self, model: "Model", job: Job, item: bytes) -> Any:
        import ray
        import torch

        from interp.mapping.travel import unpacked

        torch.set_num_threads(job.threads)  # bytes of large products follow from it
        torch.set_float32_matmul_precision(job.precision)
        torch.set_default_dtype(job.dtype)
        with torch.set_grad_enabled(job.gradients):
            if self.mark != job.mark:
                self.mark = self.function = None
                self.function = unpacked(ray.get(job.content[0]), model)
                self.mark = job.mark
            return self.function(unpacked(item, model))

    def _model(self, opened: Opened) -> "Model | None":
        """The model as it is with the caller; None where its weights are needed for that."""
        if opened.mark not in self.models:
            found = self._of_folder(opened) or self._of_whole(opened)
            if found is None:
                return None
            self.models[opened.mark] = found
        return self.models[opened.mark]

    def _of_folder(self, opened: Opened) -> "Model | None":
        """From its files, if they hold the same model."""
        from pathlib import Path

        import interp
        from interp.mapping.travel import fingerprint, unpacked

        folder = opened.folder or ""
        asked = folder and not opened.whole and opened.mark not in self.unlike
        if not asked or not Path(folder).is_dir():
            return None
        self.unlike.add(opened.mark)
        try:
            hf = opened.kind.from_pretrained(
                folder, dtype=opened.dtype, use_safetensors=True, local_files_only=True
            )
        except (OSError, ValueError, RuntimeError):
            return None  # files that this class cannot be made of: the caller's model travels
        model = interp.wrap(hf.eval().to(opened.device), unpacked(opened.tools))
        return model if fingerprint(model) == opened.mark else None

    def _of_whole(self, opened: Opened) -> "Model | None":
        import ray

        import interp
        from interp.mapping.travel import unpacked

        if not opened.whole:
            return None
        hf = unpacked(ray.get(opened.whole[0]))
        return interp.wrap(hf.eval().to(opened.device), unpacked(opened.tools))


def packed_problem(problem: Exception, model: "Model | None") -> bytes:
    """An exception as it is, where it can travel; else one that says the same."""
    import traceback

    from interp.mapping.travel import packed, unpacked

    told = "".join(traceback.format_exception(problem))
    problem.__traceback__ = problem.__cause__ = problem.__context__ = None
    try:
        content = packed(("raised", (problem, told)), model)
        unpacked(content, model)
        return content
    except Exception:
        other = RuntimeError(f"{type(problem).__name__}: {problem}")
        return packed(("raised", (other, told)))
