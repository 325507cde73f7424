"""Answers in words against right ones: exact match and token F1, as SQuAD counts them."""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pandas

from interp.evaluation import MEASURES
from interp.evaluation.measure import Measure
from interp.evaluation.scored import Rate, Scored
from interp.evaluation.writing import both
from interp.task import Task

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case, without punctuation, articles and extra white space (SQuAD's evaluation)."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def token_f1(said: str, right: str) -> float:
    """Of the words that both have, counted with repeats; 1 where both are empty."""
    one, other = normalised(said).split(), normalised(right).split()
    if not one or not other:
        return float(one == other)
    shared = sum((Counter(one) & Counter(other)).values())
    return 2 * shared / (len(one) + len(other))


def contains(said: str, right: str) -> bool:
    """Whether the right answer's words stand in what is said, in a row."""
    return f" {normalised(right)} " in f" {normalised(said)} "


def _best(measure: Any, said: str, right: Sequence[str]) -> float:
    return max(float(measure(said, one)) for one in right)


def qa(said: Any, task: Task | None = None) -> Scored:
    """`em` (normalised exact match), `f1` (token F1) and `contains`, by the best of the right answers."""
    given = both(said, task, "qa")
    for place, record in enumerate(given.task):
        if not record.answers:
            raise ValueError(
                f"record {place} has no answers to hold this against: {record.prompt!r}."
            )
    pairs = [(text, record.answers) for text, record in zip(given, given.task, strict=True)]
    columns = {
        "em": [_best(lambda a, b: normalised(a) == normalised(b), *pair) for pair in pairs],
        "f1": [_best(token_f1, *pair) for pair in pairs],
        "contains": [_best(contains, *pair) for pair in pairs],
    }
    table = pandas.DataFrame({"record": range(len(given)), "said": given.texts, **columns})
    rates = {name: Rate.mean(values) for name, values in columns.items()}
    return Scored("qa", "em", table, rates, {**given.protocol})


MEASURES.add("qa", Measure("qa", judge=qa, max_new_tokens=32))
