"""A transformer whose weights are set by hand to solve IOI as Wang et al. 2022 found it solved.

It has the shape of GPT-2 and hardly norms, as in `known_models`. Layer 0 tells each word its
predecessor, and a name that it comes again; layer 1 finds the latter by induction; layer 2 tells the
end which name came twice; layer 3 moves names to the answer, that one least; in layer 4 a head
writes against the answer, and another moves names that nobody has written yet.
"""

from dataclasses import dataclass

import torch
from hand_set import Frame, seeded
from known_models import _record, _tokenizer

import interp
from interp.task import Record, Task

LAYERS, HEADS, SIZE, WORDS, LENGTH = 5, 5, 32, 16, 16
WIDTH = HEADS * SIZE
# First channels of: which word it is, where it stands, the word before, which name came twice (known
# where it does, and at the end), what is answered.
TOKEN, PLACE, BEFORE, TWICE, LEAVE, ANSWER = 0, 16, 32, 48, 64, 80
IDLE = slice(96, 112)  # what idle parts write, and only they read
BALANCE = 112  # keeps the sum of all channels at 0; nobody reads it
NAMES = range(4, 12)
SHARP, GAIN = 10.0, 20.0  # of attention; logit of an answer's channel
EPSILON = 1e12  # of norms, which with it are linear to float32
MILD = 1.4  # how strongly a name that came twice is left out, so that each head's part can be seen
CLASSES = {
    "name mover": {(3, 1), (3, 4)},
    "negative name mover": {(4, 0)},
    "S-inhibition": {(2, 2)},
    "induction": {(1, 3)},
    "duplicate token": {(0, 1)},
    "previous token": {(0, 4)},
    "backup name mover": {(4, 3)},
}
# They look as heads of these classes do, and write nothing.
LOOKALIKES = {"S-inhibition": (2, 4), "previous token": (0, 0), "name mover": (3, 0)}
WRITES = {(3, 1): 1.0, (3, 4): 0.6, (4, 0): -0.5, (4, 3): 0.8}
OPENINGS = ((12, 13, 14), (13, 15, 12), (14, 12, 15))  # before, between and after the two names

FRAME = Frame(
    LAYERS, HEADS, SIZE, WORDS, LENGTH, EPSILON, TOKEN, PLACE, ANSWER, GAIN, IDLE, BALANCE
)


@dataclass(frozen=True)
class KnownIoi:
    model: interp.Model
    task: Task
    classes: dict[str, set[tuple[int, int]]]


def ioi_model(count: int = 40) -> KnownIoi:
    """The model, records with counterfactuals of three other names, and each class's heads."""
    hf = FRAME.model({*set().union(*CLASSES.values()), *LOOKALIKES.values()})
    for name, (layer, head) in LOOKALIKES.items():
        _SET[name](_Head(hf.transformer.h[layer].attn, head), 1.0)
        hf.transformer.h[layer].attn.c_proj.weight.data[head * SIZE : (head + 1) * SIZE] = 0.0
    for number, block in enumerate(hf.transformer.h):
        for name, heads in CLASSES.items():
            for layer, head in heads:
                if layer == number:
                    _SET[name](_Head(block.attn, head), WRITES.get((layer, head), 1.0))
    FRAME.balanced(hf)
    records = tuple(_drawn(row) for row in range(count))
    return KnownIoi(interp.wrap(hf, _tokenizer()), Task("ioi", records), CLASSES)


@dataclass(frozen=True)
class _Head:
    """What a head reads into numbers of its own, and what it writes of them."""

    attention: torch.nn.Module
    head: int

    def read(self, part: str, channel: int, number: int, strength: float) -> None:
        column = "qkv".index(part) * WIDTH + self.head * SIZE + number
        self.attention.c_attn.weight.data[channel, column] += strength

    def always(self, part: str, number: int, strength: float) -> None:
        column = "qkv".index(part) * WIDTH + self.head * SIZE + number
        self.attention.c_attn.bias.data[column] += strength

    def copy(self, source: int, target: int, strength: float = 1.0, words=NAMES) -> None:
        for word in words:
            self.read("v", source + word, word, 1.0)
            self.attention.c_proj.weight.data[self.head * SIZE + word, target + word] = strength

    def match(self, source: int) -> None:
        """Looks for the word that is at hand in the channels of `source`, not at its own place, and
        at the first place where there is none."""
        for word in NAMES:
            self.read("q", TOKEN + word, word, SHARP)
            self.read("k", source + word, word, SHARP)
        for place in range(LENGTH):
            self.read("q", PLACE + place, WORDS + place, -SHARP)
            self.read("k", PLACE + place, WORDS + place, SHARP)
        self.always("q", WORDS, SHARP / 2)


def _previous(head: _Head, strength: float) -> None:
    for place in range(1, LENGTH):
        head.read("q", PLACE + place, place - 1, 2 * SHARP)
    for place in range(LENGTH):
        head.read("k", PLACE + place, place, SHARP)
    head.copy(TOKEN, BEFORE, strength, range(WORDS))


def _duplicate(head: _Head, strength: float) -> None:
    head.match(TOKEN)
    head.copy(TOKEN, TWICE, strength)


def _induction(head: _Head, strength: float) -> None:
    head.match(BEFORE)
    head.copy(BEFORE, TWICE, strength)


def _inhibition(head: _Head, strength: float) -> None:
    """Looks at what came twice, or at the first place, and tells which name it was."""
    head.always("q", 0, SHARP)
    for name in NAMES:
        head.read("k", TWICE + name, 0, SHARP)
    head.always("q", 1, SHARP)
    head.read("k", PLACE, 1, SHARP / 2)
    for name in NAMES:
        head.read("v", TWICE + name, name, 1.0)
        head.attention.c_proj.weight.data[head.head * SIZE + name, LEAVE + name] = strength


def _moving(head: _Head, strength: float) -> None:
    """Looks at names, least at the one to leave out."""
    for name in NAMES:
        head.always("q", name, SHARP)
        head.read("q", LEAVE + name, name, -MILD)
        head.read("k", TOKEN + name, name, SHARP)
    head.copy(TOKEN, ANSWER, strength)


def _backing(head: _Head, strength: float) -> None:
    """Looks away from the name to leave out, and from names that are written already."""
    _moving(head, strength)
    for name in NAMES:
        head.read("q", LEAVE + name, name, -SHARP)
        head.read("q", ANSWER + name, name, -1.5 * SHARP)


_SET = {
    "previous token": _previous,
    "duplicate token": _duplicate,
    "induction": _induction,
    "S-inhibition": _inhibition,
    "name mover": _moving,
    "negative name mover": _moving,
    "backup name mover": _backing,
}


def _drawn(row: int) -> Record:
    """`x A y B z S 1 2`: S is A or B, the other is right; elsewhere three other names stand there."""
    drawn = torch.randperm(len(NAMES), generator=seeded(row))
    io, subject, *others = [NAMES[at] for at in drawn.tolist()]
    x, y, z = OPENINGS[row % len(OPENINGS)]
    first, second = (io, subject) if row % 2 else (subject, io)
    places = {"IO": 1, "S1": 3} if row % 2 else {"S1": 1, "IO": 3}
    spans = {**places, "S1+1": places["S1"] + 1, "S2": 5}
    clean = [x, first, y, second, z, subject, 1, 2]
    other = [x, others[0], y, others[1], z, others[2], 1, 2]
    return _record(clean, other, io, subject, spans)
