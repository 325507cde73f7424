"""What the model says next, against right and wrong answers: one forward a record."""

import time
from typing import TYPE_CHECKING, Any

from interp.evaluation import MEASURES
from interp.evaluation.measure import Measure
from interp.evaluation.scored import Rate, Scored
from interp.evaluation.writing import protocol
from interp.scoring import score
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model


def accuracy(
    model: "Model", task: Task, *, using: Any = None, hooks: Any = (), batch: int = 64
) -> Scored:
    """The share of records whose likeliest next token begins a right answer: `interp.score`, with rates.

    Beside it `probability` of the right answers, and where all are yes or no the `yes_rate`.
    """
    started = time.perf_counter()
    table: Any = score(model, task, using=using, hooks=hooks, batch=batch)
    made = protocol(model, task, using, hooks, time.perf_counter() - started)
    rates = {"accuracy": Rate.mean(table["right"]), "probability": Rate.mean(table["probability"])}
    if all(answer.strip().lower() in ("yes", "no") for one in task for answer in one.answers):
        said = [text.strip().lower() == "yes" for text in table["said"]]
        rates["yes_rate"] = Rate.mean(said, "")
    return Scored("accuracy", "accuracy", table, rates, made | {"reads": "the next token"})


MEASURES.add("accuracy", Measure("accuracy", ask=accuracy))
