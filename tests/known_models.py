"""Transformers whose weights are set by hand, so that what does the work in them is known.

All have the shape of GPT-2, with norms that hardly norm: their epsilon is so large that a stream
whose channels sum to 0 passes as it is. Heads and MLPs that are no part of the circuit read
everything at random and write into channels that only they read.
"""

from dataclasses import dataclass

import torch
from hand_set import Frame, seeded

import interp
from interp.task import Record, Task

LAYERS, HEADS, SIZE, WORDS, LENGTH = 4, 5, 16, 16, 16
WIDTH = HEADS * SIZE
# First channels of: which word it is, where it stands, what is handed on, what is answered.
TOKEN, PLACE, MIDDLE, ANSWER = 0, 16, 32, 48
AVOID = 64  # how much a head that looks for a place should leave this one
IDLE = slice(65, 79)  # what idle parts write, and only they read
BALANCE = 79  # keeps the sum of all channels at 0; nobody reads it
EPSILON = 1e6
SHARP, GAIN = 10.0, 20.0  # of attention; logit of an answer's channel
PREVIOUS, INDUCTION = (0, 2), (2, 1)
LOOKUP, MOVER = 1, (2, 3)
FIRST, SECOND, SATURATING = (1, 0), (2, 4), 3
SUBJECTS = range(4, 12)
SUBJECT_PLACE = 2
# Of what the lookup writes and of what keeps a head away: noise in an embedding is nothing beside it.
LOUD = FAR = 30.0

FRAME = Frame(
    LAYERS, HEADS, SIZE, WORDS, LENGTH, EPSILON, TOKEN, PLACE, ANSWER, GAIN, IDLE, BALANCE
)


@dataclass(frozen=True)
class Known:
    """A model, a task that it solves, and the parts that solve it: heads, and layers of MLPs."""

    model: interp.Model
    task: Task
    heads: frozenset
    mlps: frozenset


def induction_model() -> Known:
    """After `A B .. A` comes B: a head of layer 0 tells each word its predecessor, one of layer 2
    looks for the word whose predecessor is the present one (K-composition), and copies it.

    In the counterfactual the A stands before another word.
    """
    hf = _idle_model({PREVIOUS, INDUCTION}, set())
    previous = hf.transformer.h[PREVIOUS[0]].attn
    for place in range(1, LENGTH):
        _read(previous, PREVIOUS[1], "q", PLACE + place, place - 1, SHARP)
    for one in range(LENGTH):
        _read(previous, PREVIOUS[1], "k", PLACE + one, one, SHARP)
    _copy_words(previous, PREVIOUS[1], TOKEN, MIDDLE)
    induction = hf.transformer.h[INDUCTION[0]].attn
    for word in range(WORDS):
        _read(induction, INDUCTION[1], "q", TOKEN + word, word, SHARP)
        _read(induction, INDUCTION[1], "k", MIDDLE + word, word, SHARP)
    _copy_words(induction, INDUCTION[1], TOKEN, ANSWER)
    records = []
    for row in range(8):
        drawn = 1 + torch.randperm(WORDS - 1, generator=seeded(row))  # 0 is no word
        a, b, x, c, *others = drawn.tolist()
        records.append(
            _record([others[0], a, b, others[1], x, c, others[2], a],
                    [others[0], x, b, others[1], a, c, others[2], a],
                    b, c, {"A": 1, "B": 2, "X": 4, "C": 5, "again": 7})
        )  # fmt: skip
    return _known(hf, "induction", records, {PREVIOUS, INDUCTION}, set())


def lookup_model() -> Known:
    """A subject of two words has an attribute, which the MLP of layer 1 writes at its second word
    and a head of layer 2 moves to the end. In the counterfactual the second word is another."""
    hf = _idle_model({MOVER}, {LOOKUP})
    mlp = hf.transformer.h[LOOKUP].mlp
    for subject in SUBJECTS:
        _step(mlp, subject, TOKEN + subject, 0.25, 0.75, MIDDLE + attribute(subject), LOUD)
    _look_at_subject(hf.transformer.h[MOVER[0]].attn, MOVER[1])
    _copy_words(hf.transformer.h[MOVER[0]].attn, MOVER[1], MIDDLE, ANSWER, 1 / LOUD)
    # Much that nobody reads: noise that is sized by the embeddings then hides the word.
    loud = torch.randn(WORDS, IDLE.stop - IDLE.start, generator=seeded(2))
    hf.transformer.wte.weight.data[:, IDLE] = 1.5 * loud
    records = []
    for order, subject in enumerate(SUBJECTS):
        other = SUBJECTS[(order + 3) % len(SUBJECTS)]
        said = [[12, 1 + order % 2, word, 13, 14] for word in (subject, other)]
        spans = {"subject": (1, 2), "relation": 3, "end": 4}
        records.append(_record(*said, attribute(subject), attribute(other), spans))
    return _known(hf, "lookup", records, {MOVER}, {LOOKUP})


