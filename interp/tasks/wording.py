"""What a generator says: its texts, and the lists that their fields are filled from."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from interp.registry import unknown


@dataclass(frozen=True, eq=False)
class Wording:
    """Texts with fields, and the words of each kind.

    `least` is how many words of a kind one record takes. Words of the kinds in `titled` are said
    with a capital letter too.
    """

    texts: tuple[str, ...]
    words: Mapping[str, Sequence[str]]
    least: Mapping[str, int] = field(default_factory=dict)
    titled: tuple[str, ...] = ()

    def less(self, words: Sequence[str]) -> "Wording":
        """The same without some words."""
        if isinstance(words, str):
            raise TypeError(f"without={words!r}: give a list of words, [{words!r}].")
        return self._less(tuple(words)) if words else self

    @functools.cache  # noqa: B019  wordings live as long as their task, which draws with few lists
    def _less(self, words: tuple[str, ...]) -> "Wording":
        known = {word for kind in self.words.values() for word in kind}
        for word in words:
            if word not in known:
                raise ValueError(unknown("word", word, sorted(known)))
        kept = {kind: [w for w in own if w not in words] for kind, own in self.words.items()}
        for kind, own in kept.items():
            least = self.least.get(kind, 1)
            if len(own) < least:
                raise ValueError(
                    f"of {len(self.words[kind])} words for {kind!r} {len(own)} are left, and a record "
                    f"takes {least} of them: leave out fewer."
                )
        return replace(self, words=kept)


def chosen(
    wordings: Mapping[str, Wording], wording: str = "demo", without: Sequence[str] = ()
) -> Wording:
    """One of a task's wordings by name, without some of its words."""
    if wording not in wordings:
        raise ValueError(unknown("wording", wording, list(wordings)))
    return wordings[wording].less(without)
