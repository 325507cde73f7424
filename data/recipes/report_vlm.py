"""What demo-vlm can do, on the test split: answers, captions, looking closer, and its heads.

`python -m data.recipes.report_vlm [FOLDER]`
"""

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from PIL import Image

import interp
from data.recipes import report_vlm_heads as heads
from data.recipes.bounds import standard_error
from interp import Model
from interp.task import Record, Task
from interp.tasks import TASKS
from interp.tasks.captions import chair
from interp.tasks.drawing import around, closer, zoom
from interp.tasks.scene import WEAKNESSES

BATCH = 100
SEED = 0
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "existence, random": ("existence", {}),
    "existence, popular": ("existence", {"negatives": "popular"}),
    "existence, adversarial": ("existence", {"negatives": "adversarial"}),
    "colour": ("colour", {}),
    "count": ("count", {}),
    "where": ("where", {}),
}
ZOOMS = (1.5, 2.0, 2.5, 3.0)
CLOSER = "zoomed 2.5 times"  # as far as training goes, on average
Shown = Callable[[Record], Image.Image | None]


def measure(model: Model, count: int = 400) -> dict[str, float]:
    """Every number of the card, by name. Standard errors stand beside the shares."""
    found: dict[str, float] = {}
    for name, (task, settings) in ASKED.items():
        found |= _answered(model, name, held_out(task, count, **settings))
    found |= small_objects(model, held_out("colour", count, small=True))
    for name, rare in (("random", False), ("rare", True)):
        told = held_out("captions", count // 2, rare=rare)
        scores = chair(said(model, told, words=40), [*told])
        found |= {f"captions, {name} scenes, {key}": value for key, value in scores.items()}
        found[f"captions, {name} scenes, chair_s error"] = standard_error(
            scores["chair_s"], len(told)
        )
    found |= heads.measure(model, held_out("existence", count // 2, negatives="adversarial"))
    asked = "existence, adversarial"
    found[f"{asked}, lost without the image"] = found[asked] - found[f"{asked}, blind"]
    gained = found[f"small objects, {CLOSER}"] - found["small objects, whole image"]
    found[f"small objects, gained when {CLOSER}"] = gained
    return found


def held_out(task: str, count: int, **settings: Any) -> Task:
    return TASKS[task](count, "test", SEED, **settings)


def _answered(model: Model, name: str, task: Task) -> dict[str, float]:
    """Accuracy, the same without the image, and for yes and no the F1 and the share of yes."""
    told = said(model, task)
    right = [text == record.answers[0] for text, record in zip(told, task, strict=True)]
    blind = [
        text == record.answers[0]
        for text, record in zip(said(model, task, image=False), task, strict=True)
    ]
    found = {name: share(right), f"{name}, error": standard_error(share(right), len(task))}
    found[f"{name}, blind"] = share(blind)
    if name.startswith("existence"):
        found[f"{name}, says yes"] = share([text == " yes" for text in told])
        found[f"{name}, F1"] = _f1(told, [record.answers[0] for record in task])
    kinds = [_kind(record) for record in task]
    for kind in ("clear", *WEAKNESSES):
        own = [each for each, of in zip(right, kinds, strict=True) if of == kind]
        if own:
            found[f"{name}, {kind}"] = share(own)
    return found


def _kind(record: Record) -> str | None:
    asked = record.notes["asked"]
    return None if asked is None else record.notes["objects"][asked]["kind"]


def _f1(told: Sequence[str], truth: Sequence[str]) -> float:
    hits = sum(a == b == " yes" for a, b in zip(told, truth, strict=True))
    return 2 * hits / max(1, told.count(" yes") + truth.count(" yes"))


def said(
    model: Model,
    task: Task,
    image: bool = True,
    words: int = 3,
    shown: Shown = lambda record: record.image,
) -> list[str]:
    """What the model answers each record, its likeliest word each time."""
    texts: list[str] = []
    for start in range(0, len(task), BATCH):
        part = task[start : start + BATCH]
        images = [[shown(record)] for record in part] if image else None
        prompt = model.encode([record.prompt for record in part], images=images)
        with torch.no_grad():
            out = model.generate(prompt, max_new_tokens=words, do_sample=False)
        texts += model.decode(out, prompt)
    return texts


def small_objects(model: Model, task: Task) -> dict[str, float]:
    """Small objects among others: as they are, and with the image cut down to around them."""
    truth = [record.answers[0] for record in task]
    ways: dict[str, Shown] = {"whole image": lambda record: record.image}
    for times in ZOOMS:
        ways[f"zoomed {times} times"] = partial(closer, times=times)
    ways["zoomed 2.5 times elsewhere"] = _elsewhere(2.5)
    found: dict[str, float] = {}
    for name, shown in ways.items():
        told = said(model, task, shown=shown)
        right = share([a == b for a, b in zip(told, truth, strict=True)])
        found[f"small objects, {name}"] = right
        found[f"small objects, {name}, error"] = standard_error(right, len(task))
    return found


def _elsewhere(times: float) -> Shown:
    """The same around a place that the record's seed picks: what zooming alone does."""

    def shown(record: Record) -> Image.Image:
        image, seed = record.image, record.notes["seed"]
        assert image is not None
        middle = (float(seed % image.width), float(seed // image.width % image.width))
        return zoom(image, around(*middle, image.width / times))

    return shown


def share(right: Sequence[bool]) -> float:
    return sum(right) / len(right)


def main() -> None:
    torch.set_num_threads(1)
    model = interp.load(sys.argv[1] if len(sys.argv) > 1 else "demo-vlm")
    for name, value in measure(model).items():
        sys.stdout.write(f"{name:55} {value:.3f}\n")


if __name__ == "__main__":
    main()
