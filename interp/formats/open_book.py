"""Questions with the text that answers them: SQuAD, HotpotQA, and plain rows.

{"question": "Who wrote it?", "context": "Ann wrote it. Bo read it.", "answers": ["Ann"]}   plain
{"id": ..., "question", "context", "answers": {"text": [...], "answer_start": [...]}}       SQuAD, by row
{"version": "1.1", "data": [{"title", "paragraphs": [{"context", "qas": [...]}]}]}          SQuAD, whole
{"question", "answer", "context": [[title, [sentence, ...]], ...], "supporting_facts": [[title, 0], ...]}

The prompt is `Context: ... Q: ... A:`, with the spans `context` and `question`. Where the file says what
supports the answer, the sentence is the span `key`; further ones are `key 1`, `key 2`, ...
"""

import re
from typing import Any

Row = dict[str, Any]

_START, _ASKED, _END = "Context: ", " Q: ", " A:"
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")


def paragraphs(data: list[Row]) -> list[Row]:
    """SQuAD's articles as plain rows, a row a question."""
    return [
        {**asked, "context": part.get("context"), "title": article.get("title")}
        for article in data
        for part in article["paragraphs"]
        for asked in part.get("qas", [])
    ]


def about_context(row: Row) -> Row:
    """A question, one context, and one or more right answers."""
    question, context = _words(row, "question"), _words(row, "context")
    given = row["answers"] if "answers" in row else row["answer"]
    texts, starts = _answers(given)
    if not texts:
        raise ValueError(
            f"the question {question!r} has no answer (SQuAD 2 holds such ones): leave it out of the file."
        )
    lead = len(context) - len(context.lstrip())
    keys = [_sentence(context.strip(), starts[0] - lead)] if starts else []
    used = {"question", "context", "answers", "answer"}
    return _written(context.strip(), question, texts, keys) | {"notes": _rest(row, used)}


def about_documents(row: Row) -> Row:
    """A question over titled documents, a paragraph each, and the sentences that support its answer."""
    question, text = _words(row, "question"), ""
    places: dict[tuple[str, int], tuple[int, int]] = {}
    documents: list[tuple[int, int]] = []
    for title, sentences in _documents(row["context"]):
        text += "\n\n" if text else ""
        start = len(text)
        text += f"{title}:"
        for number, sentence in enumerate(sentences):
            places[title, number] = (len(text) + 1, len(text) + 1 + len(sentence.strip()))
            text += f" {sentence.strip()}"
        documents.append((start, len(text)))
    facts = _columns(row["supporting_facts"], "title", "sent_id")
    # Some of the public questions count one sentence too many.
    keys = [places[title, number] for title, number in facts if (title, number) in places]
    made = _written(text, question, _answers(row["answer"])[0], keys)
    named = {f"document {at}": _moved(place) for at, place in enumerate(documents)}
    used = {"question", "answer", "context", "supporting_facts"}
    return made | {"spans": made["spans"] | named, "notes": _rest(row, used)}


def _written(context: str, question: str, answers: list[str], keys: list[tuple[int, int]]) -> Row:
    asked = len(_START) + len(context) + len(_ASKED)
    spans = {
        "context": [len(_START), len(_START) + len(context)],
        "question": [asked, asked + len(question)],
    }
    for at, place in enumerate(dict.fromkeys(keys)):
        spans["key" if at == 0 else f"key {at}"] = _moved(place)
    return {
        "prompt": f"{_START}{context}{_ASKED}{question}{_END}",
        "answers": list(dict.fromkeys(f" {answer.strip()}" for answer in answers)),
        "spans": {name: span for name, span in spans.items() if span[0] < span[1]},
    }


def _moved(place: tuple[int, int]) -> list[int]:
    """From characters of the context to those of the prompt."""
    return [place[0] + len(_START), place[1] + len(_START)]


def _answers(given: Any) -> tuple[list[str], list[int]]:
    """Right answers in words, and where the first of each stands in the context, if that is said."""
    if isinstance(given, str):
        return [given], []
    if isinstance(given, dict) and "text" in given:
        texts, starts = given["text"], given.get("answer_start", [])
        listed = [texts] if isinstance(texts, str) else list(texts)
        return listed, [starts] if isinstance(starts, int) else list(starts)
    if isinstance(given, list) and all(isinstance(one, str) for one in given):
        return list(given), []
    if isinstance(given, list) and all(isinstance(one, dict) and "text" in one for one in given):
        starts = [one["answer_start"] for one in given if "answer_start" in one]
        return [one["text"] for one in given], starts
    raise ValueError(f"answers are a text, texts, or SQuAD's objects with a 'text', not {given!r}.")


def _sentence(context: str, place: int) -> tuple[int, int]:
    """The sentence that holds a character."""
    if not 0 <= place < len(context):
        raise ValueError(f"answer_start is {place}, and the context has {len(context)} characters.")
    start = 0
    for end in _SENTENCE_END.finditer(context):
        if end.start() > place:
            return start, end.start()
        start = end.end()
    return start, len(context)


def _documents(given: Any) -> list[tuple[str, list[str]]]:
    """Titles with their sentences, as pairs or as two columns."""
    found = _columns(given, "title", "sentences")
    if not found or not all(isinstance(lines, list) for _, lines in found):
        raise ValueError(
            f"the context of a question over documents is [[title, [sentence, ...]], ...], not {given!r}."
        )
    return found


def _columns(given: Any, first: str, second: str) -> list[tuple[Any, Any]]:
    """Pairs, given as pairs or as an object of two lists."""
    if isinstance(given, dict) and first in given and second in given:
        return list(zip(given[first], given[second], strict=True))
    if isinstance(given, list) and all(isinstance(one, list) and len(one) == 2 for one in given):
        return [(one, other) for one, other in given]
    raise ValueError(f"expected [[{first}, {second}], ...] or two lists of them, not {given!r}.")


def _words(row: Row, key: str) -> str:
    if not isinstance(row[key], str) or not row[key].strip():
        raise ValueError(f'"{key}" must be a text, not {row[key]!r}.')
    return row[key]


def _rest(row: Row, used: set[str]) -> Row:
    return {key: value for key, value in row.items() if key not in used and value is not None}
