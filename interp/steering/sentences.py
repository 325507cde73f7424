"""Sentences of a text, and which of them a model means by what it wrote."""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

Encoder = Callable[[list[str]], Any]  # texts -> [text, number], a tensor or an array

# After a mark of the end, with the quotes and brackets that close on it, before a space: so 3.5 stays whole.
_END = re.compile(r"(?<=[.!?])[\"'\u2019\u201d)\]]*\s+|(?<=[\u3002\uff01\uff1f])\s*|\n\s*\n\s*")
_PARAGRAPH = re.compile(r"\n\s*\n\s*")
_WORD = re.compile(r"\w+")
ALIKE = 0.5  # a piece of what was written that shares so much with a sentence means it
_LEAST = 2  # words that stand for a sentence when they are a part of it


class Match(NamedTuple):
    """Which sentence; how it was found ("exact", "part", "words", "encoder"); how alike, to 1."""

    place: int
    how: str
    score: float


def split(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence in the text, the spaces around them left out."""
    return _between(_END, text)


def paragraphs(text: str) -> list[tuple[int, int]]:
    """Start and end of each stretch between blank lines."""
    return _between(_PARAGRAPH, text)


def _between(ends: re.Pattern[str], text: str) -> list[tuple[int, int]]:
    found, start = [], 0
    for stop in [*(match.end() for match in ends.finditer(text)), len(text)]:
        part = text[start:stop]
        if part.strip():
            left = start + len(part) - len(part.lstrip())
            found.append((left, left + len(part.strip())))
        start = stop
    return found


def closest(output: str, sentences: Sequence[str], encoder: Encoder | None = None) -> Match | None:
    """The sentence that an output means; None where it says nothing.

    One that stands in the output, the first if several do; else the only one that a sentence of the output
    is a part of; else by the encoder's cosine, and without an encoder by shared words: of the first sentence
    written that shares half, or of the one that shares most.
    """
    if not sentences:
        raise ValueError("there are no sentences to choose from.")
    said = _plain(output)
    if not _WORD.search(said):
        return None
    plain = [_plain(sentence) for sentence in sentences]
    standing = [(said.find(one), -len(one), index) for index, one in enumerate(plain)]
    if inside := sorted(each for each in standing if each[0] >= 0):
        return Match(inside[0][2], "exact", 1.0)
    pieces = [
        _plain(line[start:stop]).strip("\"' ")
        for line in output.splitlines()
        for start, stop in split(line)
    ]
    for piece in pieces:
        around = [index for index, one in enumerate(plain) if piece in one]
        if len(around) == 1 and len(_WORD.findall(piece)) >= _LEAST:
            return Match(around[0], "part", len(piece) / len(plain[around[0]]))
        if encoder is None and (match := _by_words(piece, plain)).score >= ALIKE:
            return match
    if encoder is not None:
        return _by_encoder(output, sentences, encoder)
    return max((_by_words(piece, plain) for piece in pieces), key=lambda match: match.score)


def _plain(text: str) -> str:
    return " ".join(text.split())


def _by_words(piece: str, sentences: Sequence[str]) -> Match:
    """By the F1 of shared words; among equals, and where none is shared, by the likeness of characters."""
    shared = [shared_words(piece, one) for one in sentences]
    alike = [difflib.SequenceMatcher(None, piece, one).ratio() for one in sentences]
    index = max(range(len(sentences)), key=lambda each: (shared[each], alike[each], -each))
    return Match(index, "words", shared[index])


def shared_words(one: str, other: str) -> float:
    """F1 of the words of two texts, whatever their case and marks."""
    left, right = (Counter(_WORD.findall(text.lower())) for text in (one, other))
    common = (left & right).total()
    return 2 * common / (left.total() + right.total()) if common else 0.0


def _by_encoder(output: str, sentences: Sequence[str], encoder: Encoder) -> Match:
    vectors = torch.as_tensor(encoder([output, *sentences]))
    if vectors.ndim != 2 or len(vectors) != len(sentences) + 1:
        raise ValueError(
            f"encoder= gives one vector a text, [{len(sentences) + 1}, numbers], not {tuple(vectors.shape)}."
        )
    vectors = torch.nn.functional.normalize(vectors.double(), dim=-1)
    alike: Tensor = vectors[1:] @ vectors[0]
    index = int(alike.argmax())
    return Match(index, "encoder", float(alike[index]))


def check_encoder(given: Any) -> None:
    if given is not None and not isinstance(given, str) and not callable(given):
        raise TypeError(
            f"encoder={given!r}: a function texts -> [text, number], or the name of a sentence-transformers "
            "model."
        )


def encoder_of(given: Any) -> Encoder | None:
    """A function as it is, or the sentence-transformers model of that name."""
    if not isinstance(given, str):
        return given
    try:
        from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError(
            f"encoder={given!r} needs the package sentence-transformers (pip install sentence-transformers); "
            "or give a function texts -> [text, number], or leave it out: words are compared then."
        ) from None
    return SentenceTransformer(given).encode
