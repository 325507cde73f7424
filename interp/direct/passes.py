"""Forwards in which every part of every layer is held at what it was, but for what is asked about.

Held are what each layer receives, z, and what attention and MLP return; so what a layer does to a part
(nothing, a multiplier, a norm behind it) is seen alone, and so is what follows the last layer.
"""

import contextvars
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.readouts import Readout
from interp.shadow import shadowed
from interp.sites import At, Hook
from interp.structure import Stack

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt

Key = tuple[str, str, int]  # stack, site, layer
MASKED = 1e9  # logits of tokens that a model never says are put beyond this
Change = Callable[[Tensor], Tensor]
# What the language-model head returned, for whoever asks in this context.
_HEAD: contextvars.ContextVar[list[Tensor] | None] = contextvars.ContextVar("head", default=None)


@dataclass(eq=False)
class Frozen:
    """One prompt's run: values where gradients can be asked, and the same run with some changed."""

    model: "Model"
    prompt: "Prompt"
    metric: Any
    stack: Stack
    hooks: Sequence[Hook] = ()
    raw: dict[Key, Tensor] = field(default_factory=dict)  # as they arrived, tied to what is held
    held: dict[Key, Tensor] = field(default_factory=dict)
    capped: bool = False  # the metric is taken before the cap on logits
    plain: Tensor = field(init=False)  # the metric of the run [batch]

    def __post_init__(self) -> None:
        logits, before = self._run(self._hold)
        self.capped = before is not None and not _in_proportion(logits, before)
        self.plain = self._read(logits, before)

    @property
    def layers(self) -> list[int]:
        return sorted(at for at, layer in self.stack.layers.items() if layer.module is not None)

    @property
    def towers(self) -> list[Stack]:
        """The stack, and the cross attention in its layers."""
        others = [one for one in self.model.stacks.values() if one is not self.stack]
        return [self.stack, *(one for one in others if one.path == self.stack.path)]

    def parts(self, layer: int) -> list[Key]:
        """What writes to the stream in a layer: attention, cross attention, MLP."""
        found = []
        for tower in self.towers:
            own = tower.layers.get(layer)
            if own is not None and own.attention is not None:
                found.append((tower.name, "attn_out", layer))
        return [*found, (self.stack.name, "mlp_out", layer)]

    def key(self, site: str, layer: int) -> Key:
        return self.stack.name, site, layer

    def changed(self, changes: dict[Key, Change]) -> tuple[Tensor, dict[Key, Tensor]]:
        """The metric and what arrived, in a run where all is held but what `changes` makes anew."""
        arrived: dict[Key, Tensor] = {}
        last = self.key("resid_post", self.layers[-1])

        def put(value: Tensor, at: At) -> Tensor | None:
            key = (at.stack, at.site, at.layer)
            if at.site in ("resid_post", "attn_out"):
                arrived[key] = value
            if at.site == "resid_post" and key != last:
                return None
            kept = self.held[key].detach()
            return changes[key](kept) if key in changes else kept.clone()

        with torch.no_grad():
            logits, before = self._run(put)
            return self._read(logits, before), arrived

    def _hold(self, value: Tensor, at: At) -> Tensor | None:
        key = (at.stack, at.site, at.layer)
        if at.site != "z":
            self.raw[key] = value
        if at.site == "resid_post" and at.layer != self.layers[-1]:
            return None
        self.held[key] = value.detach().requires_grad_()
        return self.held[key].clone()  # what follows may write in place

    def _run(self, put: Callable[[Tensor, At], Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Logits, and what the head gave before anything was done to it."""
        hooks = [*self.hooks]
        for site in ("resid_pre", "resid_post", "mlp_out"):
            hooks.append(Hook(site, put, self.layers, self.stack.name))
        for tower in self.towers:
            own = [at for at, layer in tower.layers.items() if layer.attention is not None]
            hooks += [Hook(site, put, own, tower.name) for site in ("z", "attn_out")]
        head = self.model.hf.get_output_embeddings()
        seen: list[Tensor] = []
        token = _HEAD.set(seen)
        try:
            with shadowed([(head, "forward", _around_head)] if head is not None else []):
                logits = self.model.logits(self.prompt, hooks=hooks)
        finally:
            _HEAD.reset(token)
        return logits, seen[-1] if seen else None

    def _read(self, logits: Tensor, before: Tensor | None) -> Tensor:
        if self.capped:
            assert before is not None
            logits = before
        reads = isinstance(self.metric, Readout)
        return self.metric(logits, self.prompt) if reads else self.metric(logits)


def _around_head(original: Any, module: Any, args: tuple, kwargs: dict) -> Any:
    output, seen = original(*args, **kwargs), _HEAD.get()
    if seen is not None:
        seen.append(output)
    return output


def _in_proportion(logits: Tensor, before: Tensor) -> bool:
    """Whether logits are the head's own, but for a multiplier."""
    if logits.shape != before.shape:
        return True  # what is done between is no cap; whether it is linear will show
    before = before.to(logits.device)
    usual = logits.detach().abs() < MASKED
    one, other = logits.detach()[usual].double(), before.detach()[usual].double()
    times = (one * other).sum() / (other * other).sum().clamp_min(torch.finfo(one.dtype).tiny)
    near = 16 * torch.finfo(logits.dtype).eps
    return bool((one - times * other).abs().max() <= near * one.abs().max())
