"""Files that people have on disk already, told by their keys and turned into rows of ours.

{"question_id": 1, "image": "a.jpg", "text": "Is there a dog?", "label": "yes"}   POPE
{"prompt": "Rome is in", "subject": "Rome", "attribute": "Italy", ...}             known facts
["Q: What color is the pen?\\nA:", " Blue"]                                         pairs
"""

from collections.abc import Callable
from typing import Any

Row = dict[str, Any]


def own_row(row: Any) -> Any:
    """A row as `interp.records` writes it; one of no known format is given back as it is."""
    for is_format, turn in _FORMATS:
        if is_format(row):
            return turn(row)
    return row


def _has(*keys: str) -> Callable[[Any], bool]:
    return lambda row: isinstance(row, dict) and all(key in row for key in keys)


def _rest(row: Row, *used: str) -> Row:
    return {key: value for key, value in row.items() if key not in used}


def _pope(row: Row) -> Row:
    """A question about one object in an image: answered by yes or no."""
    label = str(row["label"]).strip().lower()
    if label not in ("yes", "no"):
        raise ValueError(f"the label of a POPE question is 'yes' or 'no', not {row['label']!r}.")
    return {
        "prompt": row["text"],
        "answers": [f" {label}"],
        "wrong": [" no" if label == "yes" else " yes"],
        "image": row.get("image"),
        "notes": _rest(row, "text", "label", "image"),
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
    (_has("question_id", "text", "label"), _pope),
    (_has("prompt", "subject", "attribute"), _fact),
    (_is_pair, _pair),
]
