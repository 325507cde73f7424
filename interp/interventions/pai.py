"""PAI: pay attention to the image (Liu et al., ECCV 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from interp.edits import press
from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_at_least, image_span, layers_of, writing_stack
from interp.steering.spans import first_of, from_last, over_keys, over_rows

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
    layers: Sequence[int] | None = None  # 2 to the last

    inert: ClassVar[Settings] = Settings(alpha=0.0)
    strong: ClassVar[Settings] = Settings(alpha=4.0)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Liu et al., ECCV 2024"

    def __post_init__(self) -> None:
        check_at_least("PAI", "alpha", self.alpha, 0)

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image, stack = image_span(model, prompt, "PAI"), writing_stack(model, "PAI")
        layers = layers_of(stack, self.layers, range(2, stack.size), "scores")
        if self.alpha == 0:
            return prompt, []
        rows = from_last(prompt)

        def louder(scores: Tensor, at: At) -> Tensor:
            keys = over_keys(image, scores, at)[:, None, None]
            asking = over_rows(rows, scores, at)[:, None, :, None]
            return press(scores, keys & asking, self.alpha * scores.abs())

        since = first_of(rows)
        within = (since or 0, None)
        return prompt, [Hook("scores", louder, layers, stack.name, rows=True, within=within)]


INTERVENTIONS.add("PAI", PAI)
