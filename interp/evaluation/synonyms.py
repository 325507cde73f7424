"""Which words mean which object: a table with a name and a digest, since scores hang on it."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from importlib.resources import files
from pathlib import Path

from interp.evaluation.wording import clauses_of, runs_of, words

# Of COCO's list, as the published code reads captions: the young of animals are no people, and a train
# for passengers carries none that are seen.
_ANIMALS = (
    "bird", "cat", "dog", "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "animal", "cub",
)  # fmt: skip
COCO = {f"{age} {animal}": animal for animal in _ANIMALS for age in ("baby", "adult")} | {
    "passenger jet": "jet",
    "passenger train": "train",
    "toilet seat": "toilet",
    "home plate": "",
}
COCO_BESIDE = {"seat": "toilet"}
COCO_CATEGORIES = 80


@dataclass(frozen=True)
class Synonyms:
    """`lines` holds a tuple for each object, its category first, then what else it is called.

        Synonyms.load("synonyms.txt")  # the public format: a line an object, words parted by commas

    `compounds` are phrases that stand for another word ("baby bird" for "bird"), or for none (""). A word of
    `beside` does not count in a text that also has the word given for it.
    """

    name: str
    lines: tuple[tuple[str, ...], ...]
    compounds: Mapping[str, str] = field(default_factory=dict, hash=False)
    beside: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for line in self.lines:
            if not line or not all(isinstance(word, str) and words(word) for word in line):
                raise ValueError(
                    f"a line names an object and what else it is called, not {line!r}."
                )
            for word in line:
                if seen.setdefault(word, line[0]) != line[0]:
                    raise ValueError(
                        f"{word!r} is both {seen[word]!r} and {line[0]!r}: a word means one object."
                    )
        if not self.lines:
            raise ValueError(f"the synonyms {self.name!r} name no object.")

    @classmethod
    def load(
        cls, path: str | Path, name: str | None = None, compounds: Mapping[str, str] | None = None
    ) -> "Synonyms":
        """A file of the public format. COCO's 80 categories bring the compounds of the published code."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {str(path)!r} of synonyms.")
        return cls._of(path.read_text(encoding="utf-8-sig"), name or path.stem, compounds)

    @classmethod
    def shapes(cls) -> "Synonyms":
        """Those of the shipped scenes; their plurals are understood anyway."""
        text = (files("interp.evaluation") / "shapes.txt").read_text(encoding="utf-8")
        return cls._of(text, "shapes 1", None)

    @classmethod
    def _of(cls, text: str, name: str, compounds: Mapping[str, str] | None) -> "Synonyms":
        split = [[word.strip().lower() for word in line.split(",")] for line in text.splitlines()]
        lines = tuple(tuple(dict.fromkeys(filter(None, line))) for line in split if any(line))
        coco = len(lines) == COCO_CATEGORIES and {"hair drier", "toilet"} <= {
            one[0] for one in lines
        }
        more = (COCO if coco else {}) if compounds is None else compounds
        return cls(name, lines, more, COCO_BESIDE if coco and compounds is None else {})

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(line[0] for line in self.lines)

    @property
    def digest(self) -> str:
        """Equal for equal tables, whatever they are called."""
        parts = [self.lines, sorted(self.compounds.items()), sorted(self.beside.items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def mentioned(self, text: str) -> list[str]:
        """The category of every mention of an object, in their order, repeats included.

        Longer names win ("hot dog" is no dog), within the marks of a sentence, and plurals count as what
        they are of.
        """
        clauses = [runs_of(words(clause), self._longest) for clause in clauses_of(text)]
        hidden = {word for word, other in self.beside.items()
                  if any((other,) in starting for runs in clauses for starting in runs)}  # fmt: skip
        return [name for runs in clauses for name in self._named(runs, hidden)]

    def _named(self, runs: list[list[tuple[str, ...]]], hidden: set[str]) -> Iterator[str]:
        at = 0
        while at < len(runs):
            run = next((run for run in runs[at] if run in self._meaning), ("",))
            name = self._meaning.get(run)
            if name and " ".join(run) not in hidden:
                yield name
            at += len(run)

    def category(self, name: str) -> str:
        """The category of an object's name, as annotations give it."""
        run = next(
            (run for run in runs_of(words(name), self._longest)[0] if run in self._meaning), None
        )
        if run is None or not self._meaning[run]:
            raise LookupError(f"the synonyms {self.name!r} do not know the object {name!r}.")
        return self._meaning[run]

    @cached_property
    def _meaning(self) -> dict[tuple[str, ...], str]:
        """Runs of words -> category; "" for phrases that name no object of the table."""
        known = {tuple(words(word)): line[0] for line in self.lines for word in line}
        stand = {tuple(words(phrase)): word for phrase, word in self.compounds.items()}
        return known | {run: known.get(tuple(words(word)), "") for run, word in stand.items()}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self._meaning))
