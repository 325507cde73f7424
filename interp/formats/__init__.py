"""Files that people have on disk already, told by their keys and turned into rows of ours.

{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}   POPE
{"prompt": "Rome is in", "subject": "Rome", "attribute": "Italy", ...}             known facts
["Q: What color is the pen?\\nA:", " Blue"]                                         pairs

Questions about a context (SQuAD, HotpotQA, plain rows) are in `open_book`, multiple choice (ARC, MMLU,
HellaSwag) and classification in `choices`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from interp.formats.choices import classified, endings, lettered
from interp.formats.open_book import about_context, about_documents, paragraphs

Row = dict[str, Any]


def own_row(row: Any, labels: Sequence[str] | None = None) -> Any:
    """A row as `interp.records` writes it; one of no known format is given back as it is.

    `labels` names the classes of rows that number them, and is told to no other format.
    """
    for is_format, turn in _FORMATS:
        if is_format(row):
            return turn(row)
    return classified(row, labels) if is_classification(row) else row


def rows_of(whole: Any) -> list[Any]:
    """The rows of a file that is one JSON value: a list, SQuAD's nested articles, or one row."""
    if isinstance(whole, list):
        return whole
    if isinstance(whole, dict) and isinstance(whole.get("data"), list):
        data = whole["data"]
        nested = all(isinstance(one, dict) and "paragraphs" in one for one in data)
        return paragraphs(data) if data and nested else data
    return [whole]


def is_classification(row: Any) -> bool:
    """Whether a row is a text with its label."""
    return _has("sentence", "label")(row) or _has("text", "label")(row)


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda row: (
        isinstance(row, dict) and all(key in row for key in keys) and "prompt" not in row
    )


def _is_fact(row: Any) -> bool:
    return isinstance(row, dict) and {"prompt", "subject", "attribute"} <= row.keys()


def _is_pope(row: Any) -> bool:
    if _has("image", "question", "answer")(row):  # as the data sets library holds it
        return str(row["answer"]).strip().lower() in ("yes", "no")
    return _has("question_id", "text", "label")(row) or _has("image", "text", "label")(row)


def _is_lettered(row: Any) -> bool:
    """Multiple choice: `choices` beside the question or inside it, or `options`."""
    if not isinstance(row, dict) or "prompt" in row:
        return False
    question = row.get("question", row.get("question_stem"))
    inside = isinstance(question, dict) and "choices" in question
    return inside or (question is not None and ("choices" in row or "options" in row))


def _is_documents(row: Any) -> bool:
    return _has("question", "answer", "context", "supporting_facts")(row)


def _is_about_context(row: Any) -> bool:
    return _has("question", "context", "answers")(row) or _has("question", "context", "answer")(row)


def _rest(row: Row, *used: str) -> Row:
    return {key: value for key, value in row.items() if key not in used}


def _pope(row: Row) -> Row:
    """A question about one object in an image: answered by yes or no."""
    asked, said = ("text", "label") if "text" in row else ("question", "answer")
    label = str(row[said]).strip().lower()
    if label not in ("yes", "no"):
        raise ValueError(f"the label of a POPE question is 'yes' or 'no', not {row[said]!r}.")
    return {
        "prompt": row[asked],
        "answers": [f" {label}"],
        "wrong": [" no" if label == "yes" else " yes"],
        "image": row.get("image"),
        "notes": _rest(row, asked, said, "image"),
    }


def _fact(row: Row) -> Row:
    """A prompt about a subject, as causal tracing uses them."""
    return {
        "prompt": row["prompt"],
        "answers": [f" {row['attribute']}"],
        "spans": {"subject": row["subject"]},
        "notes": _rest(row, "prompt", "subject", "attribute"),
    }


def _is_pair(row: Any) -> bool:
    return isinstance(row, list) and len(row) == 2 and all(isinstance(part, str) for part in row)


def _pair(row: list[str]) -> Row:
    """A prompt and its answer, as the Colored Objects prompts come."""
    prompt, answer = row
    return {"prompt": prompt, "answers": [answer]}


_FORMATS: list[tuple[Callable[[Any], bool], Callable[[Any], Row]]] = [
    (_is_pope, _pope),
    (_is_fact, _fact),
    (_is_pair, _pair),
    (_is_lettered, lettered),
    (_has("ctx", "endings", "label"), endings),
    (_is_documents, about_documents),
    (_is_about_context, about_context),
]
