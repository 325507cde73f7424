"""PAI: pay attention to the image (Liu et al., ECCV 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_at_least, image_span, layers_of, writing_stack
from interp.steering.pressing import Change, by_key, hooks_on_scores, on_rows
from interp.steering.spans import from_last

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class PAI(Intervention):
    """Rows that write the answer look more at the image: S += alpha * |S| on its columns, before softmax.

    Liu et al., ECCV 2024; the released code (LALBJ/PAI) edits the last row of each pass in layers 2 to
    L-1, all heads, as here. Its second half, logits against a run without the image, is VCD's kin and
    is not part of this. `alpha` is 0.2 for LLaVA in its README, 0.5 in its examples.
    """

    alpha: float = 0.2
    layers: Sequence[int] | int | None = None  # 2 to the last

    inert: ClassVar[Settings] = Settings(alpha=0.0)
    strong: ClassVar[Settings] = Settings(alpha=4.0)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Liu et al., ECCV 2024"

    def __post_init__(self) -> None:
        check_at_least("PAI", "alpha", self.alpha, 0)

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image, stack = image_span(model, prompt, "PAI", looked_at=True), writing_stack(model, "PAI")
        layers = layers_of(stack, self.layers, range(2, stack.size), "scores")
        if self.alpha == 0:
            return prompt, []
        change, since = on_rows(from_last(prompt), louder(self.alpha * image.double()))
        return prompt, hooks_on_scores(stack, change, layers, within=(since, None))


def louder(by: Tensor) -> Change:
    """S + by * |S|, `by` [row, position] over the prompt's keys."""

    def change(scores: Tensor, at: At) -> Tensor:
        return torch.addcmul(scores, by_key(by, scores, at), scores.abs())

    return change


INTERVENTIONS.add("PAI", PAI)
