"""`python -m data.recipes.report`: measure the demo models on the test split, beside what was asked.

demo-lm                            only this model
--write                            keep the numbers in report.json and in the model's card
--of FOLDER --as "second seed"     measure another run of the recipe as a column of its card
"""

import argparse
import importlib
import json
import re
import time
from pathlib import Path
from typing import Any

import torch

import interp
from data.recipes import report_faults
from data.recipes.bounds import WANTED, verdict
from data.recipes.saving import MODELS
from interp.scoring import score
from interp.tasks import TASKS

MEASURES = {"demo-lm": "report_lm", "demo-vlm": "report_vlm", "demo-vit": "report_vit"}
SHIPPED = "shipped"
COST = "seconds of CPU to open it and let it answer"
OPEN, CLOSE = "<!-- numbers -->", "<!-- /numbers -->"


def measure(name: str, folder: Path) -> dict[str, float]:
    """All numbers of one model; of a checkpoint of demo-lm, induction alone."""
    model = interp.load(folder)
    if name not in MEASURES:
        return {"induction": float(score(model, TASKS["induction"](300))["right"].mean())}
    module = importlib.import_module(f"data.recipes.{MEASURES[name]}")
    return module.measure(model) | report_faults.measure(name, folder) | {COST: _seconds(folder)}


def _seconds(folder: Path) -> float:
    """CPU time to open the model and let it answer or classify, after the imports."""
    started = time.process_time()
    model = interp.load(folder)
    if model.kind == "text":
        model.generate(model.encode("The capital of France is"), max_new_tokens=8, do_sample=False)
    else:
        task = TASKS["digits" if model.kind == "vision" else "colour"](1)
        prompt = task.encode(model)
        if model.kind == "vision":
            model.logits(prompt)
        else:
            model.generate(prompt, max_new_tokens=8, do_sample=False)
    return time.process_time() - started


def table(name: str, columns: dict[str, dict[str, float]]) -> str:
    """Markdown: a row for each number, what was asked of it, and a column for each run."""
    names = list(dict.fromkeys(row for numbers in columns.values() for row in numbers))
    lines = [
        f"| measured on the test split | asked | {' | '.join(columns)} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for row in names:
        asked = _asked(*WANTED[name][row]) if row in WANTED[name] else ""
        values = [_shown(name, row, numbers.get(row)) for numbers in columns.values()]
        lines.append(f"| {row} | {asked} | {' | '.join(values)} |")
    return "\n".join(lines)


def _asked(low: float, high: float) -> str:
    return f">= {low:g}" if high in (1.0, float("inf")) else f"{low:g} to {high:g}"


def _shown(name: str, row: str, value: float | None) -> str:
    """A number, and where it is not what was asked for, that it is not."""
    if value is None:
        return ""
    text = f"{value:.3f}".rstrip("0").rstrip(".") or "0"
    judged = verdict(name, row, value)
    return f"{text} ({judged})" if judged in ("short", "over") else text


def kept(name: str) -> dict[str, dict[str, float]]:
    path = MODELS / name / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep(name: str, columns: dict[str, dict[str, float]]) -> None:
    """Into report.json, and between the marks of the model's card."""
    folder = MODELS / name
    rounded = {
        run: {row: round(value, 4) for row, value in numbers.items()}
        for run, numbers in columns.items()
    }
    (folder / "report.json").write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")
    card = folder / "README.md"
    if card.exists():
        head, rest = card.read_text(encoding="utf-8").split(OPEN)
        _, tail = rest.split(CLOSE)
        shown = {run: _without_heads(numbers) for run, numbers in rounded.items()}
        text = f"{head}{OPEN}\n{table(name, shown)}\n{CLOSE}{tail}"
        card.write_text(text, encoding="utf-8")


def _without_heads(numbers: dict[str, float]) -> dict[str, float]:
    """A card leaves a number for each head to report.json."""
    return {row: value for row, value in numbers.items() if not re.match(r"L\d+H\d+", row)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("models", nargs="*", default=list(WANTED))
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--of", type=Path)
    parser.add_argument("--as", dest="run", default=SHIPPED)
    given: Any = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.models:
        numbers = measure(name, given.of or MODELS / name)
        columns = kept(name) | {given.run: numbers}
        print(f"\n{name}\n{table(name, {given.run: numbers})}")
        if given.write:
            keep(name, columns)


if __name__ == "__main__":
    main()
