"""The model under question, and what has been found of it so far."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.batches import Batch, batches
from interp.metrics import Metric
from interp.prompt import Prompt
from interp.structure import Stack
from interp.weights import HeadWeights, head_weights

if TYPE_CHECKING:
    from interp.model import Model


@dataclass
class Asked:
    """Columns are [layer, head]; notes say what was left out, and why."""

    model: "Model"
    stack: Stack
    layers: list[int]
    task: Any
    batch: int
    looks_at_weights: bool = True
    columns: dict[str, Tensor] = field(default_factory=dict)
    tables: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def batches(self, given: Any = None) -> Iterator[Batch]:
        return batches(self.model, self.task if given is None else given, "heads", self.batch)

    def keep(self, prompt: Prompt, metrics: dict[str, Metric]) -> dict[str, Tensor]:
        """Each metric as [example, layer, head, ...]."""
        with torch.no_grad():
            trace = self.model.trace(prompt, keep=metrics, stack=self.stack.name)
        return {name: trace[name].transpose(0, 1).float().cpu() for name in metrics}

    @cached_property
    def weights(self) -> HeadWeights:
        within = self.stack.name == "vision" and self.model.kind != "vision"
        prompt = next(self.batches()).prompt if within else None
        return head_weights(self.model, self.stack.name, self.layers, prompt)

    def by_weights(self, what: str, ask: Callable[[HeadWeights], dict[str, Tensor]]) -> None:
        """Add what the weights say, or the note why they do not."""
        try:
            found = ask(self.weights)
        except ValueError as problem:
            self.leave_out(what, str(problem))
            return
        self.columns |= {name: values.cpu() for name, values in found.items()}

    def composition(self, samples: int, seed: int) -> dict[str, Tensor]:
        try:
            found = self.weights.composition(samples, seed)
        except ValueError as problem:
            self.leave_out("composition", str(problem))
            return {}
        return {f"composition {kind}": score.cpu() for kind, score in found.items()}

    def leave_out(self, what: str, why: str) -> None:
        note = f"{what} was left out: {why}"
        if note not in self.notes:
            self.notes.append(note)


class Means:
    """Means over examples, by name, of the examples that have them."""

    def __init__(self) -> None:
        self.parts: dict[str, list[Tensor]] = {}

    def add(self, found: dict[str, Tensor]) -> None:
        for name, values in found.items():
            self.parts.setdefault(name, []).append(values)

    def means(self) -> dict[str, Tensor]:
        whole = {name: torch.cat(parts) for name, parts in self.parts.items()}
        return {name: values.mean(0) for name, values in whole.items() if len(values)}
