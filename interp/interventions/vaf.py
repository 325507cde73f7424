"""VAF: visual amplification fusion, of ClearSight (Yin et al., CVPR 2025)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_at_least, image_span, share, writing_stack
from interp.steering.pressing import by_key, hooks_on_scores, on_rows, placed
from interp.steering.spans import after, asked

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class VAF(Intervention):
    """Middle layers, rows after the image: its scores times `boost`, those of what is before it times `damp`.

    Yin et al., CVPR 2025, layers 9 to 14 of LLaVA's 32 (other depths in proportion), before softmax. The
    factors are those that the released code (ustc-hyin/ClearSight) is run with; it counts on 35 tokens before
    the image and 576 of it, here they are found. The paper keeps to heads that perceive the image, the
    code does not, and neither does this unless `heads` names them. A negative score that is multiplied by
    more than 1 falls: the image then loses there.
    """

    boost: float = 1.15
    damp: float = 0.95
    layers: Sequence[int] | int | None = None  # 9 to 14 of 32
    heads: Any = None

    inert: ClassVar[Settings] = Settings(boost=1.0, damp=1.0)
    strong: ClassVar[Settings] = Settings(boost=8.0, damp=0.1)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Yin et al., CVPR 2025"

    def __post_init__(self) -> None:
        check_at_least("VAF", "boost", self.boost, 0)
        check_at_least("VAF", "damp", self.damp, 0)

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image, stack = image_span(model, prompt, "VAF", looked_at=True), writing_stack(model, "VAF")
        middle = share(stack, 9, 14, of=32)
        layers, heads = placed(model, stack, self.heads, self.layers, middle, "VAF")
        if self.boost == 1 and self.damp == 1:
            return prompt, []
        begun = image.long().cumsum(1) > 0
        before = asked(prompt) & ~begun & image.any(1, keepdim=True)
        factor = torch.ones(image.shape, dtype=torch.float64, device=image.device)
        factor[image], factor[before] = self.boost, self.damp

        def amplify(scores: Tensor, at: At) -> Tensor:
            return scores * by_key(factor, scores, at, rest=1.0)

        change, since = on_rows(after(prompt, image), amplify)
        return prompt, hooks_on_scores(stack, change, layers, heads, (since, None))


INTERVENTIONS.add("VAF", VAF)
