"""What demo-lm can do, on the test split: abilities, sinks, heads, and where facts are read.

`python -m data.recipes.report_lm [FOLDER]`
"""

import sys
from typing import Any

import torch

import interp
from data.recipes import report_lm_heads as heads
from data.recipes import report_lm_tracing as tracing
from interp import Model
from interp.scoring import score
from interp.task import Task
from interp.tasks import TASKS

ACCURACY: dict[str, tuple[str, dict[str, Any]]] = {
    "IOI": ("ioi", {}),
    "induction": ("induction", {}),
    "gapped repeats": ("gapped_repeats", {}),
    "bigram-backcopy": ("bigram_backcopy", {}),
    "facts": ("facts", {}),
    "capitals": ("capitals", {}),
    "successor": ("successor", {}),
    "sentiment": ("sentiment", {}),
    **{f"Colored Objects, {n} shots": ("colored_objects", {"shots": n}) for n in (0, 1, 2)},
    **{
        f"open book, {kind}, {n} sentences": ("open_book", {"kind": kind, "sentences": n})
        for kind, lengths in (
            ("where", (2, 4, 6, 8, 10, 12, 14)),
            ("who", (2, 4, 6, 8, 10, 12, 14)),
        )
        for n in lengths
    },
    "open book, 10 to 12 sentences": ("open_book", {"sentences": (10, 12)}),
    "two statements": ("open_book", {"conflict": "statements", "sentences": 6}),
    "context against memory": ("open_book", {"conflict": "memory", "sentences": 4}),
}


def measure(model: Model, count: int = 300) -> dict[str, float]:
    """Every number of the card, by name."""
    found: dict[str, float] = {}
    for name, (task, settings) in ACCURACY.items():
        table = score(model, held_out(task, count, **settings))
        found[name] = float(table["right"].mean())
    memory = held_out("open_book", count, conflict="memory", sentences=4)
    found["memory against context"] = float(_says_wrong(model, memory))
    years = score(model, held_out("greater_than", count))
    found["greater-than, probability difference"] = float(
        (years["probability"] - years["against"]).mean()
    )
    ioi = score(model, held_out("ioi", count))
    found["IOI, logit difference"] = float(ioi["difference"].mean())
    found["evidence written, 8 sentences"] = written(model, min(count, 100))
    found |= heads.measure(model, count)
    found |= tracing.measure(model)
    return found


def held_out(task: str, count: int, **settings: Any) -> Task:
    """Up to `count` items of the test split; the smallest tasks have about a hundred."""
    few = {"successor": 80, "capitals": 100}
    return TASKS[task](min(count, few.get(task, count)), "test", **settings)


def _says_wrong(model: Model, task: Task) -> float:
    table = score(model, task)
    wrong = [record.wrong[0].strip() for record in task]
    return sum(a.strip() == b for a, b in zip(table["said"], wrong, strict=True)) / len(task)


def written(model: Model, count: int, sentences: int = 8) -> float:
    """How often the model itself writes the key sentence after "Evidence:"."""
    task = held_out("open_book", count, ask="evidence", sentences=sentences)
    prompt = task.encode(model)
    said = model.generate(prompt, max_new_tokens=12, do_sample=False)
    texts = model.decode(said, prompt)
    return sum(
        text.strip().startswith(record.text("key"))
        for text, record in zip(texts, task, strict=True)
    ) / len(task)


def main() -> None:
    torch.set_num_threads(1)
    for name, value in measure(interp.load(sys.argv[1] if sys.argv[1:] else "demo-lm")).items():
        print(f"{value:8.3f}  {name}")


if __name__ == "__main__":
    main()
