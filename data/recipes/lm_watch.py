"""What is measured of demo-lm while it learns, on the validation split, and when it is saved aside."""

import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.recipes.lm_documents import FIRST_WORD
from interp.tasks import TASKS

QUESTIONS = {
    "ioi": ("ioi", {}),
    "facts": ("facts", {}),
    "objects 0": ("colored_objects", {"shots": 0}),
    "objects 1": ("colored_objects", {"shots": 1}),
    "objects 2": ("colored_objects", {"shots": 2}),
    "where 4": ("open_book", {"kind": "where", "sentences": 4}),
    "where 8": ("open_book", {"kind": "where", "sentences": 8}),
    "where 12": ("open_book", {"kind": "where", "sentences": 12}),
    "who 6": ("open_book", {"kind": "who", "sentences": 6}),
    "memory": ("open_book", {"conflict": "memory", "sentences": 4}),
    "two statements": ("open_book", {"conflict": "statements", "sentences": 6}),
    "sentiment": ("sentiment", {}),
    "induction words": ("induction", {}),
    "gapped": ("gapped_repeats", {}),
    "backcopy": ("bigram_backcopy", {}),
}
BEFORE, AFTER = 0.05, 0.8  # induction on the validation split, for the checkpoints


@dataclass
class Asked:
    ids: Tensor
    ends: Tensor
    answers: list[set[int]]


class Watch:
    """Measures every 50 steps how induction stands, every 200 the tasks."""

    def __init__(self, model: Any, tokenizer: Any, out: Path):
        self.model, self.tokenizer = model, tokenizer
        self.before = out.with_name(out.name + "-before-induction")
        self.after = out.with_name(out.name + "-after-induction")
        self.asked = {
            name: self._ask(task, settings) for name, (task, settings) in QUESTIONS.items()
        }
        chance = random.Random("validation")
        words = range(FIRST_WORD, len(tokenizer))
        runs = [[chance.choice(words) for _ in range(20)] for _ in range(20)]
        self.runs = torch.tensor([[1, *run, *run] for run in runs])
        self.passed = False

    def _ask(self, task: str, settings: dict[str, Any]) -> Asked:
        records = TASKS[task](40, "validation", **settings).records
        rows = [self.tokenizer(record.prompt)["input_ids"] for record in records]
        ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
        for order, row in enumerate(rows):
            ids[order, : len(row)] = torch.tensor(row)
        answers = [
            {self.tokenizer(record.prompt + each)["input_ids"][-1] for each in record.answers}
            for record in records
        ]
        return Asked(ids, torch.tensor([len(row) - 1 for row in rows]), answers)

    def measure(self, step: int) -> dict[str, float]:
        said = self.model(input_ids=self.runs).logits[:, :-1].argmax(-1)
        induction = (said[:, 21:] == self.runs[:, 22:]).float().mean().item()
        self._set_aside(induction)
        seen = {"induction": induction}
        if step % 200 == 0:
            seen |= {name: self._right(asked) for name, asked in self.asked.items()}
        return seen

    def _right(self, asked: Asked) -> float:
        logits = self.model(input_ids=asked.ids).logits
        said = logits[torch.arange(len(asked.ids)), asked.ends].argmax(-1).tolist()
        return sum(a in right for a, right in zip(said, asked.answers, strict=True)) / len(said)

    def _set_aside(self, induction: float) -> None:
        """The last measurement before induction, and the first after it."""
        if induction <= BEFORE and not self.passed:
            self._save(self.before)
        if induction > BEFORE:
            self.passed = True
        if induction >= AFTER and not self.after.exists():
            self._save(self.after)

    def forget(self) -> None:
        """Checkpoints of another run are not this one's."""
        for folder in (self.before, self.after):
            shutil.rmtree(folder, ignore_errors=True)

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
