"""Heads of demo-lm: which rest on <bos>, which look back, and which wake up when wanted."""

import random
from collections.abc import Sequence

import torch
from torch import Tensor

from interp import Hook, Model
from interp.scoring import score
from interp.tasks import TASKS
from interp.tasks.words import WORDS

WOKEN = (
    ("facts", {}),
    ("ioi", {}),
    ("induction", {}),
    ("colored_objects", {}),
    ("open_book", {"kind": "who", "sentences": 8}),
    ("open_book", {"kind": "where", "sentences": 8}),
)
RESTING, SMALL = 0.5, 0.2  # attention on <bos>, and its value's norm over that of the others


def measure(model: Model, count: int) -> dict[str, float]:
    found = {}
    for name, settings in (("facts", {}), ("open_book", {"sentences": 8}), ("ioi", {})):
        found[f"sink heads with a drained value, {name}"] = float(len(sinks(model, name, settings)))
    found |= looking_back(model)
    return found | dormant(model, count)


def sinks(model: Model, task: str, settings: dict[str, int]) -> list[tuple[int, int]]:
    """Heads with more than half of their attention on <bos>, whose value there is small."""
    prompt = TASKS[task](40, "test", **settings).encode(model)
    with torch.no_grad():
        trace = model.trace(prompt, "pattern", "v")
    first, real = prompt.where("first"), prompt.mask
    later = real & (real.long().cumsum(1) > 2)  # the first tokens have little else to look at
    found = []
    for layer in range(model.config.num_hidden_layers):
        pattern, values = trace["pattern", layer], trace["v", layer].norm(dim=-1)
        onto = (pattern * first[:, None, None]).sum(-1).transpose(1, 2)[later].mean(0)
        ratio = values[first].mean(0) / values[real & ~first].mean(0)
        ratio = ratio.repeat_interleave(len(onto) // len(ratio))  # a value group serves many heads
        both = (onto > RESTING) & (ratio < SMALL)
        found += [(layer, int(head)) for head in both.nonzero()]
    return found


def repeated_words(count: int = 40, length: int = 20) -> list[str]:
    chance = random.Random("repeated words")
    runs = [chance.sample(WORDS, length) for _ in range(count)]
    return [" ".join([*run, *run]) for run in runs]


def looking_back(model: Model, length: int = 20) -> dict[str, float]:
    """The best previous-token and induction heads on repeated random words."""
    prompt = model.encode(repeated_words(length=length))
    with torch.no_grad():
        trace = model.trace(prompt, "pattern")
    layers = range(model.config.num_hidden_layers)
    patterns = torch.stack([trace["pattern", layer] for layer in layers])
    previous = _diagonal(patterns, 1, range(2, 2 * length + 1))
    induction = _diagonal(patterns, length - 1, range(length + 1, 2 * length + 1))
    said = trace.logits[:, :-1].argmax(-1)
    ids = prompt.inputs["input_ids"]
    second = (said[:, length + 1 :] == ids[:, length + 2 :]).float().mean()
    first = (said[:, 1 : length - 1] == ids[:, 2:length]).float().mean()
    return {
        "best previous-token head": float(previous.max()),
        "best induction head": float(induction.max()),
        "induction heads above 0.5": float((induction > 0.5).sum()),
        "induction, second half of repeated words": float(second),
        "induction, first half": float(first),
    }


def _diagonal(patterns: Tensor, back: int, rows: range) -> Tensor:
    """Mean attention [layer, head] from each row to the token `back` places before."""
    queries = torch.tensor(list(rows))
    return patterns[..., queries, queries - back].mean((1, 3))


def dormant(model: Model, count: int) -> dict[str, float]:
    """One head of layer 3 removed: nothing to facts, IOI and repeats, on which it rests; all to the
    questions whose answer it reads. The other guided reader beside it."""
    found = {}
    for name, heads in (("L3H3", (3,)), ("L3H1", (1,))):
        for task, settings in WOKEN:
            asked = TASKS[task](count, "test", **settings)
            right = score(model, asked, hooks=silenced(3, heads))["right"].mean()
            told = " ".join([task, *map(str, settings.values())])
            found[f"{told} without {name}"] = float(right)
    repeats = TASKS["induction"](count, "test")
    right = score(model, repeats, hooks=silenced(2, range(8)))["right"].mean()
    return found | {"induction without any head of layer 2": float(right)}


def silenced(layer: int, heads: Sequence[int]) -> Hook:
    return Hook("z", lambda z, at: z * 0, layers=[layer], heads=list(heads))
