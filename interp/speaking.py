"""Hooks on what the model says: after a forward, or at each step of `generate`."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList

from interp.live import LIVE, RUN, Placed, Run
from interp.sites import At


def speakers(module: nn.Module, run: Run) -> list[Placed]:
    """This context's hooks on the logits of the model."""
    return [
        placed
        for session in LIVE.get()
        if module in session.places and not session.closed
        for placed in [*run.planned.get(id(session), []), *session.hooks]
        if placed.hook.site == "logits"
    ]


def said(module: nn.Module, run: Run, ids: Tensor | None, output: Any) -> Any:
    """A forward's output with its logits changed."""
    found = speakers(module, run)
    if not found or run.generating:
        return output
    if ids is None or getattr(output, "logits", None) is None:
        raise ValueError(
            f"{found[0].owner} changes logits, and needs a forward of token ids that has some."
        )
    output.logits = _changed(output.logits, ids, found, run)
    return output


def processors(module: nn.Module, run: Run, given: Any) -> dict[str, Any]:
    """`generate`'s options with the hooks behind the user's own processors."""
    run.generating = True
    found = speakers(module, run)
    return (
        {"logits_processor": LogitsProcessorList([*(given or []), _Speaks(found)])} if found else {}
    )


class _Speaks(LogitsProcessor):
    """Logits hooks as a step of `generate`."""

    def __init__(self, found: list[Placed]):
        self.found = found

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        # Beams sum log-probabilities: they have to go out with the mass that came in, which is 1, or less
        # where other processors took some away. For other ways of choosing it is the same.
        mass = scores.logsumexp(-1, keepdim=True)
        summed = bool((mass < 1e-3).all())
        changed = _changed(scores[:, None], input_ids, self.found, RUN.get() or Run())[:, 0]
        return changed.log_softmax(-1) + mass if summed else changed


def _changed(logits: Tensor, ids: Tensor, found: list[Placed], run: Run) -> Tensor:
    for placed in found:
        memo = run.memos.setdefault(placed.group, {})
        first = ids.shape[1] - logits.shape[1]
        at = At("logits", placed.stack, -1, first, 0, ids.shape[1] <= run.length, memo, run)
        placed.ran = True
        after = placed.hook.fn(ids, logits, at)
        if not isinstance(after, torch.Tensor) or after.shape != logits.shape:
            raise ValueError(f"{placed.owner} must give back logits of {tuple(logits.shape)}.")
        logits = after
    return logits
