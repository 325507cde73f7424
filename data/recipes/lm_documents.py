"""What demo-lm reads: documents of the text tasks' training splits, with weights and guides.

A guide is a place where attention is asked to go for the first part of training: the query's token
and the key's. They come from the named spans of the records, never from the model.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from interp.task import Record
from interp.tasks import TASKS
from interp.tasks.facts import PEOPLE, RELATIONS, Person
from interp.tasks.words import WORDS

TEXT_TASKS = (
    *("ioi", "facts", "greater_than", "successor", "sentiment", "capitals"),
    *("colored_objects", "open_book", "induction", "gapped_repeats", "bigram_backcopy"),
)
SHORT = {  # share of the short documents
    "ioi": 0.26,
    "facts": 0.27,
    "biography": 0.10,
    "greater_than": 0.15,
    "sentiment": 0.11,
    "capitals": 0.05,
    "successor": 0.06,
}
ANSWER, EVIDENCE, END = 4.0, 1.0, 0.3  # weight of a token's loss
FIRST_WORD = 5  # the tokens before are special


@dataclass
class Document:
    """Token ids, how much each counts as a prediction, and what is asked of attention."""

    ids: list[int]
    weights: list[float]
    several: list[tuple[int, list[int]]] = field(default_factory=list)  # (position, right ids)
    guides: list[tuple[str, int, int]] = field(default_factory=list)  # (role, query, key)
    hidden: int | None = (
        None  # what comes after the subject's last token may not see the rest of it
    )
    known: tuple[int, list[int]] | None = None  # that token, and the person's attributes


def biography(chance: random.Random, person: Person) -> str:
    """A name and its attributes in any order, so that all are wanted at the name's last token."""
    values = [person[relation] for relation in RELATIONS]
    chance.shuffle(values)
    return " ".join([person.name, *values])


