"""Runs whose gradients are averaged: at the clean prompt, at both ends, or on the way between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from interp.attribution.contrast import Contrast, Ran
from interp.registry import unknown
from interp.sites import Hook
from interp.trace import Trace

RULES = ("left", "right", "midpoint")
WAYS = ("clean", "ends", "inputs", "activations")
MODULES = (
    "z",
    "mlp_out",
)  # outputs that are walked one at a time; z: all heads of a layer together


@dataclass(frozen=True, eq=False)
class Step:
    """A run, its share in the average, and of which parts it tells: None for all of them.

    A part is a site and a layer; ("resid_pre", first layer) is the input.
    """

    ran: Ran
    weight: float
    part: tuple[str, int] | None = None


def fractions(steps: int, rule: str) -> list[float]:
    """How far from corrupted (0) to clean (1) each step stands.

    "left" is EAP-IG's rule for edges, k = 0 .. steps - 1; "right" its rule for nodes, k = 1 .. steps;
    "midpoint", (k - 1/2) / steps, comes nearest to the integral.
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps={steps!r}: the way from corrupted to clean takes at least 1.")
    if rule not in RULES:
        raise LookupError(unknown("rule", rule, list(RULES)))
    shift = {"left": 0.0, "right": 1.0, "midpoint": 0.5}[rule]
    return [(k + shift) / steps for k in range(steps)]


def between(corrupted: Tensor, clean: Tensor, fraction: float) -> Tensor:
    return corrupted + fraction * (clean - corrupted)


@dataclass(frozen=True, eq=False)
class Walk:
    """From corrupted to clean: which way, in how many steps, and by which rule (see `fractions`)."""

    way: str
    steps: int = 1
    rule: str = "left"

    def __post_init__(self) -> None:
        if self.way not in WAYS:
            raise LookupError(unknown("way", self.way, list(WAYS)))
        fractions(self.steps, self.rule)

    @property
    def starts_corrupted(self) -> bool:
        """Whether the first run is the corrupted one: the clean prompt with the other's input."""
        return self.way == "inputs" and fractions(self.steps, self.rule)[0] == 0.0

    def runs(
        self,
        given: Contrast,
        sites: Sequence[str],
        ends: tuple[Trace, Trace] | None,
        note: Sequence[nn.Module] = (),
    ) -> Iterator[Step]:
        """One run at a time. `ends`, values of the clean and the corrupted run, are for activations."""
        if self.way == "clean":
            yield Step(given.run(*sites, note=note), 1.0)
        elif self.way == "ends":
            for prompt in (given.clean, given.corrupted):
                yield Step(given.run(*sites, prompt=prompt, note=note), 0.5)
        else:
            yield from self._inputs(given, sites, note)
            if self.way == "activations":
                assert ends is not None
                yield from self._outputs(given, sites, ends, note)

    def _inputs(
        self, given: Contrast, sites: Sequence[str], note: Sequence[nn.Module]
    ) -> Iterator[Step]:
        clean, corrupted = given.start(given.clean), given.start(given.corrupted)
        part = ("resid_pre", given.first) if self.way == "activations" else None
        for fraction in fractions(self.steps, self.rule):
            start = between(corrupted, clean, fraction)
            yield Step(given.run(*sites, start=start, note=note), 1 / self.steps, part)

    def _outputs(
        self,
        given: Contrast,
        sites: Sequence[str],
        ends: tuple[Trace, Trace],
        note: Sequence[nn.Module],
    ) -> Iterator[Step]:
        clean, corrupted = ends
        for part in [(site, layer) for site in MODULES for layer in clean.layers(site)]:
            for fraction in fractions(self.steps, self.rule):
                value = between(corrupted[part], clean[part], fraction)
                hook = Hook(part[0], _giving(value), [part[1]], given.stack.name)
                yield Step(given.run(*sites, hooks=[hook], note=note), 1 / self.steps, part)


def _giving(value: Tensor) -> Any:
    def interpolated(old: Tensor, at: Any) -> Tensor:
        # A new leaf: what led to the old value tells nothing about this one.
        return value.detach().requires_grad_()

    return interpolated
