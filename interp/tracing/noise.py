"""Gaussian noise on the embeddings of some tokens, sized as ROME sizes it (arXiv 2202.05262).

It is added where the first layer receives the stream. Positions that a family adds before that stay
as they are, so this equals noise on the token embeddings; a factor that a family multiplies them with
is found by trying, and the noise multiplied with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp.prompt import Prompt
from interp.sites import At, Hook

if TYPE_CHECKING:
    from interp.model import Model

LINEAR = 0.02  # of a difference: what half precision may leave when embeddings are multiplied


@dataclass(frozen=True)
class Spread:
    """The standard deviation of embeddings over some tokens, and how they reach the first layer.

    `factor` is what they are multiplied with on the way; None where they pass a norm or a projection, and
    then `std` is that of what the first layer receives, `width` numbers a token.
    """

    std: float
    factor: float | None
    tokens: int
    width: int

    @property
    def arriving(self) -> float:
        """One standard deviation where the noise is added."""
        return self.std * (1.0 if self.factor is None else self.factor)


@torch.no_grad()
def spread(model: "Model", parts: Sequence[tuple[Prompt, Tensor]]) -> Spread:
    """Over all tokens of these prompts where their masks [batch, position] say so."""
    table = model.hf.get_input_embeddings()
    ids = torch.cat([_ids(prompt)[mask.to(_ids(prompt).device)] for prompt, mask in parts])
    width = _received(model, parts[0][0]).shape[-1]
    factor = _factor(model, *parts[0])
    if factor is None:
        received = [_received(model, prompt)[mask.cpu()] for prompt, mask in parts]
        return Spread(float(torch.cat(received).std()), None, len(ids), width)
    return Spread(float(table(ids).float().std()), factor, len(ids), width)


def draw(mask: Tensor, samples: int, width: int, size: float, seed: int) -> Tensor:
    """[row * samples, position, width]: each row `samples` times in a row, with noise where the mask is.

    The same seed draws the same noise for every row of as many tokens, whatever stands beside it.
    """
    noise = torch.zeros(len(mask), samples, mask.shape[1], width)
    for row, own in enumerate(mask.cpu()):
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(samples, int(own.sum()), width, generator=generator)
        noise[row, :, own] = size * drawn
    return noise.flatten(0, 1)


def adding(noise: Tensor, stack: str) -> Hook:
    """A hook that adds it to what the first layer receives."""

    def add_noise(value: Tensor, at: At) -> Tensor:
        return value + noise.to(value)

    return Hook("resid_pre", add_noise, layers=[0], stack=stack)


def _ids(prompt: Prompt) -> Tensor:
    if prompt.ids is None:
        raise ValueError("noise on embeddings needs token ids, and this prompt has none.")
    return prompt.ids


def _factor(model: "Model", prompt: Prompt, mask: Tensor) -> float | None:
    """What token embeddings are multiplied with before the first layer: other tokens are put there and
    the two runs compared, so that whatever depends on the position alone drops out."""
    ids = _ids(prompt)
    mask = mask.to(ids.device)
    other = Prompt.from_inputs(
        model, {**prompt.inputs, "input_ids": ids.where(~mask, _another(ids, mask))}
    )
    table = model.hf.get_input_embeddings()
    given = (table(_ids(other)) - table(ids))[mask].float().cpu()
    received = (_received(model, other) - _received(model, prompt))[mask.cpu()]
    if given.shape != received.shape:
        return None
    factor = float((given * received).sum() / given.square().sum())
    off = float((received - factor * given).norm() / received.norm())
    return factor if off < LINEAR else None


def _another(ids: Tensor, mask: Tensor) -> int:
    """A token that the masked ones are not: the prompt's last such one, or any."""
    own = set(ids[mask].tolist())
    rest = [token for token in ids[~mask].tolist() if token not in own]
    return rest[-1] if rest else next(token for token in range(len(own) + 1) if token not in own)


def _received(model: "Model", prompt: Prompt) -> Tensor:
    stack = next(iter(model.stacks))
    return model.trace(prompt, "resid_pre", layers=[0])["resid_pre", 0, stack].float().cpu()
