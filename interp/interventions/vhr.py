"""VHR: reinforcing the heads that the image moves (He et al., ACL 2025, arXiv 2412.13949)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.edits import gain
from interp.importance.divergence import VisionDivergence, without_image
from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.companion import Companion, Offer
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_at_least, check_flag, image_span, layers_of, writing_stack
from interp.steering.spans import asked

if TYPE_CHECKING:
    from interp.model import Model

LAST = 14  # layers of LLaVA-1.5 and LLaVA-NeXT, beside layer 1


@dataclass(frozen=True)
class VHR(Intervention):
    """Heads whose output the image moves more than the median of their layer count `alpha` times.

    He et al., ACL 2025. At the last position of the prompt, for each head of a layer: VHD = |z with the
    image - z of the same prompt without it|. A head whose VHD and whose |z without it|^2 both exceed the
    layer's mean by more than a standard deviation is an outlier, and counts as 0 (`outliers=False`: not).
    Heads above the median (the lower one) are multiplied by `alpha` at all positions, from the prompt on.

    Layers decide one after the other, those below already reinforced, in the run with the image and in
    the one without, which goes in step with it once. Later steps keep the choice. `layers` are 1 and the
    last 14 as in LLaVA-1.5 (InstructBLIP: the last 18), never 0. The released code ranks by VHD squared
    (`official=True`), which tells apart only in the test for outliers. An `alpha` of 4 broke the
    published model's text. Other interventions of the run do not reach the run without the image.
    """

    alpha: float = 2.0
    layers: Sequence[int] | None = None  # 1 and the last 14
    outliers: bool = True
    official: bool = False

    inert: ClassVar[Settings] = Settings(alpha=1.0)
    strong: ClassVar[Settings] = Settings(alpha=4.0)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "He et al., ACL 2025"

    def __post_init__(self) -> None:
        check_at_least("VHR", "alpha", self.alpha, 0)
        for name in ("outliers", "official"):
            check_flag("VHR", name, getattr(self, name))

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        hooks = self._hooks(model, prompt, lambda layer, chosen: None)
        return prompt, hooks if self.alpha != 1 else []

    def heads(self, model: "Model", prompt: Prompt) -> dict[int, Tensor]:
        """The heads that it reinforces in this prompt: a mask [row, head] for each layer."""
        found: dict[int, Tensor] = {}
        with torch.no_grad():
            model.logits(prompt, hooks=self._hooks(model, prompt, found.__setitem__))
        return found

    def _hooks(
        self, model: "Model", prompt: Prompt, tell: Callable[[int, Tensor], Any]
    ) -> list[Hook]:
        image_span(model, prompt, "VHR")
        stack = writing_stack(model, "VHR")
        default = sorted({1, *range(max(1, stack.size - LAST), stack.size)})
        layers = layers_of(stack, self.layers, default, "z")
        if not layers:
            raise ValueError(
                f"VHR leaves layer 0 alone, and {model.name} has no other that has heads; name it if "
                "you mean it: VHR(layers=[0])."
            )
        question = asked(prompt)
        blind = without_image(model, replace(prompt, mask=question))
        order = torch.arange(prompt.length, device=question.device)
        last = torch.where(question, order, -1).amax(1)

        def reinforced(z: Tensor, at: At) -> Tensor:
            factor = at.memo.get(at.layer)
            if factor is None:
                _check_whole(z, at, last)
                chosen = self._decided(model, blind, layers, z[:: len(z) // len(last)], last, at)
                tell(at.layer, chosen)
                factor = _factor(chosen, self.alpha, z).repeat_interleave(len(z) // len(last), 0)
                at.memo[at.layer] = factor
            return gain(z, factor)

        return [Hook("z", reinforced, layers, stack.name)]

    def _decided(
        self, model: "Model", blind: Prompt, layers: list[int], z: Tensor, last: Tensor, at: At
    ) -> Tensor:
        """The heads to reinforce, [row, head]; the run without the image waits at the same layer."""
        memo = at.memo
        if "alone" not in memo:
            memo["alone"] = Companion(_alone(model, blind, layers, self.alpha), model.device)
            at.run.ending.append(memo["alone"].close)
        layer, alone = memo["alone"].send(memo.get("said"))
        if layer != at.layer:
            raise RuntimeError(
                f"the run without the image is at layer {layer}, and this one at {at.layer}: the model "
                "passes layers by, and VHR compares the same. Name layers that it does not: layers=[...]."
            )
        rows = torch.arange(len(z), device=z.device)
        full = z.detach()[rows, last.to(z.device)].float()
        memo["said"] = self.chosen(full, alone.to(full))
        if layer == layers[-1]:
            memo["alone"].close()
        return memo["said"]

    def chosen(self, full: Tensor, alone: Tensor) -> Tensor:
        """Which heads to reinforce [..., head], by z with and without the image [..., head, d_head]."""
        moved, active = (full - alone).norm(dim=-1), alone.norm(dim=-1).square()
        if self.official:
            moved = moved.square()
        if self.outliers:
            moved = VisionDivergence(moved, active).kept
        return moved > moved.median(-1, keepdim=True).values


def _alone(
    model: "Model", blind: Prompt, layers: list[int], alpha: float
) -> Callable[[Offer], None]:
    """The run without the image: it offers z of its last position, and is told what to reinforce."""
    last = blind.where("last").int().argmax(-1)

    def body(offer: Offer) -> None:
        def reinforced(z: Tensor, at: At) -> Tensor:
            rows = torch.arange(len(z), device=z.device)
            chosen = offer((at.layer, z[rows, last.to(z.device)].float()))
            return gain(z, _factor(chosen, alpha, z))

        model.logits(blind, hooks=Hook("z", reinforced, layers, "text"))

    return body


def _factor(chosen: Tensor, alpha: float, z: Tensor) -> Tensor:
    """[row, 1, head]"""
    return torch.where(chosen, alpha, 1.0).to(z)[:, None]


def _check_whole(z: Tensor, at: At, last: Tensor) -> None:
    """The choice is made where the prompt ends, and holds from its first position on."""
    if at.first == 0 and int(last.max()) < z.shape[1]:
        return
    raise ValueError(
        f"VHR chooses heads at the last position of the prompt, {int(last.max())}, and reinforces them from "
        f"the first on; this forward holds positions {at.first} to {at.first + z.shape[1] - 1}. Give the "
        "prompt in one piece: no prefill_chunk_size, no cache of an earlier turn."
    )


INTERVENTIONS.add("VHR", VHR)
