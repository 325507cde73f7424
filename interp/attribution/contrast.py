"""Two prompts that are compared, and runs of them that gradients can be taken of."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.asking import choose_stack
from interp.attribution.tape import Calls, Tape
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.sites import At, Hook
from interp.structure import Stack
from interp.trace import Trace

if TYPE_CHECKING:
    from interp.model import Model


Key = tuple[str, int]  # a site and a layer


def precise(value: Tensor) -> Tensor:
    """In float32 at least: sums of many products of half precision would not be worth much."""
    return value.to(torch.promote_types(value.dtype, torch.float32))


class _Enough(Exception):
    """A run has come as far as it is needed."""


@dataclass(eq=False)
class Ran:
    """One run with its graph: what passed, what was read, and the projections' inputs and outputs."""

    trace: Trace
    metric: Tensor  # [batch]
    noted: Calls

    def gradients(self, wanted: Sequence[Tensor], keep: bool = True) -> list[Tensor | None]:
        """Of the metric, with respect to values of this run; None where nothing leads to it."""
        ones = torch.ones_like(self.metric)
        return list(
            torch.autograd.grad(self.metric, wanted, ones, retain_graph=keep, allow_unused=True)
        )

    def gradients_at(self, keys: Sequence[Key], keep: bool = True) -> dict[Key, Tensor]:
        """The same by site and layer; 0 in layers that the metric does not depend on."""
        values = [self.trace[key] for key in keys]
        found = dict(zip(keys, self.gradients(values, keep), strict=True))
        for site in {site for site, _ in keys}:
            if all(grad is None for (of, _), grad in found.items() if of == site):
                raise ValueError(
                    f"the metric depends on no {site} of the {self.trace.stack} stack that passed here, so "
                    "there is nothing to be estimated; name the stack that leads to it (stack=)."
                )
        pairs = zip(found.items(), values, strict=True)
        return {key: torch.zeros_like(of) if grad is None else grad for (key, grad), of in pairs}


@dataclass(eq=False)
class Contrast:
    """A clean prompt, its corruption, and what is read of both, in one stack of a model."""

    model: "Model"
    clean: Prompt
    corrupted: Prompt
    metric: Callable[[Tensor], Tensor]
    stack: Stack

    @property
    def first(self) -> int:
        """The first layer of the stack."""
        return min(self.stack.layers)

    def start(self, prompt: Prompt) -> Tensor:
        """The stream that the first layer receives; nothing behind it runs."""
        found: list[Tensor] = []

        def stop(value: Tensor, at: At) -> None:
            found.append(value.detach())
            raise _Enough

        hook = Hook("resid_pre", stop, [self.first], self.stack.name)
        with torch.no_grad(), suppress(_Enough):
            self.model.logits(prompt, hooks=hook)
        return found[0]

    def values(self, prompt: Prompt, *sites: str, hooks: Sequence[Hook] = ()) -> Trace:
        """What passes, without a graph."""
        with torch.no_grad():
            return self._traced(prompt, sites, hooks, (), unread=True)[0]

    def run(
        self,
        *sites: str,
        prompt: Prompt | None = None,
        start: Tensor | None = None,
        hooks: Sequence[Hook] = (),
        note: Iterable[nn.Module] = (),
    ) -> Ran:
        """A run of the clean prompt (or `prompt`) with its graph, which begins at the first layer.

        `start` takes the place of the stream there; `note` are modules whose calls are kept.
        """

        def begin(value: Tensor, at: At) -> Tensor:
            # A leaf: gradients flow though all weights are frozen, and stop before the embedding.
            return (value if start is None else start).detach().requires_grad_()

        leaf = Hook("resid_pre", begin, [self.first], self.stack.name)
        once = [Hook(site, _once(), stack=self.stack.name) for site in sites]
        with torch.enable_grad():
            ran = self._run(prompt or self.clean, sites, [leaf, *hooks, *once], note)
        _check_metric(ran.metric, len(self.clean))
        return ran

    def _run(
        self, prompt: Prompt, sites: Sequence[str], hooks: Sequence[Hook], note: Iterable[nn.Module]
    ) -> Ran:
        trace, tape = self._traced(prompt, sites, hooks, note)
        logits, readout = trace.logits, tape.readout
        if readout is None:
            return Ran(trace, self.metric(logits), tape.noted)
        if tape.narrowed and logits.ndim == 3 and logits.shape[1] == 1:
            return Ran(trace, readout(logits[:, 0]), tape.noted)
        return Ran(trace, readout(logits, self.clean), tape.noted)

    def _traced(
        self,
        prompt: Prompt,
        sites: Sequence[str],
        hooks: Sequence[Hook],
        note: Iterable[nn.Module],
        unread: bool = False,
    ) -> tuple[Trace, Tape]:
        tape = Tape(self.metric if isinstance(self.metric, Readout) else None, self.clean, unread)
        writes = self.model.kind in ("text", "vlm")
        head = self.model.hf.get_output_embeddings() if writes else None
        with tape.running(head, note):
            trace = self.model.trace(prompt, *sites, stack=self.stack.name, hooks=hooks)
        return trace, tape


