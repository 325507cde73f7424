"""Vision-aware head divergence (arXiv 2412.13949): how far a missing image moves each head's output."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.asking import choose_layers
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.weights.measuring import needs_image

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True, eq=False)
class VisionDivergence:
    """At the last position of each row, for each head of the text stack: [batch, layer, head]."""

    vhd: Tensor  # |z with the image - z without it|, Euclidean
    alone: Tensor  # |z without the image| squared: the paper's text activation TA

    @property
    def kept(self) -> Tensor:
        """VHD without heads that lose their footing: 0 where VHD and TA both stand out in the layer."""
        return self.vhd * ~(_stands_out(self.vhd) & _stands_out(self.alone))

    def per_token(self, top: int) -> Tensor:
        """T-VHD [batch]: of each layer the `top` largest VHD, together."""
        if not 1 <= top <= self.vhd.shape[-1]:
            raise ValueError(f"top={top}: a layer has 1 to {self.vhd.shape[-1]} heads to count.")
        return self.vhd.topk(top, -1).values.sum((1, 2))


def vision_divergence(model: "Model", prompt: Prompt) -> VisionDivergence:
    """Two runs, with the image and with its tokens and pixels left out; the text stays as it is."""
    whole, blind = _last_z(model, prompt), _last_z(model, without_image(model, prompt))
    return VisionDivergence((whole - blind).norm(dim=-1), blind.norm(dim=-1).square())


def without_image(model: "Model", prompt: Prompt) -> Prompt:
    """The same prompt without the tokens of its images, and without pixels.

    What stands around them (a template's line break, markers of a beginning and an end) stays.
    """
    if model.kind != "vlm" or "text" not in model.stacks:
        raise ValueError(
            f"{model.name} is of kind {model.kind!r}; an image can be left out of the prompt of a "
            "vision-language model."
        )
    if prompt.ids is None or "image" not in prompt.names:
        raise ValueError("the prompt holds no image tokens, so there is no image to leave out.")
    if needs_image(model):
        raise ValueError(f"{model.name} reads no text without an image.")
    words = prompt.mask & ~prompt.where("image")
    rows = [ids[kept].tolist() for ids, kept in zip(prompt.ids, words, strict=True)]
    blind = model.encode(rows)
    if (
        "token_type_ids" in prompt.inputs
    ):  # without them PaliGemma sees ahead, or not, as padding has it
        blind.inputs["token_type_ids"] = torch.zeros_like(blind.inputs["input_ids"])
    return blind


def _last_z(model: "Model", prompt: Prompt) -> Tensor:
    """z at the last real position: [batch, layer, head, d_head]."""
    found: dict[int, Tensor] = {}
    last = prompt.where("last").int().argmax(-1)

    def read(value: Tensor, at: At) -> None:
        rows = torch.arange(len(value), device=value.device)
        found[at.layer] = value.detach()[rows, last.to(value.device)].float().cpu()

    layers = sorted(choose_layers(model.stacks["text"], None, "z"))
    with torch.no_grad():
        model.logits(prompt, hooks=Hook("z", read, layers, "text"))
    return torch.stack([found[layer] for layer in layers], 1)


def _stands_out(values: Tensor) -> Tensor:
    return values > values.mean(-1, keepdim=True) + values.std(-1, keepdim=True)
