"""CARVE: asked again on what the question alone looks at (arXiv 2509.06461, ECCV 2026)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.live import plainly
from interp.prompt import Prompt
from interp.registry import unknown
from interp.sites import At, Hook
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import (
    check_at_least,
    check_flag,
    check_share,
    image_span,
    layers_of,
    share,
    writing_stack,
)
from interp.steering.refining import STEPS, Refined, contrasted, enlarged, on_image, peaks
from interp.steering.rewording import again, check_source, images_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from interp.model import Model

GENERAL = "Write a general description of the image."
SUFFIX = " Answer the question using a single word or phrase."  # of the released code
REGIONS = 3  # the paper found 2 and 3 best


@dataclass(frozen=True)
class CARVE(Intervention):
    """The image is replaced by what the question looks at and a general instruction does not.

    Contrastive attention refinement, arXiv 2509.06461. Two plain passes write up to `tokens` tokens, to
    the question and to `general`. At each step and layer the attention from the last row to the image,
    mean over heads, is divided: A_question / (A_general + `floor`), and summed over layers (20 to 25 of
    32, at the same depth of another model) and common steps, step t weighing t + 1 (`steps="full"`;
    "first" and "last" take one). Laid on the image, the share `keep` of its pixels is kept, of that the
    `regions` connected regions of the largest sums. The rest turns black (`black=False`: what of it is in
    the cut stays), and what is left is cut out and enlarged. A processor that cuts squares out of images
    loses the ends of a long one.

    The paper asks on the refined image. The released code (`official=True`) shows the original and then
    the refined one, adds its suffix to both passes, and keeps max(3, floor(n keep)) of n regions. `suffix`
    is added to question and instruction in the two passes, which makes answers short.

    The prompt has to be made by model.encode, whose text asks a question and no more: where that is only
    a part of it, name the part: encode(text, images, spans={"question": "..."}). `refined` gives the
    images and the maps. What `plan` gives back may be longer than the prompt that was asked.
    """

    keep: float = 0.2
    regions: int | None = None  # 3
    layers: Sequence[int] | None = None  # 20 to 25 of 32
    steps: str = "full"
    general: str = GENERAL
    suffix: str | None = None  # none
    tokens: int = 32
    floor: float = 1e-8
    black: bool = True
    official: bool = False

    inert: ClassVar[Settings] = Settings(keep=1.0)
    strong: ClassVar[Settings] = Settings(keep=0.1)
    of: ClassVar[str] = "image"
    paper: ClassVar[str] = "arXiv 2509.06461, ECCV 2026"

    def __post_init__(self) -> None:
        check_share("CARVE", "keep", self.keep)
        if self.keep == 0:
            raise ValueError("CARVE(keep=0) would leave nothing of the image; 1 leaves all of it.")
        check_at_least("CARVE", "floor", self.floor, 1e-12)
        for name in ("black", "official"):
            check_flag("CARVE", name, getattr(self, name))
        if self.steps not in STEPS:
            raise LookupError(unknown("choice of steps", self.steps, list(STEPS)))
        for name in ("regions", "tokens"):
            value = getattr(self, name)
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if not whole and not (name == "regions" and value is None):
                raise ValueError(f"CARVE({name}={value!r}): {name} is a whole number from 1.")
        for name in ("general", "suffix"):
            value = getattr(self, name)
            if not isinstance(value, str) and not (name == "suffix" and value is None):
                raise TypeError(f"CARVE({name}={value!r}): {name} is a text.")

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        self._check(model, prompt)
        if self.keep == 1:
            return prompt, []
        images: list[list[Image]] = [[] for _ in range(len(prompt))]
        for part in self.refined(model, prompt):
            images[part.row] += [part.original, part.image] if self.official else [part.image]
        return again(model, prompt, images), []

    def refined(self, model: "Model", prompt: Prompt) -> list[Refined]:
        """What it makes of each image, and the map it goes by, in the order of rows and images."""
        layers = self._check(model, prompt)
        suffix = self.suffix if self.suffix is not None else SUFFIX if self.official else ""
        regions = None if self.official and self.regions is None else self.regions or REGIONS
        images = images_of(prompt)
        with plainly(), torch.no_grad():
            question = prompt
            if suffix:
                question = again(model, prompt, images, lambda words: words + suffix)
            general = again(model, prompt, images, lambda words: self.general + suffix, alone=True)
            asked, described = (self._looked(model, each, layers) for each in (question, general))
        found = []
        for row, own in enumerate(images):
            for image, original in enumerate(own):
                seen = _of_image(question, asked[row], row, image)
                beside = _of_image(general, described[row], row, image)
                tokens = contrasted(seen, beside, self.steps, self.floor)
                values = on_image(question, tokens, row, image)
                mask = peaks(values, self.keep, regions)
                refined, box = enlarged(original, mask, self.black)
                found.append(Refined(row, original, refined, values, mask, box))
        return found

    def _check(self, model: "Model", prompt: Prompt) -> list[int]:
        image_span(model, prompt, "CARVE")
        check_source(prompt, "CARVE")
        stack = writing_stack(model, "CARVE")
        layers = layers_of(stack, self.layers, share(stack, 20, 25, 32), "pattern")
        if not layers:
            raise ValueError(
                f"CARVE looks at attention in layers {share(stack, 20, 25, 32)} here, and they have none of "
                "their own: name others, CARVE(layers=[...])."
            )
        return layers

    def _looked(self, model: "Model", prompt: Prompt, layers: list[int]) -> list[Tensor]:
        """What each row's last position looks at while it is answered: [step, layer, position]."""
        steps: dict[int, dict[int, Tensor]] = {}

        def look(pattern: Tensor, at: At) -> None:
            over = pattern[:, :, -1].float().mean(1)
            seen = over.new_zeros(len(over), prompt.length)
            count = min(over.shape[1], prompt.length - at.first_key)
            seen[:, at.first_key : at.first_key + count] = over[:, :count]
            steps.setdefault(at.first + pattern.shape[2], {})[at.layer] = seen

        within = (prompt.length - 1, None)
        hook = Hook("pattern", look, layers, "text", rows=True, within=within)
        count = 1 if self.steps == "first" else self.tokens
        options: dict[str, Any] = {"do_sample": False, "num_beams": 1, "num_return_sequences": 1}
        ids = model.generate(prompt, hooks=hook, max_new_tokens=count, **options)
        ids = getattr(ids, "sequences", ids)[:, prompt.length :]
        seen = torch.stack(
            [torch.stack([own[layer] for layer in layers], 1) for _, own in sorted(steps.items())],
            1,
        )
        return [whole[:end] for whole, end in zip(seen, _lengths(model, ids), strict=True)]


def _of_image(prompt: Prompt, seen: Tensor, row: int, image: int) -> Tensor:
    """The part of what a row looks at that is one image's tokens: [step, layer, token]."""
    picture = prompt.images[row][image]
    if not len(picture.positions):
        why = picture.why or "its tokens do not stand among those of the text"
        raise ValueError(f"CARVE cannot tell where the image is looked at: {why}.")
    return seen[..., picture.positions.to(seen.device)]


def _lengths(model: "Model", written: Tensor) -> list[int]:
    """Steps of each answer, that of its end token included."""
    ends = getattr(model.hf.generation_config, "eos_token_id", None)
    ends = ends if isinstance(ends, list) else [] if ends is None else [ends]
    over = torch.isin(
        written, torch.tensor(ends, device=written.device, dtype=written.dtype)
    ).long()
    return ((over.cumsum(1) - over) == 0).sum(1).tolist()


INTERVENTIONS.add("CARVE", CARVE)
