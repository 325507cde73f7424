"""What each head of one checkpoint does for one task: exact effects of patching it, or EAP-IG's estimate."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from analyses.emergent_heads.asked import Settings
from analyses.emergent_heads.judging import Answers, answers
from interp.circuits import estimated, node_effects
from interp.pairs import Pair, pairs
from interp.readouts import divergence
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

Head = tuple[int, int]
WHO = "emergent_heads"
DIRECTIONS = {"noise": "noising", "denoise": "denoising"}
NOTHING = 1e-6  # of the metric's size: no change


@dataclass(eq=False)
class Measured:
    """One checkpoint on one task.

    `effects`: of each head, the records' effects [record], or one number for an estimate; `inside` the
    heads that an estimated circuit holds.
    """

    checkpoint: str
    task: str
    change: float  # of the metric's mean, from corrupted to clean
    effects: dict[Head, Tensor]
    sizes: dict[Head, float]  # mean size of effects
    held_out: Answers
    inside: frozenset[Head] | None = None

    @property
    def shares(self) -> dict[Head, float]:
        """Sizes with a sum of 1."""
        total = sum(self.sizes.values())
        return {head: size / total if total else 0.0 for head, size in self.sizes.items()}


def measured(
    model: "Model",
    label: str,
    name: str,
    finding: Task,
    judging: Task,
    asked: Settings,
    scale: float | None,
) -> Measured:
    """`scale`: the last checkpoint's change; None where this is the last one."""
    held_out = answers(model, judging, asked)
    if asked.method == "eap_ig":
        return _estimated(model, label, name, finding, held_out, asked, scale)
    found = {way: _swept(model, finding, asked, way) for way in _ways(asked)}
    change = next(iter(found.values()))[0]
    _check_change(change, label, name, scale)
    effects = {}
    for head in next(iter(found.values()))[1]:
        ways = [of[head] for _, of in found.values()]
        effects[head] = max(ways, key=lambda values: abs(float(values.mean())))
    sizes = {head: float(values.abs().mean()) for head, values in effects.items()}
    return Measured(label, name, change, effects, sizes, held_out)


def _ways(asked: Settings) -> tuple[str, ...]:
    return ("noise", "denoise") if asked.direction == "both" else (asked.direction,)


def _swept(
    model: "Model", task: Task, asked: Settings, way: str
) -> tuple[float, dict[Head, Tensor]]:
    """The change of the metric, and how much of it patching each head takes away (or brings back)."""
    found = node_effects(
        model, task, DIRECTIONS[way], asked.metric, asked.batch, asked.stack,
        asked.first, ("head",),
    )  # fmt: skip
    sign = -1.0 if way == "noise" else 1.0
    effects = sign * (found.patched - found.start).double()
    heads = [(one.layer, one.head) for one in found.nodes]
    change = float((sign * (found.goal - found.start)).mean())
    return change, dict(zip(heads, effects, strict=True))


def _estimated(
    model: "Model",
    label: str,
    name: str,
    finding: Task,
    held_out: Answers,
    asked: Settings,
    scale: float | None,
) -> Measured:
    change = _change(model, finding, asked)
    _check_change(change, label, name, scale)
    least = asked.least * abs(change if scale is None else scale)
    found = estimated(
        model, finding, asked.edges, asked.share, asked.steps, metric=asked.metric, least=least,
        stack=asked.stack, batch=asked.batch, first=asked.first,
    )  # fmt: skip
    effects = {head: torch.tensor([size]).double() for head, size in found.heads.items()}
    inside = frozenset(head for head, size in found.heads.items() if size > 0)
    return Measured(label, name, change, effects, dict(found.heads), held_out, inside)


def _change(model: "Model", task: Task, asked: Settings) -> float:
    """Of the metric's mean from corrupted to clean; of "kl", the corrupted prompts' divergence."""
    found = []
    for pair in pairs(model, task, WHO, asked.batch):
        with torch.no_grad():
            clean, other = model.logits(pair.clean), model.logits(pair.corrupted)
        metric = _metric(model, pair, clean, asked)
        one, two = metric(clean, pair.clean), metric(other, pair.corrupted)
        found.append((two - one if asked.metric == "kl" else one - two).cpu())
    return float(torch.cat(found).mean())


def _metric(model: "Model", pair: Pair, clean: Tensor, asked: Settings) -> Any:
    if asked.metric == "kl":
        return divergence(clean).bind(model, pair.clean)
    return pair.metric(model, asked.metric, asked.first)


def _check_change(change: float, label: str, name: str, scale: float | None) -> None:
    if scale is None and not abs(change) > NOTHING:
        raise ValueError(
            f"the counterfactuals of {name!r} do not change the metric of {label}, the last checkpoint, so "
            "that no head can have a share in it; give counterfactuals that change the answer, or another "
            "metric=."
        )
