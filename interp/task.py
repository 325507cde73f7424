"""Prompts with their answers: what an analysis asks a model, as records that travel as JSONL and PNG."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from interp.prompt import Prompt, Said
from interp.registry import unknown
from interp.spelling import places

if TYPE_CHECKING:
    from PIL.Image import Image

    from interp.model import Model


@dataclass(frozen=True)
class Record:
    """One prompt with its right and wrong answers.

    Answers are written as they follow the prompt, the space before them included. `spans` names
    stretches of the prompt by their characters, `[start, end)`. The counterfactual is the prompt
    with one thing changed so that `counterfactual_answers` are right. `notes` holds what made the
    record: JSON values only.
    """

    prompt: str
    answers: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    counterfactual: str | None = None
    counterfactual_answers: tuple[str, ...] = ()
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    image: "Image | None" = None
    counterfactual_image: "Image | None" = None

    def __post_init__(self) -> None:
        for name in ("answers", "wrong", "counterfactual_answers"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} are several: ({getattr(self, name)!r},).")
        if self.spans and not isinstance(self.prompt, str):
            raise TypeError(
                "spans are stretches of a prompt's text, and this prompt is token ids; give text, or ask "
                "model.sweep(model.encode(ids), ..., positions=[...])."
            )
        for name, (start, end) in self.spans.items():
            if not 0 <= start < end <= len(self.prompt):
                raise ValueError(
                    f"span {name!r} is [{start}, {end}) of a prompt of {len(self.prompt)} "
                    f"characters: {self.prompt!r}."
                )

    def text(self, span: str) -> str:
        """The words of a span."""
        if span not in self.spans:
            raise LookupError(unknown("span", span, list(self.spans)))
        start, end = self.spans[span]
        return self.prompt[start:end]

    def said(self) -> list[Said]:
        """The spans as a prompt knows them: by their text, and which of its places it is."""
        found = []
        for name, (start, end) in self.spans.items():
            part = self.prompt[start:end]
            found.append(Said((name,), part, places(self.prompt, part).index(start)))
        return found

    def row(self) -> dict[str, Any]:
        """Everything but the images, as JSON values; what is empty is left out."""
        row: dict[str, Any] = {"prompt": self.prompt, "answers": list(self.answers)}
        row["wrong"] = list(self.wrong)
        row["counterfactual"] = self.counterfactual
        row["counterfactual_answers"] = list(self.counterfactual_answers)
        row["spans"] = {name: list(span) for name, span in self.spans.items()}
        row["notes"] = dict(self.notes)
        return {key: value for key, value in row.items() if value or key == "prompt"}


@dataclass(frozen=True)
class Task(Sequence[Record]):
    """Records under a name: `interp.Task.load("ioi")`, or a JSONL file of one's own."""

    name: str
    records: tuple[Record, ...]
    made: Mapping[str, Any] = field(default_factory=dict)  # by which generator, with what settings

    @classmethod
    def load(cls, source: str | Path, **settings: Any) -> "Task":
        """A task of `interp.tasks` by name, with its settings, or the records of a file.

        Of a file: `images=` is the folder of its images, `count=` how many records to read, and
        `name=` what to call the task.
        """
        from interp.records import read
        from interp.tasks import TASKS

        path = Path(source)
        if path.suffix in (".jsonl", ".json") or path.is_file():
            return read(path, **settings)
        return TASKS[str(source)](**settings)

    def save(self, path: str | Path) -> Path:
        """Write the records as JSONL, and their images as PNG in a folder beside it."""
        from interp.records import write

        return write(self, Path(path))

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> "Task": ...
    def __getitem__(self, index: int | slice) -> "Record | Task":
        if isinstance(index, slice):
            return replace(self, records=self.records[index])
        return self.records[index]

    def __len__(self) -> int:
        return len(self.records)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __repr__(self) -> str:
        made = ", ".join(f"{key}={value!r}" for key, value in self.made.items())
        return f"Task({self.name}: {len(self)} records{', ' if made else ''}{made})"

    @property
    def digest(self) -> str:
        """Names the content: equal for equal records, whoever made them."""
        content = hashlib.sha256()
        for record in self:
            content.update(json.dumps(record.row(), sort_keys=True).encode())
            for image in (record.image, record.counterfactual_image):
                content.update(b"-" if image is None else _pixels(image))
        return content.hexdigest()[:16]

    def encode(self, model: "Model", counterfactual: bool = False) -> Prompt:
        """All records as one batch of rows, their spans by name."""
        if not len(self):
            raise ValueError(f"the task {self.name!r} has no records to encode.")
        texts = [_side(record, counterfactual, self.name) for record in self]
        images = [_shown(record, counterfactual) for record in self]
        seen = [image for image in images if image is not None]
        if seen and len(seen) < len(images):
            raise ValueError(f"only {len(seen)} of the {len(self)} records have an image.")
        if model.kind == "vision":
            return model.encode(images=seen)
        prompt = model.encode(texts, images=[[image] for image in seen] or None)
        if not counterfactual:
            extra = [record.said() for record in self]
            known = prompt.said or [[] for _ in extra]
            prompt.said = [old + new for old, new in zip(known, extra, strict=True)]
        return prompt


def _pixels(image: "Image") -> bytes:
    return f"{image.mode} {image.size} ".encode() + image.tobytes()


def _side(record: Record, counterfactual: bool, name: str) -> str:
    if not counterfactual:
        return record.prompt
    if record.counterfactual is None and record.counterfactual_image is None:
        raise ValueError(
            f"a record of {name!r} has no counterfactual: {record.prompt!r}; give it one, "
            "Record(prompt, answers, wrong, counterfactual)."
        )
    return record.counterfactual if record.counterfactual is not None else record.prompt


def _shown(record: Record, counterfactual: bool) -> "Image | None":
    if counterfactual and record.counterfactual_image is not None:
        return record.counterfactual_image
    return record.image