def redundant_model() -> Known:
    """Two heads, each of which alone moves the subject to the end; the last MLP turns whatever
    comes, once or twice, into the same answer. The counterfactual has a word that no head moves."""
    hf = _idle_model({FIRST, SECOND}, {SATURATING})
    for layer, head in (FIRST, SECOND):
        attention = hf.transformer.h[layer].attn
        _look_at_subject(attention, head)
        _copy_words(attention, head, TOKEN, MIDDLE, words=SUBJECTS)
    mlp = hf.transformer.h[SATURATING].mlp
    for word in range(WORDS):
        _step(mlp, word, MIDDLE + word, 0.0, 0.5, ANSWER + word)
    records = []
    for order, subject in enumerate(SUBJECTS):
        wrong = SUBJECTS[(order + 3) % len(SUBJECTS)]
        said = [[12, 1 + order % 2, word, 13, 14] for word in (subject, 3)]
        spans = {"subject": (1, 2), "relation": 3, "end": 4}
        records.append(_record(*said, subject, wrong, spans))
    return _known(hf, "redundant", records, {FIRST, SECOND}, {SATURATING})


def attribute(subject: int) -> int:
    """The word that goes with a subject: another subject's word."""
    order = SUBJECTS.index(subject)
    return SUBJECTS[(3 * order + 1) % len(SUBJECTS)]


def _known(hf, name, records, heads, mlps) -> Known:
    FRAME.balanced(hf)
    model = interp.wrap(hf, _tokenizer())
    return Known(model, Task(name, tuple(records)), frozenset(heads), frozenset(mlps))


def _idle_model(heads, mlps):
    """The parts that are not named read at random and write what nobody in the circuit reads."""
    hf = FRAME.model(heads, mlps)
    for place in range(LENGTH):
        hf.transformer.wpe.weight.data[place, AVOID] = 0.0 if place == SUBJECT_PLACE else FAR
    return hf


def _read(attention, head, part, channel, number, strength):
    """The head's query, key or value has `strength` times a channel at a number of its own."""
    column = "qkv".index(part) * WIDTH + head * SIZE + number
    attention.c_attn.weight.data[channel, column] = strength


def _copy_words(attention, head, source, target, strength=1.0, words=range(WORDS)):
    """What the head sees in the channels of `source` it writes into those of `target`."""
    for word in words:
        _read(attention, head, "v", source + word, word, 1.0)
        attention.c_proj.weight.data[head * SIZE + word, target + word] = strength


def _step(mlp, word, source, start, end, target, height=1.0):
    """What the MLP writes rises from 0 to `height` while a channel goes from `start` to `end`."""
    for unit, least, sign in ((word, start, 1.0), (WORDS + word, end, -1.0)):
        mlp.c_fc.weight.data[source, unit] = 1.0
        mlp.c_fc.bias.data[unit] = -least
        mlp.c_proj.weight.data[unit, target] = sign * height / (end - start)


def _look_at_subject(attention, head):
    """Every query asks for the place that is not to be avoided."""
    attention.c_attn.bias.data[head * SIZE] = SHARP
    _read(attention, head, "k", AVOID, 0, -2.0)


def _tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{word}": word for word in range(WORDS)}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0", pad_token="w0")


def _record(clean, other, right, wrong, spans) -> Record:
    """Words by number; a span is a place among them, or the first and the last of several."""
    said = [f"w{word}" for word in clean]
    starts = [len(" ".join([*said[:place], ""])) for place in range(len(said))]
    ends = [start + len(word) for start, word in zip(starts, said, strict=True)]
    where = {name: (at, at) if isinstance(at, int) else at for name, at in spans.items()}
    return Record(
        " ".join(said),
        answers=(f" w{right}",),
        wrong=(f" w{wrong}",),
        counterfactual=" ".join(f"w{word}" for word in other),
        spans={name: (starts[first], ends[last]) for name, (first, last) in where.items()},
    )