def _once() -> Callable[[Tensor, At], None]:
    """Refuses towers that call a layer's attention for each window or image."""
    seen: set[int] = set()

    def count(value: Tensor, at: At) -> None:
        if at.layer in seen:
            raise ValueError(
                f"{at.site} of layer {at.layer} of the {at.stack} stack passes in several calls (windows, or "
                "several images), which gradients are not taken of; model.sweep changes them exactly."
            )
        seen.add(at.layer)

    return count


def contrast(
    model: "Model", clean: Any, corrupted: Any, metric: Any, stack: str | None = None
) -> Contrast:
    """The two prompts, checked to match position by position, and the metric with its tokens."""
    clean, corrupted = (
        one if isinstance(one, Prompt) else model.encode(one) for one in (clean, corrupted)
    )
    _check_prompts(clean, corrupted)
    _check_model(model)
    if not callable(metric):
        raise TypeError(
            f"metric={metric!r} is no readout: interp.metrics.logit_diff(right, wrong), or a function of "
            "logits [batch, position, token] that gives [batch]."
        )
    read: Any = metric.bind(model, clean) if isinstance(metric, Readout) else metric
    return Contrast(model, clean, corrupted, read, choose_stack(model.stacks, stack, model.name))


def _check_prompts(clean: Prompt, corrupted: Prompt) -> None:
    if len(clean) != len(corrupted):
        raise ValueError(
            f"there are {len(clean)} clean prompts and {len(corrupted)} corrupted ones; give one for each."
        )
    if clean.length != corrupted.length or not torch.equal(clean.mask, corrupted.mask):
        lengths = [one.mask.sum(-1).tolist() for one in (clean, corrupted)]
        raise ValueError(
            f"the clean prompts have {lengths[0]} tokens and the corrupted ones {lengths[1]}: values are "
            "compared position by position, so a prompt and its corruption need equal lengths; "
            "interp.pairs groups a task's records so."
        )


def _check_model(model: "Model") -> None:
    if torch.is_inference_mode_enabled() or any(
        weight.is_inference() for weight in model.hf.parameters()
    ):
        raise RuntimeError(
            f"gradients cannot flow through {model.name}: inference mode is on, or its weights were made in "
            "it. Call this outside torch.inference_mode() (torch.no_grad() does no harm), and open the "
            "model there."
        )
    if model.hf.training:
        raise ValueError(
            f"{model.name} is in training mode, in which dropout would make the two runs differ by chance; "
            "call model.hf.eval() first."
        )


def _check_metric(metric: Any, batch: int) -> None:
    if not isinstance(metric, Tensor) or metric.shape != (batch,):
        shape = tuple(metric.shape) if isinstance(metric, Tensor) else type(metric).__name__
        raise ValueError(
            f"the metric gave {shape}, and a gradient is taken of one number for each of {batch} rows: "
            f"return a tensor of shape ({batch},)."
        )
    if not bool(metric.isfinite().all()):
        rows = (~metric.isfinite()).nonzero().flatten().tolist()
        raise ValueError(
            f"the metric is {metric[rows[0]].item()} in row {rows[0]}, so nothing can be attributed; read "
            "something finite there (a logit difference, say)."
        )
    if not metric.requires_grad:
        raise RuntimeError(
            "no gradient reaches the metric: it detaches or rounds what it reads (.item(), argmax), or the "
            "model's forward runs without gradients."
        )
