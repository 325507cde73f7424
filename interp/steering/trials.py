"""How a model does under one setting after another: each is measured once, and kept in a file if asked."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.making import weights_digest
from interp.prompt import Prompt
from interp.result import json_value
from interp.scoring import Witness, answer_ids, last_logits, score
from interp.sites import whole_number
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

Heads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Score:
    """The share of records whose right answer is said next, and the mean probability of it."""

    accuracy: float
    probability: float


@dataclass(frozen=True)
class _Part:
    prompt: Prompt
    right: list[list[int]]  # of each record, the first tokens of its right answers


class Trials:
    """One task, encoded once; `under(heads)` measures the intervention on these heads.

    A file holds a line for each finished measurement, with a digest of weights, task and settings, so
    that several searches may share it; half a line, of a run that was killed, is cut off.
    """

    def __init__(
        self, model: "Model", task: Task, intervention: Any, batch: int, save: Path | None
    ):
        if whole_number(batch, "batch=") < 1 or not len(task):
            raise ValueError(
                f"batch={batch} records at a time of {task!r}: both are to be at least 1."
            )
        self.model, self.task, self.intervention = model, task, intervention
        self.size, self.save = batch, save
        self.parts: list[_Part] | None = None
        self.name = hashlib.sha256(
            json.dumps([weights_digest(model.plain), task.digest, _settings(intervention)]).encode()
        ).hexdigest()[:16]
        self.known: dict[str, Score] = {} if save is None else _read(save, self.name)

    @property
    def prompt(self) -> Prompt:
        return self._parts()[0].prompt

    def under(self, heads: Heads | None) -> Score:
        """None: the plain model."""
        key = json.dumps(heads)
        if key not in self.known:
            self.known[key] = self._plain() if heads is None else self._under(heads)
            if self.save is not None:
                _write(self.save, self.name, key, self.known[key], self.task.name)
        return self.known[key]

    def _parts(self) -> list[_Part]:
        if self.parts is None:
            starts = range(0, len(self.task), self.size)
            self.parts = [self._part(self.task[start : start + self.size]) for start in starts]
        return self.parts

    def _part(self, task: Task) -> _Part:
        prompt = task.encode(self.model)
        rows = enumerate(task)
        return _Part(
            prompt, [answer_ids(self.model, prompt, row, record.answers) for row, record in rows]
        )

    def _plain(self) -> Score:
        """By `score` itself, which refuses what cannot be scored."""
        table = score(self.model, self.task, batch=self.size)
        means = table[["right", "probability"]].to_numpy(float).mean(0)
        return Score(*means.tolist())

    def _under(self, heads: Heads) -> Score:
        using, hits, chances = on_heads(self.intervention, heads), 0, 0.0
        for part in self._parts():
            seen = Witness()
            with torch.no_grad():
                logits = self.model.logits(part.prompt, using=[using, seen])
                logits = last_logits(self.model, logits, seen.prompt).float()
            said = logits.argmax(-1).tolist()
            weights = logits.softmax(-1)
            for row, right in enumerate(part.right):
                hits += said[row] in right
                chances += float(weights[row, right].sum())
        return Score(hits / len(self.task), chances / len(self.task))


def on_heads(intervention: Any, heads: Sequence[tuple[int, int]]) -> Any:
    """The same settings on these heads; heads name their layers."""
    names = {field.name for field in fields(intervention)}
    given: dict[str, Any] = {"heads": tuple(heads)}
    return replace(intervention, **given, **({"layers": None} if "layers" in names else {}))


def check_headed(intervention: Any) -> None:
    """An instance of a method that can be put on chosen heads."""
    ready = is_dataclass(intervention) and not isinstance(intervention, type)
    if not ready or "heads" not in {field.name for field in fields(intervention)}:
        raise TypeError(
            f"heads are searched for an intervention that takes heads=, with its settings: ACT(beta=0.4), "
            f"PASTA(highlight='key'); not {intervention!r}."
        )


def _settings(intervention: Any) -> list[Any]:
    own = {field.name: getattr(intervention, field.name) for field in fields(intervention)}
    own = {name: value for name, value in own.items() if name not in ("heads", "layers")}
    return [type(intervention).__qualname__, json_value(own)]


def _read(path: Path, name: str) -> dict[str, Score]:
    """What was measured before; a last line that is not whole is cut off."""
    if not path.is_file():
        return {}
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    found: dict[str, Score] = {}
    for number, line in enumerate(whole.decode("utf-8", "replace").splitlines(), 1):
        try:
            row = json.loads(line)
            if row["of"] == name:
                found[row["heads"]] = Score(row["accuracy"], row["probability"])
        except (json.JSONDecodeError, KeyError, TypeError):
            raise ValueError(
                f"{path}, line {number} is no measurement of heads; give save= a file of its own."
            ) from None
    if len(whole) < len(content):
        with path.open("rb+") as file:
            file.truncate(len(whole))
    return found


def _write(path: Path, name: str, key: str, score: Score, task: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {"of": name, "task": task, "heads": key}
    row |= {"accuracy": score.accuracy, "probability": score.probability}
    with path.open("ab") as file:
        file.write(json.dumps(row).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
