"""One training loop for all recipes: by steps, from a seed, resumable to the same weights.

Randomness of a step comes from the seed and the step's number alone, so that nothing but weights
and optimiser state has to be kept to go on after a kill.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

RUNS = (
    Path(__file__).parents[2] / "runs" / "recipes"
)  # unfinished and unshipped runs; git does not see them
Losses = Iterator[tuple[str, Tensor]]


@dataclass
class Phase:
    """A stretch of training with its own data and optimisers.

    `losses(step, chance)` yields named losses, each backpropagated as it comes. `rate(fraction)`
    scales every learning rate. `watch(step)` may measure on the validation split, for the log.
    """

    name: str
    steps: int
    optimizers: Callable[[], list[Optimizer]]
    losses: Callable[[int, random.Random], Losses]
    rate: Callable[[float], float]
    start: Callable[[], None] = lambda: None
    watch: Callable[[int], dict[str, float]] = lambda step: {}
    watch_every: int = 0


@dataclass
class Training:
    """A model on its way through its phases; `folder` holds its state and its log."""

    model: nn.Module
    phases: Sequence[Phase]
    folder: Path
    seed: int
    keep_every: int = 200
    log: list[dict[str, Any]] = field(default_factory=list)
    spent: float = 0.0  # CPU seconds in all

    @property
    def begun(self) -> bool:
        return (self.folder / "state.pt").exists()

    def run(self) -> None:
        """Train from where the folder stands to the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        state = self._read()
        for order, phase in enumerate(self.phases):
            if state and order < state["phase"]:
                continue
            self._phase(order, phase, state)
            state = None
        self._write(len(self.phases), 0, [])

    def _phase(self, order: int, phase: Phase, state: dict[str, Any] | None) -> None:
        begun = state is not None and state["step"] > 0
        if not begun:
            torch.manual_seed(self.seed * 1000 + order)
            phase.start()
        optimizers = phase.optimizers()
        rates = [[group["lr"] for group in each.param_groups] for each in optimizers]
        first = 0
        if state is not None and begun:
            first = state["step"]
            for each, kept in zip(optimizers, state["optimizers"], strict=True):
                each.load_state_dict(kept)
        started, before = time.process_time(), self.spent
        bar = tqdm(
            range(first, phase.steps),
            desc=phase.name,
            initial=first,
            total=phase.steps,
            disable=not sys.stderr.isatty(),
        )
        running: dict[str, float] = {}
        for step in bar:
            scale = phase.rate(step / phase.steps)
            for each, own in zip(optimizers, rates, strict=True):
                for group, rate in zip(each.param_groups, own, strict=True):
                    group["lr"] = rate * scale
            self._step(phase, step, optimizers, running)
            self.spent = before + time.process_time() - started
            bar.set_postfix({key: f"{value:.3f}" for key, value in running.items()})
            done = step + 1
            if phase.watch_every and done % phase.watch_every == 0:
                self._note(phase, done, running)
            if done % self.keep_every == 0:
                self._write(order, done, optimizers)

    def _step(
        self, phase: Phase, step: int, optimizers: list[Optimizer], running: dict[str, float]
    ) -> None:
        chance = random.Random(f"{self.seed} {phase.name} {step}")
        for name, loss in phase.losses(step, chance):
            loss.backward()
            value = loss.item()
            running[name] = 0.97 * running.get(name, value) + 0.03 * value
        groups = [group["params"] for each in optimizers for group in each.param_groups]
        nn.utils.clip_grad_norm_([weight for group in groups for weight in group], 1.0)
        for each in optimizers:
            each.step()
            each.zero_grad(set_to_none=True)

    def _note(self, phase: Phase, done: int, running: dict[str, float]) -> None:
        self.model.eval()
        with torch.no_grad():
            seen = phase.watch(done)
        self.model.train()
        line = {"phase": phase.name, "step": done, "cpu": round(self.spent), **running, **seen}
        line = {key: round(v, 4) if isinstance(v, float) else v for key, v in line.items()}
        self.log.append(line)
        with (self.folder / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _write(self, phase: int, step: int, optimizers: list[Optimizer]) -> None:
        """To a temporary name first, so that a kill leaves the last state whole."""
        state = {
            "phase": phase,
            "step": step,
            "model": self.model.state_dict(),
            "optimizers": [each.state_dict() for each in optimizers],
            "spent": self.spent,
            "log": self.log,
        }
        part = self.folder / "state.part"
        torch.save(state, part)
        part.replace(self.folder / "state.pt")

    def _read(self) -> dict[str, Any] | None:
        if not self.begun:
            return None
        state = torch.load(self.folder / "state.pt", weights_only=True)
        self.model.load_state_dict(state["model"])
        self.spent, self.log = state["spent"], state["log"]
        return state


def ramp(value: float, start: float, end: float) -> float:
    """1 before `start`, 0 after `end`, a line between."""
    if value < start:
        return 1.0
    return max(0.0, (end - value) / (end - start))


def warmed(fraction: float, warm: float, flat: float, last: float = 0.02) -> float:
    """A learning rate's scale: up over `warm`, level until `flat`, then down a line to `last`."""
    return min(1.0, (fraction + 1e-6) / warm) * max(last, ramp(fraction, flat, 1.0))


def muon_and_adam(
    matrices: list[Tensor], others: list[Tensor], muon: float = 0.02, adam: float = 2e-3
) -> list[Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, norms and heads."""
    return [
        torch.optim.Muon(matrices, lr=muon, weight_decay=0.1, momentum=0.95),
        torch.optim.AdamW(others, lr=adam, weight_decay=0.01, betas=(0.9, 0.98)),
    ]
