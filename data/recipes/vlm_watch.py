"""How well demo-vlm answers: on the validation split while it learns, on any task later."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from data.recipes.vlm_batches import ids_of, opening
from data.recipes.vlm_model import pixel_values
from data.recipes.vlm_words import ASSISTANT
from interp.task import Record, Task
from interp.tasks import TASKS
from interp.tasks.captions import chair
from interp.tasks.drawing import closer

BATCH = 200
WATCHED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "random": ("existence", 200, {}),
    "adversarial": ("existence", 300, {"negatives": "adversarial"}),
    "colour": ("colour", 200, {}),
    "count": ("count", 200, {}),
    "where": ("where", 200, {}),
    "small": ("colour", 150, {"small": True}),
    "rare": ("captions", 100, {"rare": True}),
}


def tensor_of(images: Sequence[Image.Image]) -> Tensor:
    return pixel_values(torch.from_numpy(np.stack([np.asarray(image) for image in images])))


def prompt_ids(record: Record, image: bool, said: str = "") -> list[int]:
    return [*opening(image), *ids_of(f" {record.prompt}{ASSISTANT}{said}")]


@torch.no_grad()
def ask(
    model: Any,
    records: Sequence[Record],
    image: bool = True,
    shown: Callable[[Record], Image.Image | None] = lambda record: record.image,
    said: Callable[[Record], str] = lambda record: "",
) -> Tensor:
    """[record, word]: scores of the next word after the prompt and what was `said` of the answer."""
    by_length: dict[int, list[int]] = defaultdict(list)
    prompts = [prompt_ids(record, image, said(record)) for record in records]
    for number, ids in enumerate(prompts):
        by_length[len(ids)].append(number)
    scores = torch.zeros(len(records), model.config.text_config.vocab_size)
    for numbers in by_length.values():
        for start in range(0, len(numbers), BATCH):
            part = numbers[start : start + BATCH]
            inputs = {"input_ids": torch.tensor([prompts[number] for number in part])}
            if image:
                seen = [shown(records[number]) for number in part]
                inputs["pixel_values"] = tensor_of([each for each in seen if each is not None])
            scores[part] = model(**inputs, logits_to_keep=1).logits[:, -1]
    return scores


def correct(model: Any, records: Sequence[Record], **how: Any) -> Tensor:
    """[record]: whether the first answer is what is said, every word of it."""
    answers = [ids_of(record.answers[0]) for record in records]
    right = torch.ones(len(records), dtype=torch.bool)
    words = [record.answers[0].split() for record in records]
    for place in range(max(len(answer) for answer in answers)):
        said = {
            id(record): "".join(f" {word}" for word in own[:place])
            for record, own in zip(records, words, strict=True)
        }
        scores = ask(model, records, said=lambda record, said=said: said[id(record)], **how)
        wanted = torch.tensor([answer[min(place, len(answer) - 1)] for answer in answers])
        over = torch.tensor([place >= len(answer) for answer in answers])
        right &= over | (scores.argmax(-1) == wanted)
    return right


@torch.no_grad()
def captions(model: Any, task: Sequence[Record]) -> list[str]:
    """What the model says of each image, word by word the likeliest."""
    from data.recipes.vlm_words import tokenizer

    reader, said = tokenizer(), []
    for start in range(0, len(task), BATCH):
        part = [*task][start : start + BATCH]
        ids = torch.tensor([prompt_ids(record, True) for record in part])
        pixels = tensor_of([record.image for record in part if record.image is not None])
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels,
            max_new_tokens=40,
            do_sample=False,
        )
        said += reader.batch_decode(out[:, ids.shape[1] :], skip_special_tokens=True)
    return said


class Watch:
    """Accuracies on fixed questions of the validation split."""

    def __init__(self, model: Any):
        self.model = model

    @cached_property
    def tasks(self) -> dict[str, Task]:
        return {
            name: TASKS[task](count=count, split="validation", **settings)
            for name, (task, count, settings) in WATCHED.items()
        }

    def measure(self, captioned: bool = False) -> dict[str, float]:
        tasks = self.tasks
        found = {
            name: _share(correct(self.model, [*tasks[name]])) for name in tasks if name != "rare"
        }
        found["blind"] = _share(correct(self.model, [*tasks["adversarial"]], image=False))
        found["zoomed"] = _share(
            correct(self.model, [*tasks["small"]], shown=partial(closer, times=2.5))
        )
        if captioned:
            found |= chair(captions(self.model, [*tasks["rare"]]), [*tasks["rare"]])
        return found


def _share(right: Tensor) -> float:
    return right.float().mean().item()
