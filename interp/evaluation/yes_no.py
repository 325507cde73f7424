"""POPE: does the model say of what is in an image that it is, and of what is not that it is not?"""

import re
from typing import Any

import numpy
import pandas

from interp.evaluation import MEASURES
from interp.evaluation.measure import Measure
from interp.evaluation.scored import Rate, Scored
from interp.evaluation.writing import both
from interp.task import Record, Task


def says_yes(text: str, official: bool = False) -> bool | None:
    """What an answer says: True for yes, False for no, None for neither.

    The first of the words yes and no decides. `official` reads as POPE's code does: the first sentence
    says no if one of its words is "No", "no" or "not" (commas left out), and yes if none is.
    """
    if official:
        first = text.partition(".")[0].replace(",", "")
        return not {"No", "no", "not"} & set(first.split(" "))
    found = re.search(r"\b(yes|no)\b", text.lower())
    return None if found is None else found[1] == "yes"


def pope(said: Any, task: Task | None = None, *, official: bool = False) -> Scored:
    """Accuracy, precision, recall and F1 of yes and no (Li et al. 2023), yes being what is looked for.

    `yes_rate` is the share of yes. An answer with neither word is wrong, and never a yes; `unread` is
    the share of those (with `official` there are none: what says no nowhere is a yes).
    """
    given = both(said, task, "pope")
    wanted = numpy.array([_label(record, place) for place, record in enumerate(given.task)])
    told = [says_yes(text, official) for text in given]
    yes = numpy.array([one is True for one in told])
    unread = numpy.array([one is None for one in told])
    right = (yes == wanted) & ~unread
    hits, misses, false = yes & wanted, ~yes & wanted, yes & ~wanted
    table = pandas.DataFrame(
        {"record": range(len(given)), "right": right, "said": given.texts,
         "read": ["neither" if one is None else "yes" if one else "no" for one in told],
         "label": ["yes" if one else "no" for one in wanted]}
    )  # fmt: skip
    rates = {
        "accuracy": Rate.mean(right),
        "precision": Rate.of(hits, yes, each=right),
        "recall": Rate.of(hits, wanted, each=right),
        "f1": Rate.of(2 * hits, 2 * hits + misses + false, each=right),
        "yes_rate": Rate.mean(yes, ""),
        "unread": Rate.mean(unread, "lower"),
    }
    made = {**given.protocol, "official": official}
    return Scored("pope", "accuracy", table, rates, made)


def _label(record: Record, place: int) -> bool:
    words = {answer.strip().lower() for answer in record.answers}
    if len(words) != 1 or not words <= {"yes", "no"}:
        raise ValueError(
            f"pope asks for yes or no, and the answers of record {place} are {list(record.answers)}."
        )
    return words == {"yes"}


MEASURES.add("pope", Measure("pope", judge=pope, max_new_tokens=16))
