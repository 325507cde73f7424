"""What is put into a cell: another run's values, nothing, means, another row's, noise, a function's."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from interp.live import version
from interp.metrics import owns
from interp.registry import unknown
from interp.replay.changes import taken
from interp.sites import MAP_SITES, At, Hook
from interp.trace import Trace

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt
    from interp.replay import Replay
    from interp.structure import Stack

TAKES = ("zero", "mean", "mean_all", "resample", "noise")


Function = Callable[[Tensor, At], Tensor | None]


class Source:
    """The values to put at one site, by layer: of the site's own shape."""

    def __init__(
        self,
        model: "Model",
        site: str,
        stack: "Stack",
        take: Any,
        reference: Any,
        scale: float,
        seed: int,
        layers: list[int],
        several: bool,
    ):
        if isinstance(take, str) and take not in TAKES:
            raise LookupError(unknown("take", take, list(TAKES)))
        if not isinstance(take, (str, Mapping)) and not callable(take):
            raise TypeError(
                f"take= is a Trace, one of {', '.join(TAKES)}, a mapping layer -> tensor, or a function "
                f"(value, at) -> value, not {type(take).__name__}."
            )
        if reference is not None and take not in ("mean", "mean_all", "resample"):
            raise ValueError("reference= goes with take='mean', 'mean_all' or 'resample'.")
        self.model, self.site, self.stack, self.take = model, site, stack, take
        self.reference, self.scale, self.seed = reference, scale, seed
        if take == "noise" and site in MAP_SITES:
            raise ValueError(
                f"noise on {site} leaves no {site} behind; add it to q, k or another site."
            )
        self.layers = layers  # all that some cell changes
        # Later layers of a cell see what its earlier ones made: a function is called on that.
        self.called = several and (take == "noise" or self._is_function())
        self.run: dict[int, Tensor] = {}  # what the run has
        self.made: dict[int, Tensor] = {}  # what a function made of it
        self.values: dict[int, Tensor] = {}
        self.extent = (0, 0)  # rows and positions of the site (queries of a map)
        self.owned = False  # those are the prompt's

    def _is_function(self) -> bool:
        return callable(self.take) and not isinstance(self.take, (Trace, Mapping))

    def readers(self) -> list[Hook]:
        """Keep the run's own values on the way, and what a function makes of them."""
        return [Hook(self.site, self._record, layers=self.layers, stack=self.stack.name)]

    def _record(self, value: Tensor, at: At) -> None:
        if at.layer in self.run:
            raise ValueError(f"the {at.stack} stack passes {at.site} several times in one forward (windows, "
                             "several images, or another run inside a function): not served.")  # fmt: skip
        self.run[at.layer] = value.detach()
        if self._is_function() and not self.called:
            before = version(value)
            made = cast("Function", self.take)(value, at)
            if version(value) != before:
                raise RuntimeError(
                    "the function of take= changed its value in place; return a changed copy."
                )
            self.made[at.layer] = (
                value.detach() if made is None else self._shaped(made, value, at.layer)
            )

    def check_prompt(self, what: str, prompt: "Prompt") -> None:
        if not self.owned:
            raise ValueError(
                f"{what} lies on the prompt's {prompt.length} positions, and {self.site} of the "
                f"{self.stack.name} stack has {self.extent[1]}; give positions= as numbers."
            )

    def fill(self, replay: "Replay") -> None:
        if not self.run:
            raise LookupError(
                f"nothing passed {self.site} of the {self.stack.name} stack with this prompt."
            )
        value = next(iter(self.run.values()))
        self.extent = (value.shape[0], value.shape[2 if self.site in MAP_SITES else 1])
        alike = (len(replay.prompt), replay.prompt.length) == self.extent
        self.owned = alike and owns(self.stack.name, replay.prompt, self.site)
        self.values = self._filled(replay)
        if self.site == "scores" and replay.path != "whole":
            self._as_pattern(replay)

    def _filled(self, replay: "Replay") -> dict[int, Tensor]:
        take = self.take
        if self._is_function():
            return self.made
        if isinstance(take, Trace):
            return self._of_trace(take, replay)
        if isinstance(take, Mapping):
            size = self.stack.size
            given = {key + size if key < 0 else key: value for key, value in take.items()}
            return {layer: self._shaped(value, self.run[layer], layer) for layer, value in given.items()
                    if layer in self.run}  # fmt: skip
        if take == "zero":
            return {layer: torch.zeros_like(value) for layer, value in self.run.items()}
        if take == "noise":
            return {layer: self._noised(value, layer, replay) for layer, value in self.run.items()}
        return self._of_reference(replay)

    def _shaped(self, value: Any, like: Tensor, layer: int) -> Tensor:
        if not isinstance(value, Tensor):
            raise TypeError(
                f"take= gave {type(value).__name__} for layer {layer}; it has to be a tensor."
            )
        if value.shape != like.shape:
            raise ValueError(
                f"take= gave {tuple(value.shape)} for {self.site} of layer {layer}, and the run has "
                f"{tuple(like.shape)}; the shape must be the same."
            )
        return value.detach().to(like)

    def _of_trace(self, trace: Trace, replay: "Replay") -> dict[int, Tensor]:
        theirs, own = trace.prompt, replay.prompt
        if (len(theirs), theirs.length) != (len(own), own.length):
            raise ValueError(
                f"the trace is of {len(theirs)} x {theirs.length} tokens and the prompt of {len(own)} x "
                f"{own.length}: values are put at the same row and position, so clean and corrupted prompts "
                "must be as many and of one length. Choose a counterfactual with as many tokens."
            )
        if not torch.equal(theirs.mask.cpu(), own.mask.cpu()):
            raise ValueError(
                "the trace's prompt is padded at other positions than this one; encode both alike."
            )
        layers = trace.layers(self.site, self.stack.name)
        if not layers:
            raise LookupError(
                f"the trace holds no {self.site} of the {self.stack.name} stack: "
                f"model.trace(prompt, {self.site!r}, stack={self.stack.name!r}). {trace}"
            )
        return {layer: self._shaped(trace[self.site, layer, self.stack.name], self.run[layer], layer)
                for layer in layers if layer in self.run}  # fmt: skip

    def need(self, layer: int) -> Tensor:
        if layer not in self.values:
            raise LookupError(
                f"take= holds no {self.site} of layer {layer}; it has layers {sorted(self.values)}: record "
                "them too, or restrict layers=."
            )
        return self.values[layer]

    # Means, other rows, noise

    def _of_reference(self, replay: "Replay") -> dict[int, Tensor]:
        reference = self.reference
        if reference is None:
            values, own = self.run, True
            mask = replay.prompt.mask if self.owned else torch.ones(self.extent, dtype=torch.bool)
        else:
            trace = reference
            if not isinstance(reference, Trace):
                with torch.no_grad():
                    trace = self.model.trace(reference, self.site, stack=self.stack.name)
            held = set(trace.layers(self.site, self.stack.name))
            if missing := sorted(set(self.run) - held):
                raise LookupError(
                    f"the reference holds no {self.site} of layers {missing}; record them too."
                )
            values, own = (
                {layer: trace[self.site, layer, self.stack.name] for layer in self.run},
                False,
            )
            first = next(iter(values.values()))
            mask = torch.ones(first.shape[:2], dtype=torch.bool)
            if (
                owns(self.stack.name, trace.prompt, self.site)
                and trace.prompt.mask.shape == mask.shape
            ):
                mask = trace.prompt.mask
        rows = len(next(iter(values.values())))
        if own and rows < 2 and self.take != "mean_all":
            raise ValueError(
                f"take={self.take!r} with one row: its mean is the row itself, and there is no other to be "
                "drawn. Give reference= (a Prompt or Trace of other texts), or several rows."
            )
        if self.take == "mean_all":
            return {
                layer: self._mean_of_all(value.detach(), mask, layer)
                for layer, value in values.items()
            }
        self._check_aligned(values, mask)
        if self.take == "mean":
            return {layer: value.detach().mean(0, keepdim=True).expand_as(self.run[layer]).contiguous()
                    for layer, value in values.items()}  # fmt: skip
        order = _others(len(next(iter(self.run.values()))), rows, self.seed, own)
        return {layer: value.detach()[order] for layer, value in values.items()}

    def _check_aligned(self, values: dict[int, Tensor], mask: Tensor) -> None:
        layer, value = next(iter(values.items()))
        if value.shape[1:] != self.run[layer].shape[1:]:
            raise ValueError(
                f"the reference's {self.site} is {tuple(value.shape)} and the run's "
                f"{tuple(self.run[layer].shape)}: positions can only be matched in prompts of one "
                "length; take='mean_all' needs no positions."
            )
        if not bool(mask.all()):
            raise ValueError(
                f"take={self.take!r} matches positions, and the reference is padded; give rows of one "
                "length, or take='mean_all'."
            )

    def _mean_of_all(self, value: Tensor, mask: Tensor, layer: int) -> Tensor:
        if self.site in MAP_SITES:
            raise ValueError(
                f"a mean over positions of {self.site} is no {self.site}; take='mean' keeps positions."
            )
        fits = mask.shape == value.shape[:2]
        real = value[mask.to(value.device)] if fits else value.flatten(0, 1)
        return real.mean(0).expand_as(self.run[layer]).contiguous()

    def _noised(self, value: Tensor, layer: int, replay: "Replay") -> Tensor:
        return value + self.noise(value, layer, replay)

    def noise(self, value: Tensor, layer: int, replay: "Replay") -> Tensor:
        """`scale` standard deviations of what stands there, drawn once for each layer."""
        generator = torch.Generator().manual_seed(self.seed * 100_003 + layer)
        drawn = torch.randn(value.shape, generator=generator).to(value)
        real = value[replay.prompt.mask.to(value.device)] if self.owned else value
        return self.scale * real.std() * drawn

    def function(self, replay: "Replay") -> Function:
        """For windows: what is done to the values of the changed run itself."""
        if self.take != "noise":
            return cast("Function", self.take)
        return lambda value, at: value + self.noise(self.run[at.layer], at.layer, replay)

    def _as_pattern(self, replay: "Replay") -> None:
        """Scores say the same as the pattern that the family makes of them, which needs no forward a cell."""
        given = self.values

        def put(value: Tensor, at: At) -> Tensor | None:
            return given[at.layer].to(value) if at.layer in given else None

        with torch.no_grad():
            hooks = [*replay.hooks, Hook("scores", put, stack=self.stack.name)]
            trace = self.model.trace(replay.prompt, "pattern", stack=self.stack.name, hooks=hooks)
        self.values = {layer: trace["pattern", layer, self.stack.name] for layer in given}
        self.site = "pattern"
        self.run = {}

    def equal(
        self, layer: int, rows: Tensor, places: Tensor, heads: Tensor | None, new: Tensor
    ) -> Tensor:
        """[n]: where what is put is what the run has."""
        if layer not in self.run:
            return torch.zeros(len(rows), dtype=torch.bool)
        own = taken(self.run[layer], self.site, rows, places, heads)
        return (own == new).flatten(1).all(1).cpu()


def _others(rows: int, given: int, seed: int, own: bool) -> Tensor:
    """Another row for each; never itself."""
    generator = torch.Generator().manual_seed(seed)
    if not own:
        return torch.randint(given, (rows,), generator=generator)
    order = torch.randperm(rows, generator=generator)
    found = torch.empty_like(order)
    found[order] = order.roll(1)  # a ring in random order: no row is its own successor
    return found
