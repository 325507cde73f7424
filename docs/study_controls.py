"""Controls of the studies: the same strength, spent where no method says it should be.

Each is a function (model, prompt) -> (prompt, hooks), as `compare` takes them.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from interp import Hook, Model, Prompt
from interp.edits import gain, press, redistribute
from interp.interventions import CARVE, PASTA, VHR, AutoPASTA
from interp.steering.rewording import again
from interp.steering.spans import first_of, from_last, over_keys, over_rows

Control = Callable[[Model, Prompt], tuple[Prompt, list[Any]]]


def random_tokens(keep: float, layers: Sequence[int], count: int = 2, seed: int = 0) -> Control:
    """Weight taken from `count` tokens drawn at random, and given to the rest: VAR's and ACT's edit."""

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        chance = torch.Generator().manual_seed(seed)
        drawn = torch.rand(prompt.mask.shape, generator=chance).masked_fill(~prompt.mask, -1)
        chosen = torch.zeros_like(prompt.mask).scatter(1, drawn.topk(count, 1).indices, True)

        def moved(pattern: Tensor, at: Any) -> Tensor:
            return redistribute(pattern, over_keys(chosen, pattern, at)[:, None, None], keep)

        return prompt, [Hook("pattern", moved, layers, "text", rows=True, within=(0, None))]

    return plan


def random_half(alpha: float, layers: Sequence[int], seed: int = 0) -> Control:
    """Half of the heads of each layer, drawn at random, count `alpha` times: VHR's edit."""

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        chance = random.Random(seed)
        heads = model.stacks["text"].heads
        hooks = []
        for layer in layers:
            factor = torch.ones(heads)
            factor[chance.sample(range(heads), heads // 2)] = alpha
            hooks.append(Hook("z", _times(factor), [layer], "text"))
        return prompt, hooks

    return plan


def other_heads(method: VHR) -> Control:
    """The heads that VHR leaves alone, counted as often as those that it chooses."""

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        chosen = method.heads(model, prompt)
        factor = {
            layer: torch.where(own, 1.0, method.alpha)[:, None] for layer, own in chosen.items()
        }
        return prompt, [Hook("z", _times(own), [layer], "text") for layer, own in factor.items()]

    return plan


def _times(factor: Tensor) -> Callable[[Tensor, Any], Tensor]:
    return lambda z, at: gain(z, factor)


def louder_words(alpha: float, layers: Sequence[int]) -> Control:
    """PAI's edit on the words of the prompt instead of the image."""

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        words, rows = prompt.mask & ~prompt.where("image"), from_last(prompt)

        def louder(scores: Tensor, at: Any) -> Tensor:
            keys = over_keys(words, scores, at)[:, None, None]
            asking = over_rows(rows, scores, at)[:, None, :, None]
            return press(scores, keys & asking, alpha * scores.abs())

        within = (first_of(rows) or 0, None)
        return prompt, [Hook("scores", louder, layers, "text", rows=True, within=within)]

    return plan


def scaled_words(boost: float, layers: Sequence[int]) -> Control:
    """VAF's boost on the words behind the image."""

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        image = prompt.where("image")
        order = torch.arange(prompt.length)
        last = torch.where(image, order, -1).amax(1, keepdim=True)
        words = prompt.mask & (order > last)

        def scaled(scores: Tensor, at: Any) -> Tensor:
            keys = over_keys(words, scores, at)[:, None, None]
            return press(scores, keys, (boost - 1) * scores)

        return prompt, [Hook("scores", scaled, layers, "text", rows=True, within=(0, None))]

    return plan


def another_sentence(method: PASTA | AutoPASTA, seed: int = 0) -> Control:
    """PASTA with these heads on a sentence of the context that is not the key one."""
    kept = {"alpha": method.alpha, "heads": method.heads, "layers": method.layers}

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        chance = random.Random(seed)
        names = [name for name in prompt.names if name.startswith("sentence ")]
        spans, key = {name: prompt.where(name) for name in names}, prompt.where("key")
        wrong = torch.zeros_like(key)
        for row in range(len(prompt)):
            others = [
                span[row]
                for span in spans.values()
                if span[row].any() and not (span[row] & key[row]).any()
            ]
            wrong[row] = chance.choice(others)
        marked = replace(prompt, spans={**prompt.spans, "another": wrong})
        return PASTA(highlight="another", **kept).plan(model, marked)

    return plan


def heads_at_random(method: PASTA, seed: int = 0) -> PASTA:
    """As many heads, drawn from all layers but those that were chosen."""
    chosen = {(int(layer), int(head)) for layer, head in method.heads}
    others = [(layer, head) for layer in range(4) for head in range(8)]
    others = [one for one in others if one not in chosen]
    return replace(method, heads=random.Random(seed).sample(others, len(chosen)))


def random_crop(method: CARVE, seed: int = 0) -> Control:
    """The question on a part of the image as large as the one CARVE shows, from anywhere."""

    def plan(model: Model, prompt: Prompt) -> tuple[Prompt, list[Any]]:
        chance = random.Random(seed)
        images: list[list[Any]] = [[] for _ in range(len(prompt))]
        for part in method.refined(model, prompt):
            left, top, right, bottom = part.box
            wide, high = part.original.size
            across, down = right - left, bottom - top
            x, y = chance.randint(0, wide - across), chance.randint(0, high - down)
            crop = part.original.crop((x, y, x + across, y + down))
            scale = max(wide / across, high / down)
            size = (max(1, round(across * scale)), max(1, round(down * scale)))
            images[part.row].append(crop.resize(size))
        return again(model, prompt, images), []

    return plan
