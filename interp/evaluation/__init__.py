"""How well a model does: what it says next, what it writes, what it chooses, each with the protocol of it.

    from interp.evaluation import MEASURES, answers, pope
    scored = pope(answers(model, task, using=PAI(), max_new_tokens=8))
    scored.values, scored.table, scored.protocol
    MEASURES["pope"](model, task, using=PAI())  # the same in one call

A file here holds one measure and ends in `MEASURES.add(...)`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from interp.registry import Registry

if TYPE_CHECKING:
    from interp.evaluation.choosing import choice as choice
    from interp.evaluation.coco import coco_objects as coco_objects
    from interp.evaluation.coco import coco_task as coco_task
    from interp.evaluation.controls import Bias as Bias
    from interp.evaluation.controls import random_heads as random_heads
    from interp.evaluation.controls import tuned_bias as tuned_bias
    from interp.evaluation.invented import chair as chair
    from interp.evaluation.measure import Measure
    from interp.evaluation.next_token import accuracy as accuracy
    from interp.evaluation.open_book import qa as qa
    from interp.evaluation.scored import Rate as Rate
    from interp.evaluation.scored import Scored as Scored
    from interp.evaluation.synonyms import Synonyms as Synonyms
    from interp.evaluation.writing import Answers as Answers
    from interp.evaluation.writing import answers as answers
    from interp.evaluation.yes_no import pope as pope

MEASURES: "Registry[Measure]" = Registry("measure", "interp.evaluation")

_HOME = {
    "Answers": "writing",
    "Bias": "controls",
    "Rate": "scored",
    "Scored": "scored",
    "Synonyms": "synonyms",
    "accuracy": "next_token",
    "answers": "writing",
    "chair": "invented",
    "choice": "choosing",
    "coco_objects": "coco",
    "coco_task": "coco",
    "pope": "yes_no",
    "qa": "open_book",
    "random_heads": "controls",
    "tuned_bias": "controls",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"interp.evaluation.{_HOME[name]}"), name)
    raise AttributeError(f"module 'interp.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
