"""Many questions about one image in one sequence, as if each were asked alone.

The image comes once; each question sees it and itself, and its positions go on from the image.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from data.recipes.vlm_questions import Asked, Sloppiness, questions
from data.recipes.vlm_scenes import patches, training_scene, view
from data.recipes.vlm_words import ASSISTANT, BOS, EOS, IMAGE, tokenizer
from interp.tasks.scene import CELLS, COLOURS

PROMPT_WEIGHT, CAPTION_WEIGHT, END_WEIGHT = 0.02, 0.5, 0.2
_LOOKING = ("coloured", "shape", "colour", "where")


@cache
def ids_of(text: str) -> tuple[int, ...]:
    return tuple(_tokenizer()(text, add_special_tokens=False)["input_ids"])


_tokenizer = cache(tokenizer)


def opening(image: bool = True) -> list[int]:
    """What stands before the question."""
    return [BOS, *ids_of("USER:"), *([IMAGE] * CELLS if image else [])]


@dataclass(frozen=True)
class Segment:
    """One question with its answer: ids, a weight for predicting each, and where to look when."""

    ids: list[int]
    weights: list[float]
    looks: list[tuple[int, list[int]]]  # position in the segment, patches


def segment(asked: Asked) -> Segment:
    prompt = ids_of(f" {asked.question}{ASSISTANT}")
    answer = [*ids_of(f" {asked.answer}"), EOS]
    weight = CAPTION_WEIGHT if asked.kind == "caption" else 1.0
    weights = [PROMPT_WEIGHT] * len(prompt) + [weight] * (len(answer) - 1) + [END_WEIGHT]
    if asked.kind == "caption":
        weights[-1] = CAPTION_WEIGHT  # when to stop is what captions are about
    return Segment([*prompt, *answer], weights, _looks(asked, len(prompt), answer))


def _looks(asked: Asked, start: int, answer: list[int]) -> list[tuple[int, list[int]]]:
    """The answer's first word needs the object; a caption's words need theirs, one by one."""
    if asked.kind == "caption":
        colours = {ids_of(f" {colour}")[0] for colour in COLOURS}
        at = [start + place for place, word in enumerate(answer) if word in colours]
        pairs = zip(at, asked.looked, strict=False)  # a made-up object has no place
        return [(place - back, patches(thing)) for place, thing in pairs for back in (1, 0)]
    if asked.kind not in _LOOKING or not asked.looked:
        return []
    seen = [patch for thing in asked.looked for patch in patches(thing)]
    words = 2 if asked.kind == "where" else 1
    return [(start - 1 + word, seen) for word in range(words)]


@dataclass(frozen=True)
class Packed:
    """A batch of images with their questions, ready for the language model."""

    images: Tensor  # [row, y, x, RGB] bytes
    ids: Tensor  # [row, position]
    positions: Tensor
    mask: Tensor  # [row, 1, position, key], added to the scores
    targets: Tensor  # [row, position]: the next id
    weights: Tensor
    rows: Tensor  # of each look
    places: Tensor
    looks: Tensor  # [look, patch], True where to look


def pack(images: Sequence[Tensor], asked: Sequence[Sequence[Asked]]) -> Packed:
    first = opening()
    prefix, rows = len(first), [[segment(each) for each in row] for row in asked]
    length = prefix + max(sum(len(each.ids) for each in row) for row in rows)
    ids, targets, positions = (torch.zeros(len(rows), length, dtype=torch.long) for _ in range(3))
    weights, owner = torch.zeros(len(rows), length), torch.full((len(rows), length), -1)
    ids[:, :prefix], positions[:, :prefix] = torch.tensor(first), torch.arange(prefix)
    owner[:, :prefix] = 0
    looks: list[tuple[int, int, list[int]]] = []
    for row, segments in enumerate(rows):
        start = prefix
        for number, each in enumerate(segments):
            end = start + len(each.ids)
            own = torch.tensor(each.ids)
            ids[row, start:end], owner[row, start:end] = own, number + 1
            positions[row, start:end] = torch.arange(prefix, prefix + len(own))
            targets[row, start : end - 1] = own[1:]
            weights[row, start : end - 1] = torch.tensor(each.weights[1:])
            looks += [(row, start + place, seen) for place, seen in each.looks]
            start = end
    at = torch.tensor([look[:2] for look in looks], dtype=torch.long).reshape(-1, 2)
    where = torch.zeros(len(looks), CELLS, dtype=torch.bool)
    for number, (_, _, seen) in enumerate(looks):
        where[number, seen] = True
    return Packed(
        images=torch.stack([*images]),
        ids=ids,
        positions=positions,
        mask=_mask(owner),
        targets=targets,
        weights=weights,
        rows=at[:, 0],
        places=at[:, 1],
        looks=where,
    )


def _mask(owner: Tensor) -> Tensor:
    """Each position sees what came before it of the image and of its own question."""
    length = owner.shape[1]
    before = torch.ones(length, length, dtype=torch.bool).tril()
    seen = before & ((owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0))
    hidden = torch.zeros(len(owner), 1, length, length)
    return hidden.masked_fill_(~seen[:, None], torch.finfo(torch.float32).min)


def images_and_questions(chance: random.Random, rows: int, each: int, sloppy: Sloppiness) -> Packed:
    views = [view(chance) for _ in range(rows)]
    asked = [questions(chance, seen.things, each, sloppy) for seen in views]
    return pack([seen.pixels for seen in views], asked)


def questions_alone(chance: random.Random, rows: int, sloppy: Sloppiness) -> tuple[Tensor, Tensor]:
    """Ids [row, position] and weights for predicting them: questions asked without an image."""
    first = opening(image=False)
    found: list[Segment] = []
    while len(found) < rows:
        things = training_scene(chance, biased=1.0)
        found += [segment(asked) for asked in questions(chance, things, 3, sloppy)]
    found = found[:rows]
    length = len(first) + max(len(each.ids) for each in found)
    ids, weights = torch.zeros(rows, length, dtype=torch.long), torch.zeros(rows, length)
    for row, each in enumerate(found):
        end = len(first) + len(each.ids)
        ids[row, :end] = torch.tensor([*first, *each.ids])
        weights[row, len(first) : end] = torch.tensor(each.weights).clamp(min=0.05)
    return ids, weights
