"""AdaptVis and ScalingVis: attention to the image by confidence (Chen et al., ICML 2025)."""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from interp.forward import single_pass
from interp.interventions import INTERVENTIONS
from interp.live import plainly
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import (
    check_at_least,
    check_share,
    image_span,
    layers_of,
    writing_stack,
)
from interp.steering.pressing import by_key, hooks_on_scores, on_rows
from interp.steering.spans import asked, from_last
from interp.trace import main_output

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class AdaptVis(Intervention):
    """The prompt's last row: its scores of the image times `high` where the model is sure, `low` where not.

    Chen et al., ICML 2025: a plain run says how sure, by the probability of its likeliest first token; below
    `threshold` it is not. Layers and heads all, the prompt alone: tokens of the answer see the image as ever.
    `weight` is one factor for all, without the plain run: ScalingVis. Values are those of the paper's tables
    for LLaVA-1.5 (threshold 0.3 to 0.4, high 1.2 to 2), and want tuning. The released code rounds
    confidence to two digits. A negative score times more than 1 falls.
    """

    low: float = 0.5
    high: float = 1.5
    threshold: float = 0.35
    weight: float | None = None
    layers: Sequence[int] | int | None = None

    inert: ClassVar[Settings] = Settings(weight=1.0)
    strong: ClassVar[Settings] = Settings(weight=8.0)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Chen et al., ICML 2025"

    def __post_init__(self) -> None:
        check_at_least("AdaptVis", "low", self.low, 0)
        check_at_least("AdaptVis", "high", self.high, 0)
        check_share("AdaptVis", "threshold", self.threshold)
        if self.weight is not None:
            check_at_least("AdaptVis", "weight", self.weight, 0)

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image, stack = (
            image_span(model, prompt, "AdaptVis", looked_at=True),
            writing_stack(model, "AdaptVis"),
        )
        layers = layers_of(stack, self.layers, range(stack.size), "scores")
        if self.weight == 1 or (self.weight is None and self.low == self.high == 1):
            return prompt, []
        weights = self.weights(model, prompt).to(image.device)
        factor = torch.where(image, weights[:, None], torch.ones_like(weights[:, None]))

        def scale(scores: Tensor, at: At) -> Tensor:
            return scores * by_key(factor, scores, at, rest=1.0)

        last = from_last(prompt) & asked(prompt)
        stop = int(last.any(0).nonzero()[-1]) + 1
        change, since = on_rows(last[:, :stop], scale)
        return prompt, hooks_on_scores(stack, change, layers, within=(since, stop))

    def weights(self, model: "Model", prompt: Prompt) -> Float[Tensor, " row"]:
        """The factor of each row."""
        if self.weight is not None:
            return torch.full((len(prompt),), float(self.weight), dtype=torch.float64)
        sure = (confidence(model, prompt) >= self.threshold).double()
        return sure * self.high + (1 - sure) * self.low


def confidence(model: "Model", prompt: Prompt) -> Float[Tensor, " row"]:
    """The probability of each row's likeliest first token, as the plain model has it."""
    order = torch.arange(prompt.length, device=prompt.mask.device)
    last = torch.where(asked(prompt), order, -1).amax(1)
    given = single_pass(model, prompt)
    if "logits_to_keep" in inspect.signature(type(model.hf).forward).parameters:
        given["logits_to_keep"], last = last.unique(return_inverse=True)  # others are not asked for
    with plainly(), torch.no_grad():
        logits = main_output(model.hf(**given))
    rows = torch.arange(len(prompt), device=logits.device)
    return logits[rows, last.to(logits.device)].float().softmax(-1).amax(-1)


INTERVENTIONS.add("AdaptVis", AdaptVis)