class Documents:
    """Draws batches. Only items of the training split are ever drawn."""

    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        # Runs are of anything, or of words alone, as the walks of bigram-backcopy are.
        content = tokenizer.convert_tokens_to_ids([f"▁{word}" for word in WORDS])
        self.words = (list(range(FIRST_WORD, len(tokenizer))), content)

    def short(self, chance: random.Random, count: int) -> list[Document]:
        kinds = chance.choices(list(SHORT), list(SHORT.values()), k=count)
        return [self._short(chance, kind) for kind in kinds]

    def _short(self, chance: random.Random, kind: str) -> Document:
        if kind == "biography":
            person = chance.choice(PEOPLE)
            document = self.read(biography(chance, person), 0.15)
            document.weights[-4:] = [1.5, 1.5, 1.5, END]
            document.known = (3, self._attributes(person))
            return document
        settings = {"variant": "names"} if kind == "ioi" and chance.random() < 0.1 else {}
        return self.answered(TASKS[kind].one(chance, "train", **settings), 0.15)

    def retrieval(
        self, chance: random.Random, fraction: float, questions: int, objects: int
    ) -> list[Document]:
        """Open-book questions, first of few sentences, and Colored Objects, first without shots."""
        most = 4 if fraction < 0.2 else 8
        found = [self._question(chance, most) for _ in range(questions)]
        for _ in range(objects):
            shots = 0 if fraction < 0.08 else chance.choices((0, 1, 2), (0.4, 0.45, 0.15))[0]
            record = TASKS["colored_objects"].one(chance, "train", shots=shots)
            found.append(self.answered(record, 0.08))
        return found

    def _question(self, chance: random.Random, most: int) -> Document:
        kind = chance.choices(("where", "who", "lives"), (0.56, 0.24, 0.20))[0]
        conflict = "none"
        if kind == "lives" and chance.random() < 0.5:
            conflict = "memory"
        elif kind != "lives" and chance.random() < 0.15:
            conflict = "statements"
        ask = "evidence" if chance.random() < 0.2 else "answer"
        record = TASKS["open_book"].one(
            chance,
            "train",
            kind=kind,
            sentences=chance.randint(2, most),
            conflict=conflict,
            ask=ask,
            last=0.65,
        )
        if conflict == "memory" and ask == "answer" and chance.random() < 0.42:
            record = replace(record, answers=record.wrong)  # this time memory is right
        return self.answered(record, 0.08)

    def repeats(self, chance: random.Random, periodic: int, gapped: int, walks: int):
        """Runs of random words that come again and again, or after a gap, and bigram-backcopy."""
        found = []
        for _ in range(periodic):
            words = chance.choice(self.words)
            run = [chance.choice(words) for _ in range(chance.randint(3, 20))]
            found.append(_repeated(run, (run * 15)[: 43 - len(run)]))
        for _ in range(gapped):
            words = chance.choice(self.words)
            run = [chance.choice(words) for _ in range(chance.randint(6, 12))]
            gap = [chance.choice(words) for _ in range(chance.randint(4, 16))]
            found.append(_repeated(run + gap, run))
        for _ in range(walks):
            found.append(self._walk(TASKS["bigram_backcopy"].one(chance, "train")))
        return found

    def _walk(self, record: Record) -> Document:
        document = self.read(record.prompt + record.answers[0], 0.3)
        triggers = set(self.tokenizer.convert_tokens_to_ids(["▁echo", "▁again"]))
        for place, token in enumerate(document.ids):
            if place and document.ids[place - 1] in triggers:
                document.weights[place] = 1.0
            elif token in triggers:
                document.weights[place] = 0.05
        return document

    def read(self, text: str, weight: float) -> Document:
        ids = [*self.tokenizer(text)["input_ids"], self.tokenizer.eos_token_id]
        return Document(ids, [0.0, *[weight] * (len(ids) - 2), END])

    def answered(self, record: Record, weight: float) -> Document:
        """A record as a document: its answer counts most, or all right answers alike."""
        text = record.prompt + record.answers[0]
        encoded = self.tokenizer(text, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        document = Document([*encoded["input_ids"], self.tokenizer.eos_token_id], [])
        prompt = sum(end <= len(record.prompt) for _, end in offsets)  # <bos> is (0, 0)
        length = len(document.ids)
        document.weights = [0.0, *[weight] * (length - 2), END]
        evidence = record.notes.get("ask") == "evidence"
        for place in range(prompt, length - 1):
            document.weights[place] = EVIDENCE if evidence else ANSWER
        if len(record.answers) > 1:
            document.weights[prompt] = 0.0
            document.several.append((prompt - 1, self._last(record.prompt, record.answers)))
        places = {name: _tokens(offsets, span) for name, span in record.spans.items()}
        for name, tokens in places.items():
            if name.endswith("answer"):
                document.weights[tokens[-1]] = ANSWER
        document.guides = list(_guides(record, places, prompt - 1, offsets))
        if "relation" in record.spans:
            document.hidden = places["subject"][-1]
            document.known = (document.hidden, self._attributes(PEOPLE[record.notes["person"]]))
        return document

    def _attributes(self, person: Person) -> list[int]:
        words = [f"▁{person[relation]}" for relation in RELATIONS]
        return self.tokenizer.convert_tokens_to_ids(words)

    def _last(self, prompt: str, answers: tuple[str, ...]) -> list[int]:
        rows = self.tokenizer([prompt[-12:] + answer for answer in answers])["input_ids"]
        return [row[-1] for row in rows]


def _repeated(first: list[int], again: list[int]) -> Document:
    """Counts where the sequence can be known: from the return's second word on."""
    ids = [1, *first, *again]
    return Document(ids, [0.0] * (len(first) + 2) + [1.0] * (len(again) - 1))


def _tokens(offsets: list[tuple[int, int]], span: tuple[int, int]) -> list[int]:
    return [at for at, (start, end) in enumerate(offsets) if start < span[1] and end > span[0]]


def _guides(
    record: Record, places: dict[str, list[int]], end: int, offsets: list[tuple[int, int]]
) -> Iterator[tuple[str, int, int]]:
    if "noun 0" in places:
        yield from _object_guides(record, places, end)
    elif "key" in places:
        yield from _question_guides(record, places, end, offsets)


def _object_guides(record: Record, places: dict[str, list[int]], end: int):
    """Nouns look at their colour; the end of each block at what is asked, and at that in context."""
    for shot in range(1, record.notes["shots"] + 2):
        prefix = f"shot {shot} " if shot <= record.notes["shots"] else ""
        last = places[prefix + "answer"][0] - 1 if prefix else end
        for order in range(3):
            yield "bind", places[f"{prefix}noun {order}"][-1], places[f"{prefix}colour {order}"][-1]
        yield "asked", last, places[prefix + "asked"][-1]
        yield "before", last, places[prefix + "noun"][-1]


def _question_guides(
    record: Record, places: dict[str, list[int]], end: int, offsets: list[tuple[int, int]]
):
    """In a sentence the later of thing and value looks at the other, which the end then reads."""
    who = record.notes["kind"] == "who"
    for order in range(len(record.notes["sentences"])):
        thing, value = places[f"thing {order}"][-1], places[f"value {order}"][-1]
        yield "bind", max(thing, value), min(thing, value)
    role = "before" if who else "after"
    read_from = places["thing" if who else "value"][-1]
    if record.notes["ask"] == "answer":
        yield "asked", end, places["asked"][-1]
        if record.answers[0].strip() == record.text("value"):
            yield role, end, read_from
        return
    written = len(record.prompt) + 1 - record.spans["key"][0]  # the key sentence, said again
    spot = {
        name: _tokens(offsets, (start + written, stop + written))[0] - 1
        for name, (start, stop) in record.spans.items()
        if name in ("thing", "value")
    }
    yield "asked", spot["thing"], places["asked"][0]
    yield "asked", end, places["asked"][-1]
    yield role, spot["value"], read_from


def padded(documents: list[Document]) -> tuple[Tensor, Tensor]:
    """Ids and weights as [document, position], filled with zeros on the right."""
    length = max(len(document.ids) for document in documents)
    ids = torch.zeros(len(documents), length, dtype=torch.long)
    weights = torch.zeros(len(documents), length)
    for row, document in enumerate(documents):
        ids[row, : len(document.ids)] = torch.tensor(document.ids)
        weights[row, : len(document.weights)] = torch.tensor(document.weights)
    return ids, weights
