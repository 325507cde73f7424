"""Words of a text: counted, in the singular, repeated, cut off."""

import re
from collections.abc import Sequence

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)?")
_STOP = re.compile(r"[.!?][\"'”’)\]]*(?=\s|$)")
_MARK = re.compile(r"[.,;:!?()\[\]\"“”\n]+")
_IRREGULAR = {
    "people": "person", "children": "child", "feet": "foot", "teeth": "tooth", "geese": "goose",
    "mice": "mouse", "oxen": "ox", "dice": "die",
}  # fmt: skip


def words(text: str) -> list[str]:
    """Lower-case words; hyphens part them, apostrophes do not."""
    return _WORD.findall(text.lower())


def clauses_of(text: str) -> list[str]:
    """Parts of a text between marks: a name does not go on behind a comma."""
    return _MARK.split(text)


def singulars(word: str) -> list[str]:
    """The word, and what it may be the plural of, likelier ones first.

    More than one, because endings do not tell: glasses are of a glass, vases of a vase.
    """
    word = re.sub(r"['’]s?$", "", word)
    found = [word]
    if word in _IRREGULAR:
        found.append(_IRREGULAR[word])
    if word.endswith("men"):
        found.append(f"{word[:-3]}man")
    if word.endswith("ies") and len(word) > 4:
        found.append(f"{word[:-3]}y")
    if word.endswith("ves"):
        found += [f"{word[:-3]}f", f"{word[:-3]}fe"]
    if word.endswith("es") and len(word) > 3:
        found += [word[:-1], word[:-2]]
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 2:
        found.append(word[:-1])
    return list(dict.fromkeys(found))


def repetition(text: str, size: int = 4) -> float:
    """The share of a text's runs of `size` words that have stood in it before; 0 of a shorter text."""
    if size < 1:
        raise ValueError(f"size={size}: a run has at least one word.")
    told = words(text)
    runs = [tuple(told[at : at + size]) for at in range(len(told) - size + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def whole_sentences(text: str) -> str:
    """The text without a last sentence that has no end; as it is where no sentence ends."""
    stops = list(_STOP.finditer(text))
    return text[: stops[-1].end()] if stops else text


def runs_of(told: Sequence[str], longest: int) -> list[list[tuple[str, ...]]]:
    """At each word, the runs that start there as they may be meant, longer ones first."""
    forms = [singulars(word) for word in told]
    found = []
    for at in range(len(told)):
        runs: list[list[tuple[str, ...]]] = [[(form,) for form in forms[at]]]
        for more in forms[at + 1 : at + longest]:
            runs.append([(*run, form) for run in runs[-1] for form in more])
        found.append([run for same in reversed(runs) for run in same])
    return found
