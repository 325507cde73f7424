"""Questions with the answers to choose from, and texts to be classified.

{"question": "2 + 2 =", "choices": ["3", "4"], "answer": 1}                          MMLU; `options` too
{"question": {"stem": ..., "choices": [{"text", "label"}, ...]}, "answerKey": "B"}   ARC, as published
{"question": ..., "choices": {"text": [...], "label": [...]}, "answerKey": "B"}      ARC, by row
{"ctx": "She opens the", "endings": ["door.", "sea."], "label": 0}                   HellaSwag
{"sentence": "A fine film.", "label": "positive"}                                    classes; `text` too

Choices are written under the question with a letter each, and a letter answers; endings and labels are
written out themselves. The other choices are the record's wrong answers.
"""

import string
from collections.abc import Sequence
from typing import Any

Row = dict[str, Any]


def lettered(row: Row) -> Row:
    """A question with its choices under it, answered by the letter."""
    stem, texts, letters = _asked(row)
    if len(texts) < 2 or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"a question offers at least two choices, each a text, not {texts!r}.")
    right = _chosen(row, texts, letters)
    lines = [f"{letter}. {text}" for letter, text in zip(letters, texts, strict=True)]
    used = {"question", "question_stem", "choices", "options", "answer", "answerKey", "answer_idx"}
    return {
        "prompt": "\n".join([stem, *lines, "Answer:"]),
        "answers": [f" {letters[right]}"],
        "wrong": [f" {letter}" for at, letter in enumerate(letters) if at != right],
        "notes": _rest(row, used) | {"choices": texts, "right": right},
    }


def endings(row: Row) -> Row:
    """A beginning and several ways to go on."""
    given = row["endings"]
    if not isinstance(given, list) or len(given) < 2:
        raise ValueError(f"'endings' are at least two texts, not {given!r}.")
    right = _number(row["label"], len(given))
    if right is None:
        raise ValueError(
            f"the label {row['label']!r} is none of the {len(given)} endings, counted from 0 (the public "
            "test split has none)."
        )
    written = [f" {one.strip()}" for one in given]
    return {
        "prompt": row["ctx"].rstrip(),
        "answers": [written[right]],
        "wrong": [one for at, one in enumerate(written) if at != right],
        "notes": _rest(row, {"ctx", "endings", "label"}) | {"choices": given, "right": right},
    }


def classified(row: Row, labels: Sequence[str] | None) -> Row:
    """A text and the name of its class, after an instruction where the row has one."""
    key = "sentence" if "sentence" in row else "text"
    label = row["label"]
    number = None if isinstance(label, str) else _number(label, len(labels or ()))
    if labels is None and not isinstance(label, str):
        raise ValueError(
            f"the label {label!r} has no name: Task.load(path, labels=['negative', 'positive']) names them "
            "in their order."
        )
    name = label if isinstance(label, str) else None if number is None else (labels or ())[number]
    if name is None or (labels is not None and name not in labels):
        raise ValueError(f"the label {label!r} is none of labels={list(labels or ())}.")
    before = f"{row['instruction']}\n" if row.get("instruction") else ""
    return {
        "prompt": f"{before}{key.capitalize()}: {row[key]}\nLabel:",
        "answers": [f" {name}"],
        "wrong": [f" {other}" for other in labels or () if other != name],
        "notes": _rest(row, {key, "label", "instruction"}),
    }


def _asked(row: Row) -> tuple[str, list[Any], list[str]]:
    """The question in words, its choices, and their letters."""
    question = row.get("question", row.get("question_stem"))
    inside = question if isinstance(question, dict) else {}
    stem = inside.get("stem", question)
    given = inside.get("choices", row.get("choices", row.get("options")))
    if isinstance(given, dict) and "text" in given:
        given = [{"text": text, "label": label} for text, label in
                 zip(given["text"], given["label"], strict=True)]  # fmt: skip
    elif isinstance(given, dict):
        given = [{"text": text, "label": letter} for letter, text in given.items()]
    if not isinstance(stem, str) or not isinstance(given, list) or len(given) > 26:
        raise ValueError(
            f"a question is a text with at most 26 choices, not {question!r} with {given!r}."
        )
    if given and all(isinstance(one, dict) and {"text", "label"} <= one.keys() for one in given):
        return stem, [one["text"] for one in given], [str(one["label"]) for one in given]
    return stem, given, list(string.ascii_uppercase[: len(given)])


def _chosen(row: Row, texts: list[str], letters: list[str]) -> int:
    """Which choice is right: said by its letter, its number from 0, or its text."""
    given = next((row[key] for key in ("answerKey", "answer_idx", "answer") if key in row), None)
    if isinstance(given, str):
        for listed in (letters, texts):
            if listed.count(given.strip()) == 1:
                return listed.index(given.strip())
    elif (number := _number(given, len(texts))) is not None:
        return number
    raise ValueError(
        f"the right answer {given!r} is no letter of {letters}, no number below {len(texts)} and none of "
        "the choices."
    )


def _number(given: Any, count: int) -> int | None:
    """A place counted from 0; digits in quotes are one too."""
    number = int(given) if isinstance(given, str) and given.strip().isdigit() else given
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return number if 0 <= number < count else None


def _rest(row: Row, used: set[str]) -> Row:
    return {key: value for key, value in row.items() if key not in used and value is not None}
