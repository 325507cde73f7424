"""A task in the words that a model's tokenizer has: each of them one token, no word unknown."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from interp.registry import unknown
from interp.task import Record, Task
from interp.tasks import TASKS, Generator
from interp.tasks.wording import Wording

if TYPE_CHECKING:
    from interp.model import Model

WORDINGS = ("published", "demo")  # what is tried, in this order
_BEFORE = "the"  # words are read as they stand after another


def suited(
    model: "Model", name: str, count: int = 100, split: str = "test", seed: int = 0, **settings: Any
) -> Task:
    """A task of `count` records, all of whose words a model's tokenizer knows.

        task = interp.tasks.suited(model, "ioi", counterfactual="flip")

    Words that are not one token after a space are left out of the lists that records are made of, and
    so a prompt and its counterfactual have equally many tokens and every answer is one. That is
    checked of every record; what cannot be had is refused. The published wording is taken where there
    is one, the tokenizer can say its texts and half of each list is left; else the demo model's.
    `wording=` settles it. `made` says what was left out, as the setting `without`:
    `Task.load(name, count=count, **task.made)` is the task again.

    demo-lm, whose vocabulary is whole words, is given its own wording: it can say 3 of the 15 published
    templates of "ioi" (numbers 0, 5 and 13), no colour of "colored_objects" with a capital letter, and
    8 of the 120 published nouns of "greater_than".
    """
    generator = TASKS[name]
    _check(model, generator, settings)
    problems: list[str] = []
    for wording, own in _wordings(generator, settings).items():
        tokenizer = Reader(model.tokenizer)
        added = _added(tokenizer, generator, wording, own, settings)
        scarce = _scarce(own, added.get("without", ()), "wording" in settings)
        if scarce:
            problems.append(f"{wording}: {scarce}")
            continue
        task = generator(count, split, seed, **settings | added)
        found = next(tokenizer.problems(task), None)
        if found is None:
            return task
        problems.append(f"{wording}: {found}")
    other = (
        " Leave wording= out to have another tried, or write" if "wording" in settings else " Write"
    )
    raise ValueError(
        f"the tokenizer of {model.name} cannot say {name!r}. {' '.join(problems)}{other} records in words "
        "that it has, Task(name, (Record(prompt, answers, wrong, counterfactual), ...))."
    )


class Reader:
    """Texts as a tokenizer reads them."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.unknown: int | None = tokenizer.unk_token_id
        self._fits: dict[tuple[str, str], bool] = {}
        self._ids: dict[str, list[int]] = {}

    def ids(self, text: str) -> list[int]:
        if text not in self._ids:
            self._ids[text] = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        return self._ids[text]

    def one(self, word: str, before: str = _BEFORE) -> bool:
        """Whether a word, with the space or not that it starts with, is one token more."""
        read, longer = self.ids(before), self.ids(before + word)
        return longer[:-1] == read and longer[-1] != self.unknown

    def answers(self, prompt: str, answer: str) -> bool:
        """Whether an answer is one token. Where it would be read into one with the prompt's end
        ("18", "60"), that is still its own token when it comes after the prompt's."""
        key = prompt[-24:], answer
        if key not in self._fits:
            alone = self.ids(answer)
            joined = self.ids(key[0] + answer)[: len(self.ids(key[0]))] != self.ids(key[0])
            known = len(alone) == 1 and alone[0] != self.unknown
            self._fits[key] = (joined and known) or self.one(answer, key[0])
        return self._fits[key]

    def year(self, year: str) -> bool:
        """Whether a year is its century and two digits, and so is the year 01 of the century."""
        century = f" {year[:2]}"
        starts = [self.one(digits, _BEFORE + century) for digits in (year[2:], "01")]
        return self.one(century) and all(starts)

    def left_out(self, own: Wording) -> list[str]:
        """The words of a wording that are not one token."""
        found: list[str] = []
        for kind, words in own.words.items():
            for word in words:
                said = (word, word.title()) if kind in own.titled else (word,)
                fits = self.year(word) if kind == "year" else all(self.one(f" {w}") for w in said)
                found += [] if fits else [word]
        return sorted(set(found))

    def opens_otherwise(self, own: Wording) -> bool:
        """Whether some word is read otherwise at the start of a text than after a space."""
        words = [word for kind in own.words.values() for word in kind]
        start = len(self.ids(_BEFORE))
        return any(self.ids(word) != self.ids(f"{_BEFORE} {word}")[start:] for word in words)

    def problems(self, task: Task) -> Iterator[str]:
        """What keeps records from being read token by token against their counterfactuals."""
        for record in task:
            problem = self._problem(record)
            if problem:
                yield problem

    def _problem(self, record: Record) -> str:
        read = [self.ids(text) for text in (record.prompt, record.counterfactual or record.prompt)]
        if self.unknown is not None and any(self.unknown in row for row in read):
            return f"it does not know every word of {record.prompt!r}."
        if len(read[0]) != len(read[1]):
            return f"{record.prompt!r} has {len(read[0])} tokens and its counterfactual {len(read[1])}."
        for answer in (*record.answers, *record.wrong, *record.counterfactual_answers):
            if not self.answers(record.prompt, answer):
                return f"the answer {answer!r} is not one token that it knows."
        return ""


def _check(model: "Model", generator: Generator, settings: dict[str, Any]) -> None:
    if generator.paint is not None:
        raise ValueError(
            f"{generator.name!r} asks about images, and only words are suited to a model: "
            f"interp.Task.load({generator.name!r})."
        )
    if model.tokenizer is None:
        raise ValueError(
            f"{model.name} has no tokenizer, which says what words it has: interp.wrap(model, tokenizer)."
        )
    known = list(generator.wordings) or ["demo"]
    if settings.get("wording", known[0]) not in known:
        raise ValueError(unknown("wording", settings["wording"], known))


def _wordings(generator: Generator, settings: dict[str, Any]) -> dict[str, Wording]:
    """The wordings to try; a generator without lists is asked as it is."""
    own = dict(generator.wordings) or {"demo": Wording((), {})}
    if settings.get("words") is not None:
        own = {"demo": Wording((), {"word": settings["words"]}, own["demo"].least)}
    asked = settings.get("wording")
    return {each: own[each] for each in WORDINGS if each in own and asked in (None, each)}


def _scarce(own: Wording, without: list[str], asked: bool) -> str:
    """Says so where too little of a list is left: less than half, or than a record takes."""
    for kind, words in own.words.items():
        left = len([word for word in words if word not in without])
        if left < own.least.get(kind, 1) or not asked and 2 * left < len(words):
            return f"of {len(words)} words for {kind!r} {left} are one token."
    return ""


def _added(
    tokenizer: Reader, generator: Generator, wording: str, own: Wording, settings: dict[str, Any]
) -> dict[str, Any]:
    """Settings that fit a wording to a tokenizer."""
    added: dict[str, Any] = {"wording": wording} if len(generator.wordings) > 1 else {}
    without = sorted({*settings.get("without", ()), *tokenizer.left_out(own)})
    if without:
        added["without"] = without
    if generator.inside and tokenizer.opens_otherwise(own):
        added |= generator.inside
    return added
