"""Ways to say how much each position of an example counts for its answer: [position] each."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interp import relevance
from interp.propagation.example import Example
from interp.propagation.passing import propagating

BY_PATTERN = ("attention", "rollout", "flow", "chefer", "attention_gradient")
ON_REQUEST = ("integrated_gradients", "attnlrp")


@dataclass(frozen=True)
class Told:
    """The settings of single methods."""

    heads: str = "mean"
    discard: float = 0.0
    form: str = "positive"
    path_steps: int = 50
    limit: int = relevance.LIMIT


# Whom each of them speaks to. The limit only ever matters to flow, and may stand anywhere.
SETTINGS_OF = {
    "heads": ("rollout", "flow"),
    "discard": ("rollout", "flow"),
    "form": ("attention_gradient",),
    "path_steps": ("integrated_gradients",),
}


def _attention(example: Example, told: Told) -> Tensor:
    """The last layer's mean over heads."""
    return example.evidence[0][-1][0].mean(0)[example.reads]


def _rollout(example: Example, told: Told) -> Tensor:
    return relevance.rollout(example.evidence[0], told.heads, told.discard)[0, example.reads]


def _flow(example: Example, told: Told) -> Tensor:
    top = [example.reads or 0]
    return relevance.flow(example.evidence[0], told.heads, told.discard, top, told.limit)[0, 0]


def _chefer(example: Example, told: Told) -> Tensor:
    return relevance.chefer(*example.evidence[:2])[0, example.reads]


def _attention_gradient(example: Example, told: Told) -> Tensor:
    """Of the last layer."""
    patterns, gradients, _ = example.evidence
    last = relevance.attention_gradient(patterns[-1], gradients[-1], told.form)
    return last[0, example.reads]


def _gradient_input(example: Example, told: Told) -> Tensor:
    return example.evidence[2]


def _integrated_gradients(example: Example, told: Told) -> Tensor:
    """By midpoints, so that relevances sum to the change of the logit as steps grow."""
    parts = (torch.arange(told.path_steps) + 0.5) / told.path_steps
    return example.path_gradient(parts) / told.path_steps


def _lrp(example: Example, told: Told, rule: str = "cp") -> Tensor:
    with propagating(example.model, rule) as propagation:
        logits = example.model.logits(example.prompt)
    logit = example.last(logits)[0, example.target]
    return propagation.relevance(logit)[0].cpu()


def _attnlrp(example: Example, told: Told) -> Tensor:
    return _lrp(example, told, "attn")


def _leave_one_out(example: Example, told: Told) -> Tensor:
    """How far the answer's log odds fall when one position is replaced; NaN for those not ranked."""
    kept = torch.ones(len(example.ranked) + 1, example.length, dtype=torch.bool)
    kept[torch.arange(len(example.ranked)), example.ranked] = False
    odds = example.log_odds(kept)
    values = torch.full((example.length,), float("nan"), dtype=odds.dtype)
    values[example.ranked] = odds[-1] - odds[:-1]
    return values


METHODS: dict[str, Callable[[Example, Told], Tensor]] = {
    "attention": _attention,
    "rollout": _rollout,
    "flow": _flow,
    "chefer": _chefer,
    "attention_gradient": _attention_gradient,
    "gradient_input": _gradient_input,
    "integrated_gradients": _integrated_gradients,
    "lrp": _lrp,
    "attnlrp": _attnlrp,
    "leave_one_out": _leave_one_out,
}


def unserved(name: str, examples: list[Example], told: Told) -> str:
    """Why a method cannot be had of these examples; nothing if it can."""
    longest = max(example.length for example in examples)
    if name in BY_PATTERN and examples[0].reads is None:
        return "the classifier has no class token, so no row of a pattern is the one to read."
    if name == "flow" and longest > told.limit:
        return (
            f"prompts have up to {longest} positions, and a maximum flow is sought for each of them "
            f"(limit {told.limit}); limit={longest} allows it."
        )
    if name in ("lrp", "attnlrp"):
        try:
            METHODS[name](examples[0], told)
        except ValueError as problem:
            return str(problem)
    return ""
