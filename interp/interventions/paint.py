"""PAINT: attention to patches that the vision tower finds local or outstanding (Arif et al., CVPR-W 2025)."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.images import LEADING
from interp.interventions import INTERVENTIONS
from interp.interventions.pai import louder
from interp.live import plainly
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import (
    check_at_least,
    check_flag,
    check_share,
    image_span,
    layers_of,
    writing_stack,
)
from interp.steering.pressing import hooks_on_scores, on_rows
from interp.steering.spans import from_last

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class PAINT(Intervention):
    """PAI on the patches that matter: S += alpha * |S| on local ones, beta * |S| on summary ones.

    Arif et al., CVPR-W 2025. Local are the `share` of patches that the class token of the vision tower sees
    most in layer 0 (all heads together), and the `spatial` share that receives most there from all; summary,
    which go first, are the outliers (above Q3 + 1.5 IQR) of what it sees in the last layer but one. Layers 2
    to L-1, all heads, rows that write the answer. The tower is run once more to see this.

    `beta` is 0.4, the best of the paper's table, and 0.3 with `official`, the released code
    (hasanar1f/PAINT), whose spatial score is a row sum, the same for all patches: `spatial` is not of it.
    """

    alpha: float = 0.7
    beta: float | None = None  # 0.4, or 0.3 if official
    share: float = 0.25
    spatial: float = 0.0
    layers: Sequence[int] | int | None = None  # 2 to the last
    official: bool = False

    inert: ClassVar[Settings] = Settings(alpha=0.0, beta=0.0)
    strong: ClassVar[Settings] = Settings(alpha=4.0, beta=4.0, share=0.5)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Arif et al., CVPR Workshops 2025"

    def __post_init__(self) -> None:
        check_at_least("PAINT", "alpha", self.alpha, 0)
        check_at_least("PAINT", "beta", 0.0 if self.beta is None else self.beta, 0)
        check_share("PAINT", "share", self.share)
        check_share("PAINT", "spatial", self.spatial)
        check_flag("PAINT", "official", self.official)
        if self.official and self.spatial:
            raise ValueError(
                "PAINT(official=True, spatial=...): the released code's spatial score tells no patches "
                "apart; leave one of both out."
            )

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        image, stack = (
            image_span(model, prompt, "PAINT", looked_at=True),
            writing_stack(model, "PAINT"),
        )
        layers = layers_of(stack, self.layers, range(2, stack.size), "scores")
        leading = _leading(model)
        beta = (0.3 if self.official else 0.4) if self.beta is None else self.beta
        if self.alpha == 0 and beta == 0:
            return prompt, []
        local, summary = chosen(tower_view(model, prompt, leading), self.share, self.spatial)
        _check_fit(image, local)
        by = torch.zeros(image.shape, dtype=torch.float64, device=image.device)
        by[image] = (self.alpha * local.double() + beta * summary.double()).flatten().to(by)
        change, since = on_rows(from_last(prompt), louder(by))
        return prompt, hooks_on_scores(stack, change, layers, within=(since, None))


class View(NamedTuple):
    """What the tower gives its patches, [image, patch]."""

    early: Float[Tensor, "image patch"]  # by the class token, in layer 0
    late: Float[Tensor, "image patch"]  # by the class token, in the last layer but one
    received: Float[Tensor, "image patch"]  # by all, in layer 0


def chosen(
    view: View, share: float = 0.25, spatial: float = 0.0
) -> tuple[Bool[Tensor, "image patch"], Bool[Tensor, "image patch"]]:
    """Local and summary patches; none is both."""
    low, high = (
        view.late.quantile(0.25, -1, keepdim=True),
        view.late.quantile(0.75, -1, keepdim=True),
    )
    summary = view.late > high + 1.5 * (high - low)
    local = _top(view.early, share) | _top(view.received, spatial)
    return local & ~summary, summary


def _top(values: Tensor, share: float) -> Tensor:
    count = int(share * values.shape[-1])
    best = values.topk(count, dim=-1).indices
    return torch.zeros_like(values, dtype=torch.bool).scatter(-1, best, True)


def tower_view(model: "Model", prompt: Prompt, leading: int) -> View:
    """A run of the plain model that stops where the text begins."""
    tower, text = model.stacks["vision"], model.stacks["text"]
    late = tower.size - 2
    seen: dict[tuple[int, str], list[Tensor]] = {}

    def look(pattern: Tensor, at: At) -> None:
        pattern = pattern.float()
        seen.setdefault((at.layer, "class"), []).append(pattern[:, :, 0, leading:].sum(1))
        if at.layer == 0:
            received = pattern.mean(1).sum(1)[:, leading:]
            seen.setdefault((0, "received"), []).append(received)

    def stop(stream: Tensor, at: At) -> None:
        raise _Enough

    first = min(index for index, layer in text.layers.items() if layer.module is not None)
    hooks = [
        Hook("pattern", look, sorted({0, late}), tower.name),
        Hook("resid_pre", stop, [first], text.name),
    ]
    with plainly(), torch.no_grad(), contextlib.suppress(_Enough):
        model.logits(prompt, hooks=hooks)
    if not seen:
        raise ValueError(
            "PAINT: the vision tower did not run; give the image's pixels with the prompt."
        )
    return View(*(torch.cat(seen[key]) for key in ((0, "class"), (late, "class"), (0, "received"))))


class _Enough(Exception):
    """The tower has run, and more is not asked."""


def _leading(model: "Model") -> int:
    """How many tokens stand before the tower's patches, the class token first; refused without one."""
    tower = model.stacks.get("vision")
    config = getattr(model.config, "vision_config", None)
    kind = getattr(config, "model_type", "unknown")
    count = LEADING.get(kind, 0)
    if tower is None or tower.size < 2 or not count:
        raise ValueError(
            f"PAINT reads what the class token of a vision tower sees, as CLIP has one, and the {kind} tower "
            f"of {model.name} has none. PAI acts on the image without it."
        )
    return count + (getattr(config, "num_register_tokens", 0) or 0)


def _check_fit(image: Tensor, local: Tensor) -> None:
    """Patches are the prompt's image tokens, one each, image after image."""
    images, patches = local.shape
    counts = image.sum(1).tolist()
    if sum(counts) != images * patches or any(count % patches for count in counts):
        raise ValueError(
            f"PAINT wants a token in the prompt for each patch of the tower, and there are {counts} image "
            f"tokens a row for {images} images of {patches} patches: this model merges, cuts or adds some. "
            "PAI acts on the image without it."
        )


INTERVENTIONS.add("PAINT", PAINT)
