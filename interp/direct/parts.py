"""From the last layer to the first: along which direction a part counts, and how much of it there is."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from interp.direct.directions import NotLinear, close, elsewhere, frozen_direction, typical
from interp.direct.passes import Change, Frozen, Key

NOISE = 64  # roundings by which a sum of a layer's parts may be off


@dataclass(eq=False)
class Taken:
    """A run taken apart: numbers [batch], of heads [batch, head]."""

    position: Tensor
    final: Tensor
    embedding: Tensor
    constants: dict[int, Tensor] = field(default_factory=dict)
    parts: dict[Key, Tensor] = field(default_factory=dict)  # whole attentions, whole MLPs
    heads: dict[Key, Tensor] = field(default_factory=dict)


def taken_apart(run: Frozen) -> Taken:
    """The metric of a run as a sum; refused, with the reason, where it is none."""
    passes = _Passes(run)
    passes.check_joints()
    direction, final = passes.end()
    taken = Taken(passes.position, final, final)
    for layer in reversed(run.layers):
        along, through = passes.layer(layer, direction)
        stream = passes.read(run.held[run.key("resid_pre", layer)])
        rest = dot(direction, passes.read(run.raw[run.key("resid_post", layer)]))
        rest = rest - dot(through, stream)
        for key, own in along.items():
            taken.parts[key] = dot(own, passes.read(run.raw[key]))
            rest = rest - taken.parts[key]
            if key[1] == "attn_out":
                taken.heads[key] = passes.heads(key, own, taken.parts[key])
        taken.constants[layer] = rest
        direction = through
    taken.embedding = dot(direction, passes.read(run.held[run.key("resid_pre", run.layers[0])]))
    return taken


def dot(direction: Tensor, value: Tensor) -> Tensor:
    return (direction * value).sum(-1)


class _Passes:
    """What changed runs tell of each place that the stream passes."""

    def __init__(self, run: Frozen):
        self.run = run
        self.tolerance = close(run.model.hf.dtype)
        self.last = run.key("resid_post", run.layers[-1])
        self.slope = self._slope()
        reads = self.slope.ne(0).any(-1)
        counts = reads.sum(-1)
        if not bool((counts == 1).all()):
            row = int((counts != 1).nonzero()[0])
            raise ValueError(
                f"the metric of row {row} depends on {int(counts[row])} positions of the last layer of the "
                f"{run.stack.name} stack; direct effects are those on one position, which logits read."
            )
        self.position = reads.int().argmax(-1)

    def _slope(self) -> Tensor:
        """The gradient of the metric by the stream that leaves the last layer."""
        plain = self.run.plain
        found = None
        if plain.requires_grad:
            (found,) = torch.autograd.grad(
                plain.sum(), [self.run.held[self.last]], allow_unused=True
            )
        if found is None:
            raise ValueError(
                f"the metric does not depend on what leaves the {self.run.stack.name} stack, so that "
                "nothing in it has a direct effect."
            )
        return found

    def read(self, value: Tensor) -> Tensor:
        """A value [batch, position, ...] at the position that is read; precise, and on one device."""
        rows = torch.arange(len(value), device=value.device)
        return value.detach()[rows, self.position.to(value.device)].cpu().double()

    def _spread(self, direction: Tensor, like: Tensor) -> Tensor:
        """Gradients for a value: `direction` where it is read, nothing elsewhere."""
        whole = torch.zeros_like(like)
        rows = torch.arange(len(like), device=like.device)
        whole[rows, self.position.to(like.device)] = direction.to(like)
        return whole

    def check_joints(self) -> None:
        """What one layer leaves must be what the next receives."""
        for before, layer in pairwise(self.run.layers):
            left = self.read(self.run.raw[self.run.key("resid_post", before)])
            received = self.read(self.run.held[self.run.key("resid_pre", layer)])
            if not torch.equal(left, received):
                raise ValueError(
                    f"something changes the stream of the {self.run.stack.name} stack between layers "
                    f"{before} and {layer}, so that direct effects are not told apart."
                )

    @cached_property
    def emptied(self) -> tuple[Tensor, dict[Key, Tensor]]:
        """The run in which heads write nothing, and nothing leaves the last layer."""
        empty: dict[Key, Change] = {key: torch.zeros_like for key in self.run.held if key[1] == "z"}
        return self.run.changed(empty | {self.last: torch.zeros_like})

    def end(self) -> tuple[Tensor, Tensor]:
        """The direction that counts behind the last layer, and the metric of an empty stream."""
        stream = self.read(self.run.held[self.last])
        plain, nothing, moved = (
            value.detach().cpu().double()
            for value in (
                self.run.plain,
                self.emptied[0],
                self.run.changed({self.last: elsewhere})[0],
            )
        )
        try:
            direction = frozen_direction(
                self.read(self.slope), stream, plain - nothing, elsewhere(stream), moved - nothing,
                self.tolerance,
            )  # fmt: skip
        except NotLinear:
            raise ValueError(
                f"from the last layer of {self.run.model.name} to the metric there is more than a norm and a "
                "linear map (or the metric is no sum of logits), so that no sum of parts is the metric."
            ) from None
        return direction, nothing

    def layer(self, layer: int, direction: Tensor) -> tuple[dict[Key, Tensor], Tensor]:
        """The direction for each part of a layer, and for the stream that it receives."""
        keys = self.run.parts(layer)
        if self.adds[layer]:
            return dict.fromkeys(keys, direction), direction
        before, after = self.run.key("resid_pre", layer), self.run.key("resid_post", layer)
        post = self.run.raw[after]
        inputs = [self.run.held[key] for key in (before, *keys)]
        slopes = torch.autograd.grad(
            post, inputs, self._spread(direction, post), allow_unused=True, materialize_grads=True
        )
        here, through = dot(direction, self.read(post)), self.read(slopes[0])
        stream = self.read(self.run.held[before])
        change = dot(direction, self.read(self.moved[after])) - here
        self._check_stream(layer, through, elsewhere(stream) - stream, change)
        along = {}
        for key, slope in zip(keys, slopes[1:], strict=True):
            zero, other = (
                dot(direction, self.read(arrived[after])) for arrived in self.behind(key[:2])
            )
            value = self.read(self.run.held[key])
            try:
                along[key] = frozen_direction(
                    self.read(slope),
                    value,
                    here - zero,
                    elsewhere(value),
                    other - zero,
                    self.tolerance,
                )
            except NotLinear:
                raise ValueError(
                    f"what layer {layer} of the {key[0]} stack does to {key[1]} before it is added is "
                    "neither linear nor a norm, so that direct effects are not told apart."
                ) from None
        return along, through

    def _check_stream(self, layer: int, through: Tensor, step: Tensor, change: Tensor) -> None:
        size = typical(through, step, change)
        if not bool(((dot(through, step) - change).abs() <= self.tolerance * size).all()):
            raise ValueError(
                f"layer {layer} of the {self.run.stack.name} stack does more to the stream than add to it "
                "(a norm of the stream itself, or a part that no site shows), so that direct effects "
                "are not told apart."
            )

    @cached_property
    def adds(self) -> dict[int, bool]:
        """Whether a layer's parts, as they are, make all that the stream gains in it."""
        found = {}
        for layer in self.run.layers:
            keys = [self.run.key("resid_pre", layer), *self.run.parts(layer)]
            parts = [self.read(self.run.raw[key]) for key in keys]
            post = self.read(self.run.raw[self.run.key("resid_post", layer)])
            largest = max(float(part.abs().max()) for part in [post, *parts])
            near = NOISE * torch.finfo(self.run.model.hf.dtype).eps * largest
            found[layer] = float((post - torch.stack(parts).sum(0)).abs().max()) <= near
        return found

    def behind(self, place: tuple[str, str]) -> list[dict[Key, Tensor]]:
        """Runs with one kind of part empty, and elsewhere."""
        if place not in self._behind:
            keys = self._of(place)
            self._behind[place] = [
                self.run.changed(dict.fromkeys(keys, change))[1]
                for change in (torch.zeros_like, elsewhere)
            ]
        return self._behind[place]

    @cached_property
    def _behind(self) -> dict[tuple[str, str], list[dict[Key, Tensor]]]:
        return {}

    @cached_property
    def moved(self) -> dict[Key, Tensor]:
        """The run in which each layer receives another stream."""
        keys = self._of((self.run.stack.name, "resid_pre"))
        return self.run.changed(dict.fromkeys(keys, elsewhere))[1]

    def _of(self, place: tuple[str, str]) -> Iterable[Key]:
        return [
            key for key in self.run.held if key[:2] == place and not self.adds.get(key[2], True)
        ]

    def heads(self, key: Key, direction: Tensor, whole: Tensor) -> Tensor:
        """What each head has along a direction: z through the projection, without its bias."""
        out, z = self.run.raw[key], self.run.held[key[0], "z", key[2]]
        (slope,) = torch.autograd.grad(out, [z], self._spread(direction, out))
        found = dot(self.read(slope), self.read(z))
        bias = dot(direction, self.read(self.emptied[1][key]))
        size = typical(direction, self.read(out), whole)
        if not bool(((whole - found.sum(-1) - bias).abs() <= self.tolerance * size).all()):
            raise ValueError(
                f"layer {key[2]} of the {key[0]} stack does not project z alone, linearly (a norm of z), so "
                "that what a head adds is not told apart."
            )
        return found
