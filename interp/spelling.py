"""From token ids back to characters: what each token spells, and where in the text it stands."""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

HALF = "\ufffd"  # what a decoder writes for bytes that do not yet make a character


def places(text: str, part: str) -> list[int]:
    """Where `part` starts in `text`, every time."""
    found, start = [], text.find(part)
    while part and start >= 0:
        found.append(start)
        start = text.find(part, start + 1)
    return found


@dataclass(frozen=True)
class Reading:
    """A row's text, and the start and end in it of each position's characters.

    Positions that stand for no characters of the text (padding, markers) have start == end.
    """

    text: str
    offsets: list[tuple[int, int]]

    def find(self, part: str, nth: int | None = None) -> list[int]:
        """Positions of tokens that overlap `part`, wherever or only the nth time it stands."""
        found = places(self.text, part)
        if nth is not None:
            found = found[nth : nth + 1]
        return [
            position
            for position, (start, end) in enumerate(self.offsets)
            if start < end and any(at < end and start < at + len(part) for at in found)
        ]

    def nearest(self, part: str) -> str | None:
        """The run of words most like `part`, of as many words."""
        words, many = self.text.split(), max(1, len(part.split()))
        runs = [" ".join(words[at : at + many]) for at in range(len(words) - many + 1)]
        return next(iter(difflib.get_close_matches(part, dict.fromkeys(runs), n=1)), None)


def pieces(tokenizer: Any, ids: list[int]) -> Iterator[tuple[str, int]]:
    """What tokens spell, leading space included, and how many of them share it.

    A token is decoded after the one before it, since decoders drop the space of a first word.
    Several tokens share a piece where one character is several of them (bytes).
    """
    cache: dict[tuple[int, ...], str] = {}

    def decode(*part: int) -> str:
        if part not in cache:
            cache[part] = tokenizer.decode(list(part), clean_up_tokenization_spaces=False)
        return cache[part]

    before: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    for place, token in enumerate(ids, start=1):
        waiting += (token,)
        known, told = decode(*before) if before else "", decode(*before, *waiting)
        piece = told[len(known) :] if told.startswith(known) else decode(*waiting)
        if piece.endswith(HALF) and len(waiting) < 4 and place < len(ids):
            continue
        yield piece, len(waiting)
        before, waiting = (token,), ()


def read(tokenizer: Any, ids: list[int], real: list[bool]) -> Reading:
    """The text that a row's real tokens spell; padding is left out."""
    text, offsets = "", []
    for piece, count in pieces(tokenizer, ids):
        if not real[len(offsets)]:
            offsets += [(0, 0)] * count
            continue
        offsets += [(len(text), len(text) + len(piece))] * count
        text += piece
    return Reading(text, offsets)
