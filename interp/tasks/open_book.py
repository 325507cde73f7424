"""Open-book questions: one sentence of the context holds the answer, and we know which."""

import random
from dataclasses import dataclass, replace

from interp.registry import unknown
from interp.task import Record
from interp.tasks import TASKS, Generator
from interp.tasks.facts import PEOPLE, Person
from interp.tasks.words import CITIES, NAMES, PLACES, THINGS, Spans, another, fill, shifted

SENTENCES = {
    "where": "The {thing} is in the {value}.",
    "who": "{value} has the {thing}.",
    "lives": "{thing} moved to {value}.",
}
QUESTIONS = {
    "where": "Where is the {asked}?",
    "who": "Who has the {asked}?",
    "lives": "Where does {asked} live?",
}
CONFLICTS = ("none", "statements", "memory")
ASKS = ("answer", "evidence")
MOST = min(len(THINGS), len(PLACES)) - 1  # things and places are not used twice in a context


@dataclass(frozen=True)
class Statement:
    """One sentence of a context."""

    kind: str
    thing: str
    value: str

    @property
    def text(self) -> str:
        return fill(SENTENCES[self.kind], {"thing": self.thing, "value": self.value})[0]


def draw(
    chance: random.Random,
    kind: str | None = None,
    sentences: int | tuple[int, int] = (2, 8),
    conflict: str = "none",
    ask: str = "answer",
    last: float = 0.5,
) -> Record:
    """A context of statements, a question, and the one statement that answers it: span "key".

    `conflict="statements"`: two statements differ about the thing that is asked for; the key is the
    later one with probability `last`. `conflict="memory"`: the context says of a person what is not
    the fact that the demo model knows. `ask="evidence"` wants the key sentence written out. The
    counterfactual has another value in the key.
    """
    _check(kind, conflict, ask, sentences)
    if kind is None:
        kind = "lives" if conflict == "memory" else chance.choice(("where", "where", "who"))
    count = sentences if isinstance(sentences, int) else chance.randint(*sentences)
    statements, key, against, spare = _CONTEXTS[kind](chance, kind, count, conflict, last)
    prompt, spans = _written(statements, key, ask)
    said = statements[key]
    changed = [*statements[:key], replace(said, value=spare), *statements[key + 1 :]]
    answer, other = (said.text, changed[key].text) if ask == "evidence" else (said.value, spare)
    wrong = replace(said, value=against).text if ask == "evidence" else against
    return Record(
        prompt,
        answers=(f" {answer}",),
        wrong=(f" {wrong}",),
        counterfactual=_written(changed, key, ask)[0],
        counterfactual_answers=(f" {other}",),
        spans=spans,
        notes={
            "kind": kind,
            "sentences": [one.text for one in statements],
            "key": key,
            "conflict": conflict,
            "ask": ask,
        },
    )


def _about_things(
    chance: random.Random, kind: str, count: int, conflict: str, last: float
) -> tuple[list[Statement], int, str, str]:
    """Statements, which is the key, a wrong value that the context holds, and one it does not."""
    values = chance.sample(PLACES if kind == "where" else NAMES, count + 1)
    spare = values.pop()
    two = conflict == "statements"
    things = chance.sample(THINGS, count - two)
    asked = things[0]
    pairs = zip(things + [asked] * two, values, strict=True)
    statements = [Statement(kind, thing, value) for thing, value in pairs]
    chance.shuffle(statements)
    about = [place for place, one in enumerate(statements) if one.thing == asked]
    key = about[-1] if chance.random() < last else about[0]
    rivals = about if two else range(len(statements))
    against = chance.choice([statements[at].value for at in rivals if at != key])
    return statements, key, against, spare


def _about_people(
    chance: random.Random, kind: str, count: int, conflict: str, last: float
) -> tuple[list[Statement], int, str, str]:
    """Where up to four people of `facts` live, filled up with where things are."""
    people: list[Person] = chance.sample(PEOPLE, min(count, 4))
    asked = people[0]
    city = another(chance, CITIES, asked.city) if conflict == "memory" else asked.city
    statements = [Statement(kind, asked.name, city)]
    for person in people[1:]:
        elsewhere = chance.random() < 0.3
        statements.append(
            Statement(kind, person.name, chance.choice(CITIES) if elsewhere else person.city)
        )
    more = count - len(statements)
    things = zip(chance.sample(THINGS, more), chance.sample(PLACES, more), strict=True)
    statements += [Statement("where", thing, place) for thing, place in things]
    chance.shuffle(statements)
    key = next(at for at, one in enumerate(statements) if one.thing == asked.name)
    spare = another(chance, CITIES, asked.city, city)
    return statements, key, asked.city if conflict == "memory" else spare, spare


_CONTEXTS = {"where": _about_things, "who": _about_things, "lives": _about_people}


def _written(statements: list[Statement], key: int, ask: str) -> tuple[str, Spans]:
    """The prompt, with spans for each sentence, its thing and its value, and for the key's."""
    text, spans = "Context:", Spans()
    for place, one in enumerate(statements):
        sentence, inside = fill(SENTENCES[one.kind], {"thing": one.thing, "value": one.value})
        inside["sentence"] = (0, len(sentence))
        for name, stretch in shifted(inside, len(text) + 1).items():
            spans[f"{name} {place}"] = stretch
        text += " " + sentence
    spans["context"] = (len("Context: "), len(text))
    spans["key"] = spans[f"sentence {key}"]
    spans["thing"], spans["value"] = spans[f"thing {key}"], spans[f"value {key}"]
    asked = {"asked": statements[key].thing}
    question, inside = fill(QUESTIONS[statements[key].kind], asked)
    spans |= shifted(inside | {"question": (0, len(question))}, len(text) + len(" Q: "))
    return f"{text} Q: {question} {'Evidence' if ask == 'evidence' else 'A'}:", spans


def _check(kind: str | None, conflict: str, ask: str, sentences: int | tuple[int, int]) -> None:
    for given, known, noun in (
        (conflict, CONFLICTS, "conflict"),
        (ask, ASKS, "ask"),
        (kind or "where", tuple(SENTENCES), "kind"),
    ):
        if given not in known:
            raise ValueError(unknown(noun, given, list(known)))
    if kind == "lives" and conflict == "statements":
        raise ValueError("conflict='statements' goes with kind 'where' or 'who', not 'lives'.")
    if kind in ("where", "who") and conflict == "memory":
        raise ValueError(f"conflict='memory' goes with kind 'lives', not {kind!r}.")
    least, most = (sentences, sentences) if isinstance(sentences, int) else sentences
    if not 2 <= least <= most <= MOST:
        raise ValueError(f"sentences={sentences}: there are words for 2 to {MOST} of them.")


def same_context(record: Record) -> str:
    """What splits must not share: the statements, whatever is asked about them."""
    start, end = record.spans["context"]
    return record.prompt[start:end]


TASKS.add("open_book", Generator("open_book", draw, same_context))
