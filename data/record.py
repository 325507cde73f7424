"""`python -m data.record`: ask the shipped models every analysis, small, and keep the answers in data/runs.

They travel in the wheel, so that the explorer has something to show before anything was asked. About
two minutes on one core; `python -m data.record sinks flow` does some analyses again.
"""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import interp
from analyses import ANALYSES
from interp import Record, Result, Task

RUNS = Path(__file__).parent / "runs"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Asked:
    """One analysis of one model. `tasks` gives each task's settings by its name; several are a dict."""

    analysis: str
    model: str | None
    tasks: Mapping[str, Settings] = field(default_factory=dict)
    settings: Settings = field(default_factory=dict)
    fault: str | None = None
    long: int = 0  # tokens of the records' texts, end to end, which are one text then

    @property
    def folder(self) -> str:
        """What links know the run by."""
        parts = (self.analysis, self.model, self.fault, f"{self.long}-tokens" if self.long else "")
        return "-".join(part for part in parts if part)

    def run(self) -> Result:
        model = interp.load(self.model, fault=self.fault) if self.model else None
        return ANALYSES[self.analysis](model, self._task(model), **self.settings)

    def _task(self, model: Any) -> Any:
        loaded = {name: Task.load(name, **own) for name, own in self.tasks.items()}
        if self.long:
            return _end_to_end(loaded, model, self.long)
        return next(iter(loaded.values()), None) if len(loaded) < 2 else loaded


def _end_to_end(tasks: Mapping[str, Task], model: Any, tokens: int) -> Task:
    """One text of so many tokens, the first included that the tokenizer puts before it."""
    records = [record for task in tasks.values() for record in task]
    text = " ".join(f"{record.prompt}{record.answers[0]}." for record in records)
    ids = model.tokenizer(text, verbose=False)["input_ids"]
    if len(ids) < tokens:
        raise ValueError(f"the records have {len(ids)} tokens, and {tokens} are asked for.")
    text = model.tokenizer.decode(ids[:tokens], skip_special_tokens=True)
    return Task(f"{', '.join(tasks)} end to end", (Record(text),))


ONE = {"count": 1}
FEW, SOME, MORE = {"count": 8}, {"count": 12}, {"count": 48}
OBJECTS = MORE | {"apart": True}
WRITTEN = {"min_new_tokens": 60, "max_new_tokens": 60}
SMALL = {"steps": 1000, "every": 100, "width": 64, "length": 64, "batch": 32, "progress": False}
MENDING = ["VAR(rho=0, mass=0, layers=[1, 2, 3])", "VHR"]
QUICK = {"draws": 3, "steps": 6, "resamples": 500}

ASKED = (
    Asked("activation_patching", "demo-lm", {"ioi": SOME}),
    Asked("attention", "demo-lm", {"ioi": ONE}),
    # Longer than maps are kept whole, and as long as this model goes.
    Asked("attention", "demo-lm", {"facts": SOME}, {"top": 4, "cells": 32}, long=256),
    Asked("attention", "demo-vlm", {"colour": ONE}),
    Asked("attention", "demo-vit", {"digits": ONE}),
    Asked("attribution", "demo-lm", {"ioi": SOME}),
    Asked("bigram_backcopy", None, settings=SMALL),
    Asked("causal_tracing", "demo-lm", {"facts": SOME}),
    Asked("circuit", "demo-lm", {"ioi": MORE}),
    Asked("circuit_reuse", "demo-lm", {"ioi": MORE, "colored_objects": OBJECTS, "induction": MORE},
          {"draws": 5, "progress": False}),
    Asked("compare", "demo-vlm", {"colour": {"count": 100}},
          {"interventions": [*MENDING, "PAI"]}, fault="parked-on-sinks"),
    Asked("emergent_heads", "demo-lm-after-induction", {"induction": MORE, "sentiment": MORE},
          {"before": "demo-lm-before-induction", "draws": 5}),
    Asked("fcct", "demo-vlm", {"existence": {"count": 24}}),
    Asked("flow", "demo-lm", {"colored_objects": FEW | {"shots": 0}}, QUICK),
    Asked("flow", "demo-vlm", {"colour": {"count": 6}}, QUICK),
    Asked("flow", "demo-vit", {"digits": FEW}, QUICK | {"limit": 65}),
    Asked("head_importance", "demo-lm", {"ioi": SOME}),
    Asked("head_importance", "demo-vlm", {"existence": FEW}),
    Asked("head_importance", "demo-vit", {"digits": SOME}),
    Asked("heads", "demo-lm", {"ioi": SOME}),
    Asked("heads", "demo-vlm", {"colour": SOME}),
    Asked("heads", "demo-vit", {"digits": SOME}),
    Asked("path_patching", "demo-lm", {"ioi": MORE}),
    Asked("repair", "demo-lm", {"colored_objects": {"count": 200, "shots": 4}}, {"draws": 5}),
    Asked("rhythm", "demo-lm", {"open_book": SOME | {"sentences": 6}}, WRITTEN),
    Asked("steer", "demo-vlm", {"colour": FEW | {"seed": 1}}, {"interventions": MENDING, "records": 8},
          fault="parked-on-sinks"),
    Asked("steer", "demo-lm", {"open_book": {"count": 4, "kind": "where", "sentences": 12}},
          {"interventions": ["PASTA(highlight='key', heads=['3.1', '2.0'])"]}, fault="shouted-down"),
    Asked("sinks", "demo-lm", {"facts": SOME, "ioi": SOME}, {"shown": 4}),
    Asked("sinks", "demo-vlm", {"colour": SOME}, {"shown": 4}),
    Asked("sinks", "demo-vit", {"digits": SOME}, {"shown": 4}),
)  # fmt: skip


def main(names: list[str]) -> None:
    """Ask, save, and say what each took; folders that nothing here asks for are named."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        ANALYSES[name]  # an unknown one is answered with the nearest
    for asked in ASKED:
        if names and asked.analysis not in names:
            continue
        started = time.process_time()
        folder = asked.run().save(RUNS / asked.folder)
        size = sum(file.stat().st_size for file in folder.iterdir())
        told = f"{time.process_time() - started:.1f} s, {size / 1000:.0f} kB"
        sys.stdout.write(f"{asked.folder}: {told}\n")
    known = {asked.folder for asked in ASKED}
    for folder in sorted(RUNS.iterdir()):
        if folder.name not in known:
            sys.stdout.write(f"{folder.name}: not asked for any more; remove it.\n")


if __name__ == "__main__":
    main(sys.argv[1:])
