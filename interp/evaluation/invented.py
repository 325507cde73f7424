"""CHAIR: objects that a caption names and the image does not show."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from interp.evaluation import MEASURES
from interp.evaluation.measure import Measure
from interp.evaluation.scored import Rate, Scored, quotient
from interp.evaluation.synonyms import Synonyms
from interp.evaluation.wording import repetition, whole_sentences, words
from interp.evaluation.writing import both
from interp.task import Record, Task

RUN = 4  # words that repeat together


def chair(
    said: Any,
    task: Task | None = None,
    *,
    synonyms: Synonyms | None = None,
    objects: Mapping[Any, Sequence[str]] | Sequence[Sequence[str]] | None = None,
    whole: bool = False,
) -> Scored:
    """Hallucination in captions after Rohrbach et al. 2018, and what keeps it honest: recall, length.

    `chair_s` is the share of captions that name an object which is not there, `chair_i` the share of such
    mentions among all mentions of objects, as the published code counts them. Papers differ: some count an
    object once a caption (`chair_i_unique`), and the paper of FCCT and IRI (arXiv 2511.05923) has the two
    definitions change places in its text. `recall` is the share of objects in the images that are named,
    `f1` joins it with precision over objects. `words` is the mean length, `repetition` the mean share of
    runs of 4 words that stood in the caption before, `cut` the share of captions that reached the limit.

    What an image shows is `objects`, by record or by the record's note `image_id` or `image`; else the
    record's note `present`, or the shapes of its `objects`. `whole` drops a last sentence without an end
    (the published code does not). `synonyms` are those of the shipped shapes, unless given.
    """
    given, known = both(said, task, "chair"), synonyms or Synonyms.shapes()
    texts = [whole_sentences(text) for text in given] if whole else list(given)
    rows = []
    for place, (text, record) in enumerate(zip(texts, given.task, strict=True)):
        shown = {known.category(name) for name in _shown(record, place, objects)}
        rows.append(_row(place, text, known.mentioned(text), shown))
    table: Any = pandas.DataFrame(rows)
    table["cut"] = [not over for over in given.ended] if given.ended else False
    made = {
        **given.protocol,
        "synonyms": known.name,
        "synonyms digest": known.digest,
        "whole": whole,
    }
    return Scored("chair", "chair_s", _readable(table), _rates(table), made)


def _row(place: int, text: str, told: list[str], shown: set[str]) -> dict[str, Any]:
    invented = [one for one in told if one not in shown]
    return {
        "record": place, "said": text, "named": told, "invented": invented,
        "missed": sorted(shown - set(told)), "mentions": len(told), "wrong": len(invented),
        "distinct": len(set(told)), "distinct_wrong": len(set(invented)), "present": len(shown),
        "found": len(shown & set(told)), "words": len(words(text)), "repetition": repetition(text, RUN),
    }  # fmt: skip


def _rates(table: Any) -> dict[str, Rate]:
    count = {name: table[name].to_numpy(dtype=float) for name in table if name not in _LISTS}
    found, named, there = count["found"], count["distinct"], count["present"]
    return {
        "chair_s": Rate.mean(count["wrong"] > 0, "lower"),
        "chair_i": Rate.of(count["wrong"], count["mentions"], "lower"),
        "chair_i_unique": Rate.of(count["distinct_wrong"], named, "lower"),
        "recall": Rate.of(found, there),
        "f1": Rate.of(2 * found, named + there, each=quotient(2 * found, named + there)),
        "words": Rate.mean(count["words"], ""),
        "repetition": Rate.mean(count["repetition"], "lower"),
        "cut": Rate.mean(count["cut"], "lower"),
    }


_LISTS = ("record", "said", "named", "invented", "missed")


def _readable(table: Any) -> Any:
    """Lists of objects as text, which every file format holds."""
    listed = {name: table[name].map(", ".join) for name in ("named", "invented", "missed")}
    return table.assign(**listed)


def _shown(record: Record, place: int, objects: Any) -> Sequence[str]:
    """The names of what the image of a record shows."""
    if objects is None:
        if "present" in record.notes:
            return record.notes["present"]
        if "objects" in record.notes:
            return [one["shape"] for one in record.notes["objects"]]
        raise ValueError(
            f"nothing says what the image of record {place} shows: give objects=, or notes 'present', lists "
            "of names, as interp.evaluation.coco_task does of COCO's annotations."
        )
    if not isinstance(objects, Mapping):
        if place >= len(objects):
            raise ValueError(f"objects= names {len(objects)} images, and there are more records.")
        return objects[place]
    for name in ("image_id", "image"):
        if record.notes.get(name) in objects:
            return objects[record.notes[name]]
    raise LookupError(
        f"objects= has nothing of record {place}: its notes say image_id={record.notes.get('image_id')!r}, "
        f"image={record.notes.get('image')!r}."
    )


MEASURES.add("chair", Measure("chair", judge=chair, max_new_tokens=512))
