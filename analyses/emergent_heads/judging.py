"""The held-out half: what the last checkpoint answers with heads silenced or scaled, beside random heads."""

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analyses.emergent_heads.asked import Settings
from interp.asking import choose_stack
from interp.batches import batches
from interp.edits import gain, silence
from interp.pairs import answers_metric
from interp.readouts import Readout
from interp.scoring import answer_ids, last_logits
from interp.sites import At, Hook
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

WHO = "emergent_heads"
Head = tuple[int, int]
PLAIN, SILENCED, RANDOM, ONLY = "plain", "emergent silenced", "random silenced", "only "


@dataclass(eq=False)
class Answers:
    """Of each held-out record: whether its next token is right, and the metric."""

    right: Tensor
    metric: Tensor


@dataclass(eq=False)
class Judged:
    """A task with heads of the last checkpoint changed; `factor` 0 silences them, None: unchanged."""

    task: str
    condition: str
    heads: tuple[Head, ...]
    factor: float | None
    answers: Answers
    draw: int | None = None


def answers(
    model: "Model", task: Task, asked: Settings, heads: Iterable[Head] = (), factor: float = 1.0
) -> Answers:
    """One forward of each record, with `heads` times `factor` at all positions."""
    hooks = scaled(model, heads, factor, asked.stack)
    count = len(task)
    right, metric = torch.zeros(count), torch.zeros(count)
    for part in batches(model, task, WHO, asked.batch):
        with torch.no_grad():
            logits = model.logits(part.prompt, hooks=hooks)
        judge: Readout = answers_metric(model, part.prompt, part.records, asked.judge, asked.first)
        numbers = list(part.numbers)
        metric[numbers] = judge(logits, part.prompt).float().cpu()
        said = last_logits(model, logits, part.prompt).argmax(-1).tolist()
        for row, (record, number) in enumerate(zip(part.records, numbers, strict=True)):
            right[number] = float(said[row] in answer_ids(model, part.prompt, row, record.answers))
    return Answers(right, metric)


def scaled(
    model: "Model", heads: Iterable[Head], factor: float, stack: str | None = None
) -> list[Hook]:
    """Hooks that multiply the z of heads; with 0 nothing of them is written."""
    tower = choose_stack(model.stacks, stack, model.name)
    by_layer: dict[int, list[int]] = {}
    for layer, head in sorted(heads):
        by_layer.setdefault(layer, []).append(head)

    def change(z: Tensor, at: At) -> Tensor:  # [batch, position, the chosen heads, d_head]
        return silence(z) if factor == 0 else gain(z, torch.full(z.shape[:-1], factor))

    return [Hook("z", change, [layer], tower.name, chosen) for layer, chosen in by_layer.items()]


def emergent(own: Any) -> list[Head]:
    """The heads with that status, of one task's rows."""
    return _having(own, "emergent")


def _having(own: Any, status: str) -> list[Head]:
    some = own[own["status"] == status]
    return [
        (int(layer), int(head)) for layer, head in zip(some["layer"], some["head"], strict=True)
    ]


def judged(
    model: "Model",
    name: str,
    task: Task,
    own: Any,
    emerged: Mapping[str, list[Head]],
    asked: Settings,
) -> list[Judged]:
    """Every test of one task; `own` are its rows of the table of heads, `emerged` those of all tasks."""

    def run(condition: str, heads: list[Head], factor: float, draw: int | None = None) -> Judged:
        found = answers(model, task, asked, heads, factor)
        return Judged(name, condition, tuple(heads), factor, found, draw)

    new, retained = emerged[name], _having(own, "retained")
    found = [Judged(name, PLAIN, (), None, answers(model, task, asked))]
    if new:
        found.append(run(SILENCED, new, 0.0))
        found += [run(f"emergent x {factor:g}", new, factor) for factor in asked.scales]
        found += [run(f"{ONLY}{listed(part)}", part, 0.0) for part in _parts(new)]
    if retained:
        found.append(run("retained silenced", retained, 0.0))
    for other, heads in emerged.items():
        if other != name and heads:
            found.append(run(f"emergent for {other} silenced", heads, 0.0))
    others = [
        (int(layer), int(head))
        for layer, head in zip(own["layer"], own["head"], strict=True)
        if (layer, head) not in new
    ]
    for number, heads in enumerate(_drawn(others, len(new), asked)):
        found.append(run(RANDOM, heads, 0.0, number))
    return found


def _parts(heads: list[Head]) -> list[list[Head]]:
    """Each head alone, then those of a layer together: heads that back each other up show there."""
    layers = sorted({layer for layer, _ in heads})
    together = [[one for one in heads if one[0] == layer] for layer in layers]
    return [[one] for one in heads] + [part for part in together if 1 < len(part) < len(heads)]


def listed(heads: Iterable[Head]) -> str:
    return ", ".join(f"{layer}.{head}" for layer, head in heads)


def _drawn(others: list[Head], size: int, asked: Settings) -> list[list[Head]]:
    """Seeded sets of as many heads that did not emerge; none where there are not as many."""
    if not size or size > len(others):
        return []
    chance = random.Random(asked.seed)
    return [sorted(chance.sample(others, size)) for _ in range(asked.draws)]
