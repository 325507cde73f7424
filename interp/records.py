"""Records on disk: JSONL, one record a line, and images as PNG in a folder beside it.

    {"prompt": "Rome is in", "answer": " Italy", "spans": {"subject": "Rome"}}

`prompt` is all that a row must have. `answer` is `answers` with one in it, a span is its text (the
first place where that stands) or `[start, end]`, and `image` is a file, looked for beside the JSONL
or in `images=`. Formats of others are read as they are: see `interp.formats`.
"""

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from interp.formats import is_classification, own_row, rows_of
from interp.gallery import Album, Gallery
from interp.registry import unknown
from interp.spelling import Reading
from interp.task import Record, Task

TEXTS = ("answers", "wrong", "counterfactual_answers")
SINGLE = {"answer": "answers", "counterfactual_answer": "counterfactual_answers"}
IMAGES = ("image", "counterfactual_image")
KEYS = ("prompt", *SINGLE, *TEXTS, "counterfactual", "spans", "notes", *IMAGES)
EXAMPLE = '{"prompt": "Rome is in", "answer": " Italy"}'


def read(
    path: str | Path,
    images: str | Path | None = None,
    name: str | None = None,
    count: int | None = None,
    labels: Sequence[str] | None = None,
) -> Task:
    """The records of a file, or its first `count`, as a task called after the file.

    `images` is the folder that images are named in; else it is the file's own. `labels` names the classes
    of a file of classified texts, in the order of their numbers; without it those that it names itself.
    """
    path = Path(path)
    gallery = Gallery(path.parent if images is None else Path(images))
    records = []
    rows = list(islice(_rows(path), count))
    labels = _labels([row for _, row in rows]) if labels is None else list(labels)
    for place, row in rows:
        try:
            records.append(_record(own_row(row, labels), gallery))
        except (ValueError, LookupError, OSError) as problem:
            raise _kind(problem)(f"{path}, {place}: {problem}") from problem
    if not records:
        raise ValueError(f"{path} holds no records. A record is a line such as {EXAMPLE}.")
    return Task(name or path.stem, tuple(records), {"file": path.name})


def _labels(rows: list[Any]) -> list[str] | None:
    """The classes that a file names, each once; none where they are numbers."""
    named = [row["label"] for row in rows if is_classification(row)]
    return sorted(set(named)) if named and all(isinstance(one, str) for one in named) else None


