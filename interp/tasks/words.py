"""The words that text tasks are made of, each one token for the demo model; and filling templates."""

import random
import string
from collections.abc import Mapping, Sequence

Spans = dict[str, tuple[int, int]]


def _words(text: str) -> list[str]:
    return text.split()


NAMES = _words(
    "Mary John Tom James Dan Sarah Anna Kate Paul Mark Lisa Emma Jack Ryan Laura Peter "
    "Simon Alice Bob Carol David Frank Grace Henry Jane Kevin Linda Martin Nina Oscar Rose Steve"
)
SHOPS = _words("store park school office garden station hospital restaurant library museum")
GIFTS = _words("drink ring book ball key bag apple kiss letter phone computer basketball")
COLOURS = _words("orange red purple blue black yellow brown green white pink")
ITEMS = _words(
    "textbook puzzle cup mug pencil notebook plate keychain necklace bracelet sheet leash "
    "lighter jug bottle bowl envelope"
)
THINGS = _words(
    "key coin ball ring watch card lamp map knife pen hat shoe scarf ticket brush flute"
)
PLACES = _words(
    "box bag drawer basket closet kitchen garage bucket safe cabinet desk jar attic cellar trunk crate"
)
FIRST = _words(
    "Ada Boris Clara Diego Elena Felix Greta Hugo Irene Jonas Karin Leon Mila Nora Otto Petra"
)
MIDDLE = _words(
    "Lowe Vance Quill Marsh Thorne Blake Finch Hale Reed Wells York Pike Nash Moss Lane Crane"
)
LAST = _words(
    "Abbott Baker Castro Dixon Ellis Fischer Garcia Hansen Ivanov Jensen Keller Larsen Moreau "
    "Novak Olsen Price"
)
CAPITALS = dict(
    zip(
        _words(
            "France Japan Italy Germany Spain Egypt Norway Portugal Austria Greece Ireland Poland "
            "England Canada Peru India"
        ),
        _words(
            "Paris Tokyo Rome Berlin Madrid Cairo Oslo Lisbon Vienna Athens Dublin Warsaw London "
            "Ottawa Lima Delhi"
        ),
        strict=True,
    )
)
CITIES = list(CAPITALS.values())
SPORTS = _words("soccer tennis baseball hockey golf rugby cricket boxing")
INSTRUMENTS = _words("piano violin guitar drums cello trumpet harp banjo")
DAYS = _words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _words(
    "January February March April May June July August September October November December"
)
NUMBERS = _words("one two three four five six seven eight nine ten eleven twelve")
ORDINALS = _words(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth"
)
GOOD = _words("great wonderful amazing lovely fantastic perfect brilliant good")
BAD = _words("terrible awful horrible boring dreadful bad poor disappointing")
GLAD = _words("happy glad pleased delighted")
SAD = _words("sad angry upset annoyed")
MEDIA = _words("movie film book show play song concert game")
EVENTS = _words("war trip project strike campaign expedition siege voyage")
TRIGGERS = _words("echo again")

_LISTS = (
    *(NAMES, SHOPS, GIFTS, COLOURS, ITEMS, THINGS, PLACES, FIRST, MIDDLE, LAST, CITIES),
    *(list(CAPITALS), SPORTS, INSTRUMENTS, DAYS, MONTHS, NUMBERS, ORDINALS, GOOD, BAD),
    *(GLAD, SAD, MEDIA, EVENTS),
)
# Words for sequences without meaning; the triggers of bigram-backcopy are never among them.
WORDS = sorted({word for words in _LISTS for word in words} - set(TRIGGERS))


def fill(template: str, values: Mapping[str, str]) -> tuple[str, Spans]:
    """A template with its fields filled in, and where each field's words came to stand."""
    text, spans = "", {}
    for literal, name, _, _ in string.Formatter().parse(template):
        text += literal
        if name is not None:
            spans[name] = (len(text), len(text) + len(values[name]))
            text += values[name]
    return text, spans


def shifted(spans: Spans, by: int, prefix: str = "") -> Spans:
    """The same stretches after `by` characters were put in front."""
    return {prefix + name: (start + by, end + by) for name, (start, end) in spans.items()}


def article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def another(chance: random.Random, words: Sequence[str], *taken: str) -> str:
    """A word that is none of those taken."""
    return chance.choice([word for word in words if word not in taken])
