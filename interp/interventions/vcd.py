"""VCD: what is said of an image less what is said of a distorted one (Leng et al., CVPR 2024)."""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.importance.divergence import without_image
from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.registry import unknown
from interp.sites import At, LogitsHook
from interp.steering.contrast import Beside, beside
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_at_least, check_share, image_span
from interp.tracing.pixels import PIXELS

if TYPE_CHECKING:
    from interp.model import Model

NOISES = ("diffusion", "none", "blank")
STEPS = 1000


@dataclass(frozen=True)
class VCD(Intervention):
    """logits = (1 + strength) logits(image) - strength logits(distorted image), among plausible tokens.

    Visual contrastive decoding, Leng et al., CVPR 2024 (arXiv 2311.16922). Plausible are tokens whose logit
    with the image is at least the largest plus log(cut): a probability of `cut` times the largest. Others
    get the lowest number there is. `strength` 0 is the plain model: no second run and no cut.

    `noise="diffusion"` is step `step` (of 1000, from 0) of the forward diffusion of the normalised pixels,
    with beta_t = sigmoid(linspace(-6, 6)) (0.005 - 0.00001) + 0.00001 as in the released code, one draw by
    `seed` for every image. "blank" is the mean colour, "none" no image at all: text before the image's end
    has then no counterpart, and stays plain. The second run is the plain model, and doubles the cost.
    The paper and the scripts of the released code have strength 1 and cut 0.1 (its fallback is 0.5).
    Gradients reach the run with the image alone.
    """

    strength: float = 1.0
    cut: float = 0.1
    noise: str = "diffusion"
    step: int = 500
    seed: int = 0

    inert: ClassVar[Settings] = Settings(strength=0.0)
    strong: ClassVar[Settings] = Settings(strength=4.0)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "Leng et al., CVPR 2024"

    def __post_init__(self) -> None:
        check_at_least("VCD", "strength", self.strength, 0)
        check_share("VCD", "cut", self.cut)
        if self.noise not in NOISES:
            raise LookupError(unknown("noise", self.noise, list(NOISES)))
        for name, below in (("step", STEPS), ("seed", 2**63)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < below:
                raise ValueError(f"VCD({name}={value!r}): a whole number from 0 to {below - 1}.")

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[LogitsHook]]:
        image_span(model, prompt, "VCD")
        other = self.distorted(model, prompt)
        if self.strength == 0:
            return prompt, []
        places = _counterparts(prompt, other) if self.noise == "none" else None

        def contrasted(ids: Tensor, logits: Tensor, at: At) -> Tensor:
            if at.run.generating:
                if "beside" not in at.memo:
                    at.memo["beside"] = Beside(model, other, prompt.length)
                return self.contrast(logits, at.memo["beside"].next(ids)[:, None])
            away, count = beside(model, other), logits.shape[1]
            if places is None:
                return self.contrast(logits, away[:, -count:])
            own = places[:, -count:].to(logits.device)
            rows = torch.arange(len(away), device=away.device)[:, None]
            mixed = self.contrast(logits, away[rows, own.clamp_min(0).to(away.device)])
            return torch.where((own >= 0)[..., None], mixed, logits)

        return prompt, [LogitsHook(contrasted)]

    def contrast(self, logits: Tensor, away: Tensor) -> Tensor:
        """The formula: logits with the image, and away from it, both [..., token]."""
        mixed = (1 + self.strength) * logits - self.strength * away.to(logits)
        if self.cut == 0:
            return mixed
        least = logits.amax(-1, keepdim=True) + math.log(self.cut)
        return mixed.masked_fill(logits < least, torch.finfo(logits.dtype).min)

    def distorted(self, model: "Model", prompt: Prompt) -> Prompt:
        """The prompt of the second run."""
        if self.noise == "none":
            if bool(prompt.where("image")[prompt.where("last")].any()):
                raise ValueError(
                    'VCD(noise="none") contrasts what follows text, and the prompt ends in its image: put '
                    'a question behind it, or take noise="diffusion".'
                )
            return without_image(model, prompt)
        inputs = dict(prompt.inputs)
        names = [name for name, value in inputs.items() if name.startswith(PIXELS) and _real(value)]
        if not names:
            raise ValueError(
                f"VCD finds no pixels to distort among the prompt's inputs, {', '.join(inputs)}: give them, "
                'or take noise="none".'
            )
        for name in names:
            inputs[name] = self._noised(inputs[name], inputs.get("image_grid_thw"))
        return replace(prompt, inputs=inputs, source={})

    def _noised(self, pixels: Tensor, grids: Tensor | None) -> Tensor:
        if self.noise == "blank":
            return torch.zeros_like(pixels)
        kept = alphas()[self.step]
        drawn = _drawn(pixels, self.seed, grids)
        return (kept.sqrt() * pixels.double().cpu() + (1 - kept).sqrt() * drawn).to(pixels)


def alphas() -> Tensor:
    """The share of the image's variance that is left after each step of diffusion."""
    betas = torch.linspace(-6, 6, STEPS, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    return (1 - betas).cumprod(0)


def _drawn(pixels: Tensor, seed: int, grids: Tensor | None) -> Tensor:
    """One draw for every image, whatever stands beside it in the batch.

    Pixels are [image, ..., channel, height, width], tiles of an image in order, or the patches of all
    images laid end to end, with their counts in `grids` [image, 3].
    """
    if pixels.ndim < 3 and grids is not None:
        return torch.cat(
            [_normal((count, *pixels.shape[1:]), seed) for count in grids.prod(-1).tolist()]
        )
    single = pixels.shape[-3:] if pixels.ndim > 3 else pixels.shape[1:]
    tiles = pixels.shape[1:-3]
    draws = [_normal(single, seed + number) for number in range(math.prod(tiles))]
    return torch.stack(draws).view(*tiles, *single).expand(pixels.shape)


def _normal(shape: Any, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def _real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _counterparts(prompt: Prompt, blind: Prompt) -> Tensor:
    """Where each position after the image stands in the prompt without it, [row, position]; else -1."""
    words = prompt.mask & ~prompt.where("image")
    order = torch.arange(prompt.length, device=words.device)
    image_end = torch.where(prompt.where("image"), order, -1).amax(1, keepdim=True)
    first = blind.mask.int().argmax(1, keepdim=True).to(words.device)
    place = first + words.long().cumsum(1) - 1
    return torch.where(words & (order > image_end), place, -1)


INTERVENTIONS.add("VCD", VCD)
