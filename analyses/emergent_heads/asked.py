"""What is asked: settings, tasks in two halves, and checkpoints that can be compared, one at a time."""

import gc
import math
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.asking import choose_stack
from interp.circuits.estimated import SCORED
from interp.loading import load
from interp.making import weights_digest
from interp.model import Model
from interp.pairs import METRICS
from interp.registry import unknown
from interp.task import Task

if TYPE_CHECKING:
    from interp.structure import Stack

METHODS, DIRECTIONS = ("sweep", "eap_ig"), ("noise", "denoise", "both")
SHARE, STEPS = 0.05, 5  # of EAP-IG's circuits
FEWEST = 4  # records of a task: two to find heads, two to judge them


@dataclass(frozen=True)
class Settings:
    method: str
    least: float
    direction: str
    metric: str
    first: bool
    edges: int | None
    share: float
    steps: int
    draws: int
    scales: tuple[float, ...]
    seed: int
    stack: str | None
    batch: int

    @property
    def judge(self) -> str:
        """The metric of answers that tests report."""
        return "logit_diff" if self.metric == "kl" else self.metric


def checks(asked: Settings) -> None:
    """What can be refused before anything is opened."""
    metrics = SCORED if asked.method == "eap_ig" else METRICS
    for noun, given, known in (
        ("method", asked.method, METHODS), ("direction", asked.direction, DIRECTIONS),
    ):  # fmt: skip
        if given not in known:
            raise LookupError(unknown(noun, given, list(known)))
    _check_method(asked)
    if asked.metric not in metrics:
        raise LookupError(unknown("metric", asked.metric, list(metrics)))
    if not 0 < asked.least <= 1:
        raise ValueError(
            f"least={asked.least}: the share of the last checkpoint's change, above 0 and up to 1."
        )
    for name, value, low in (("draws", asked.draws, 0), ("batch", asked.batch, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}={value!r}: a whole number, {low} or more.")
    if not all(math.isfinite(one) and one >= 0 for one in asked.scales):
        raise ValueError(f"scales={asked.scales}: numbers that z is multiplied with, 0 or more.")


def _check_method(asked: Settings) -> None:
    """Settings that the method would not look at."""
    if asked.method == "sweep" and asked.metric == "kl":
        raise ValueError(
            "metric='kl' is of method='eap_ig'; a sweep reads a metric of the answers."
        )
    if asked.method == "sweep" and (asked.edges, asked.share, asked.steps) != (None, SHARE, STEPS):
        raise ValueError(
            "edges=, share= and steps= are of method='eap_ig'; a sweep is of heads, and takes least=."
        )
    if asked.method == "eap_ig" and asked.direction != "both":
        raise ValueError("direction= is of method='sweep'; EAP-IG goes from corrupted to clean.")


def check_tasks(given: Any) -> dict[str, Task]:
    """One task or several, by name."""
    if isinstance(given, Mapping):
        named = {str(name): one for name, one in given.items()}
    elif isinstance(given, (list, tuple)):
        named = {getattr(one, "name", "?"): one for one in given}
        if len(named) < len(given):
            raise ValueError("two tasks have one name; give a dict of tasks, each under its own.")
    else:
        named = {getattr(given, "name", "?"): given}
    for name, one in named.items():
        if not isinstance(one, Task):
            raise TypeError(
                f"emergent_heads takes a Task with counterfactuals, or several of them, not "
                f"{type(one).__name__}: interp.Task.load(name or file)."
            )
        if len(one) < FEWEST:
            raise ValueError(
                f"{name!r} has {len(one)} records; one half finds heads and the other judges them, so "
                f"give {FEWEST} at least."
            )
    if not named:
        raise ValueError("no task is given; interp.Task.load(name or file) makes one.")
    return named


def halves(name: str, task: Task, seed: int) -> tuple[Task, Task]:
    """Records that find heads, and records that judge them: none is in both."""
    order = list(range(len(task)))
    random.Random(seed).shuffle(order)
    middle = len(order) // 2
    one, other = (
        replace(task, name=name, records=tuple(task[number] for number in sorted(part)))
        for part in (order[:middle], order[middle:])
    )
    return one, other


def checkpoints(model: Model, before: Any, stack: str | None) -> Iterator[tuple[str, str, Model]]:
    """(label, digest of weights, model): the last, then the earlier ones in order.

    Those opened here are let go of again.
    """
    if before is None:
        raise ValueError(
            "before= names the earlier checkpoint, or several in order: a Model, a shipped name or a folder."
        )
    earlier = list(before) if isinstance(before, (list, tuple)) else [before]
    if not earlier:
        raise ValueError("before=[] names no earlier checkpoint; give one at least.")
    for one in earlier:
        if not isinstance(one, (Model, str, Path)):
            raise TypeError(f"before= takes a Model, a shipped name or a folder, not {one!r}.")
    _check_eval(model)
    shape = _shape(model, choose_stack(model.stacks, stack, model.name))
    words = _words(model)
    digest = weights_digest(model.plain)
    seen, labels = {digest: model.name}, {model.name}
    yield model.name, digest, model
    for given in earlier:
        one = (
            given
            if isinstance(given, Model)
            else load(given, device=model.device, dtype=model.hf.dtype)
        )
        _check_eval(one)
        _check_alike(one, model, stack, shape, words)
        digest = weights_digest(one.plain)
        if digest in seen:
            raise ValueError(
                f"{one.name} and {seen[digest]} have the same weights ({digest}), so that nothing can have "
                "emerged between them; give different checkpoints."
            )
        label = _label(one.name, labels)
        seen[digest] = label
        yield label, digest, one
        del one
        gc.collect()


def _label(name: str, labels: set[str]) -> str:
    """The model's name; with a number where another one has it, too."""
    label, number = name, 1
    while label in labels:
        number += 1
        label = f"{name} ({number})"
    labels.add(label)
    return label


def _check_eval(model: Model) -> None:
    if model.hf.training:
        raise ValueError(
            f"{model.name} is in training mode, in which dropout would look like change; call "
            "model.hf.eval() first."
        )


def _shape(model: Model, tower: "Stack") -> tuple[Any, ...]:
    layers = tuple(at for at, one in tower.layers.items() if one.attention is not None)
    return (
        type(model.hf).__name__,
        tower.name,
        tower.size,
        layers,
        tower.heads,
        tower.kv_heads,
        tower.d_head,
    )


def _words(model: Model) -> Any:
    return None if model.tokenizer is None else model.tokenizer.get_vocab()


def _check_alike(
    one: Model, model: Model, stack: str | None, shape: tuple[Any, ...], words: Any
) -> None:
    own = _shape(one, choose_stack(one.stacks, stack, one.name))
    if own != shape:
        raise ValueError(
            f"{one.name} is no checkpoint of {model.name}: its class, stack, layers, heads, KV heads and "
            f"head width are {own}, not {shape}. Heads can only be followed through one model."
        )
    if _words(one) != words:
        raise ValueError(
            f"{one.name} has another vocabulary than {model.name}, so that prompts and answers are not the "
            "same tokens; give checkpoints with one tokenizer."
        )