def write(task: Task, path: Path) -> Path:
    """Write to a temporary name and rename: a killed run leaves no half of a file."""
    if path.suffix != ".jsonl":
        raise ValueError(f"records are saved as JSONL: {str(path.with_suffix('.jsonl'))!r}?")
    if not len(task):
        raise ValueError(f"the task {task.name!r} has no records to save.")
    for number, record in enumerate(task):
        if not isinstance(record.prompt, str):
            raise TypeError(
                f"record {number} is token ids, and JSONL holds texts: decode it first."
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    with Album(path) as album:
        lines = [_line(record, number, album) for number, record in enumerate(task)]
        part.write_text("".join(lines), encoding="utf-8", newline="\n")
        album.put_in_place()
        part.replace(path)
    return path


def _line(record: Record, number: int, album: Album) -> str:
    row = record.row()
    if not _survives(row):
        raise ValueError(
            f"record {number} would not come back from JSON as it is: notes must be strings, "
            f"numbers, lists and objects with string keys, not {_short(repr(row.get('notes')))}."
        )
    for key, mark in zip(IMAGES, ("", "_counterfactual"), strict=True):
        image = getattr(record, key)
        if image is not None:
            row[key] = album.add(image, f"{number:04d}{mark}.png")
    return json.dumps(row, ensure_ascii=False) + "\n"


def _survives(row: dict[str, Any]) -> bool:
    try:
        return json.loads(json.dumps(row)) == row
    except TypeError:  # something that JSON has no form for
        return False


def _kind(problem: Exception) -> type[Exception]:
    """The class to raise again with the place in the file; some of its kin take other arguments."""
    kinds = (ValueError, LookupError, FileNotFoundError, OSError)
    return next(kind for kind in kinds if isinstance(problem, kind))


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """Each row with its place: of one JSON value, or of a JSON value on each line."""
    text = _text(path)
    whole = None if path.suffix == ".jsonl" else _whole(path, text)
    if whole is not None:
        rows = enumerate(rows_of(whole), start=1)
        yield from ((f"record {number}", row) for number, row in rows)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"line {number}", _json(line, f"{path}, line {number}")


def _whole(path: Path, text: str) -> Any:
    """The one JSON list or object that a file is; None where each line is a value of its own."""
    try:
        return json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
    except json.JSONDecodeError as problem:
        if text.lstrip().startswith("{"):
            return None
        raise ValueError(f"{path}, line {problem.lineno}: not JSON: {problem.msg}.") from None


def _text(path: Path) -> str:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {str(path)!r} to read records from.")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as problem:
        raise ValueError(f"{path} is not text in UTF-8: {problem.reason}.") from None


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as problem:
        raise ValueError(
            f"{place}: not JSON ({problem.msg} at character {problem.colno}): {_short(line)!r}. "
            f"A record is one line such as {EXAMPLE}; a list over many lines goes into a .json file."
        ) from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _record(row: Any, gallery: Gallery) -> Record:
    """A checked row. What is null counts as absent."""
    if not isinstance(row, dict):
        raise ValueError(f"a record is an object such as {EXAMPLE}, not {_short(repr(row))}.")
    row = {key: value for key, value in row.items() if value is not None}
    for key in row:
        if key not in KEYS:
            raise LookupError(f'{unknown("key", key, list(KEYS))} Your own go under "notes".')
    if "prompt" not in row:
        raise ValueError('there is no "prompt". Where the prompt is the image alone, give "".')
    for single, many in SINGLE.items():
        if single in row and many in row:
            raise ValueError(f'"{single}" and "{many}" say the same; give one of them.')
    prompt = _string(row, "prompt")
    return Record(
        prompt=prompt,
        answers=_strings(row, "answers", "answer"),
        wrong=_strings(row, "wrong"),
        counterfactual=_string(row, "counterfactual") if "counterfactual" in row else None,
        counterfactual_answers=_strings(row, "counterfactual_answers", "counterfactual_answer"),
        spans={name: _span(prompt, name, given) for name, given in _object(row, "spans").items()},
        notes=_object(row, "notes"),
        image=gallery.open(_string(row, "image")) if "image" in row else None,
        counterfactual_image=(
            gallery.open(_string(row, "counterfactual_image"))
            if "counterfactual_image" in row
            else None
        ),
    )


def _string(row: dict[str, Any], key: str) -> str:
    if not isinstance(row[key], str):
        raise ValueError(f'"{key}" must be a string, not {row[key]!r}.')
    return row[key]


def _strings(row: dict[str, Any], key: str, single: str = "") -> tuple[str, ...]:
    given = row.get(key, row.get(single, []))
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(each, str) for each in listed):
        used = key if key in row else single
        raise ValueError(f'"{used}" must be a string or a list of strings, not {given!r}.')
    return tuple(listed)


def _object(row: dict[str, Any], key: str) -> dict[str, Any]:
    given = row.get(key, {})
    if not isinstance(given, dict):
        raise ValueError(f'"{key}" must be an object with names, not {given!r}.')
    return given


def _span(prompt: str, name: str, given: Any) -> tuple[int, int]:
    if isinstance(given, str) and given:
        start = prompt.find(given)
        if start >= 0:
            return start, start + len(given)
        near = Reading(prompt, []).nearest(given)
        guess = f" Did you mean {near!r}?" if near else ""
        raise ValueError(f"span {name!r} is {given!r}, which the prompt does not contain.{guess}")
    if isinstance(given, list) and len(given) == 2 and all(type(edge) is int for edge in given):
        return given[0], given[1]
    raise ValueError(
        f"span {name!r} must be a text of the prompt, or [start, end] in characters, not {given!r}."
    )
