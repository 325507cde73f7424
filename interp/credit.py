"""Credit for the tokens that attention points out, as weights on their advantages (arXiv 2510.13554).

    gamma = Credit().coupled(waad, fai)
    advantages = shaped(advantages, gamma)

No official code is known. What the paper leaves open is a setting of `Credit`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp.coupling import largest, portion
from interp.registry import unknown


@dataclass(frozen=True)
class Version:
    """One version of the paper: FAI's horizon in training, and whether negative advantages are weighted."""

    horizon: tuple[int, int]
    negative: bool


VERSIONS = {"v1": Version((10, 50), negative=False), "v2": Version((10, 100), negative=True)}
DEFAULT = "v2"
# Which token before a dominated anchor introduces it: of those tokens, the one where WAAD changes
# most, or the last one where it changes as much as `change_limit`.
INTRODUCTIONS = ("largest", "latest")
LAYERS = 5  # that training looks at


@dataclass(frozen=True)
class Credit:
    """Weights gamma [token] of one response from its WAAD and FAI, token by token; float64.

    `share` of the tokens is chosen, rounded up, the earlier of equals first, and gains `amplify` - 1. An
    anchor is dominated if its WAAD is at most `waad_limit` (None: the response's median) and one of
    the `back` tokens before it changes WAAD by at least `change_limit` (None: the least change that
    local credit chooses); `alpha` of its gain goes to the token that introduces it. Gains add up: a token
    that is an anchor and introduces another has both, 1.75 with these settings. One response at a time.
    """

    share: float = 0.4
    amplify: float = 1.5
    alpha: float = 0.5
    back: int = 3
    waad_limit: float | None = None
    change_limit: float | None = None
    introduction: str = "largest"

    def __post_init__(self) -> None:
        portion(1, self.share)
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha={self.alpha}: a part of the gain, from 0 to 1.")
        if self.back < 1:
            raise ValueError(f"back={self.back}: an anchor is introduced at least 1 token before.")
        if self.introduction not in INTRODUCTIONS:
            raise ValueError(unknown("introduction", self.introduction, list(INTRODUCTIONS)))

    @classmethod
    def of(cls, settings: Any) -> "Credit":
        """From a mapping of settings, one of these, or None."""
        if isinstance(settings, cls):
            return settings
        known = [field.name for field in fields(cls)]
        for name in settings or {}:
            if name not in known:
                raise ValueError(unknown("setting of credit", name, known))
        return cls(**(settings or {}))

    def local(self, waad: Any) -> np.ndarray:
        """Gain where WAAD is about to change most: at the edges of chunks."""
        return 1 + (self.amplify - 1) * self._chosen(changes(waad))

    def anchors(self, fai: Any) -> np.ndarray:
        """Gain at the tokens of highest FAI (the paper's global credit). Where it is NaN, none."""
        return 1 + (self.amplify - 1) * self._chosen(fai)

    def coupled(self, waad: Any, fai: Any) -> np.ndarray:
        """Gain at anchors, of which dominated ones hand a part on to what introduces them."""
        anchors = self._chosen(fai)
        dominated, introducing = self.dominated(waad, fai)
        gain = 1.0 * (anchors & ~dominated)
        gain += (1 - self.alpha) * dominated + self.alpha * introducing
        return 1 + (self.amplify - 1) * gain

    def columns(self, waad: Any, fai: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """All three of one response: gamma_local, and the other two by version; `fai` holds one each."""
        found = {"gamma_local": self.local(waad)}
        for version, values in fai.items():
            found[f"gamma_global_{version}"] = self.anchors(values)
            found[f"gamma_coupled_{version}"] = self.coupled(waad, values)
        return found

    def dominated(self, waad: Any, fai: Any) -> tuple[np.ndarray, np.ndarray]:
        """True at dominated anchors, and at the tokens that introduce them."""
        change, waad, anchors = changes(waad), np.asarray(waad, float), self._chosen(fai)
        if len(waad) != len(anchors):
            raise ValueError(
                f"WAAD has {len(waad)} tokens and FAI {len(anchors)}: not one response."
            )
        low = np.median(waad) if self.waad_limit is None else self.waad_limit
        enough = self.change_limit
        if enough is None:
            enough = change[self._chosen(change)].min()
        dominated, introducing = np.zeros_like(anchors), np.zeros_like(anchors)
        for token in np.flatnonzero(anchors & (waad <= low)):
            start = max(0, token - self.back)
            before = change[start:token]
            if len(before) and before.max() >= enough:
                dominated[token] = True
                introducing[start + self._introduces(before, enough)] = True
        return dominated, introducing

    def _introduces(self, before: np.ndarray, enough: float) -> int:
        if self.introduction == "latest":
            return int(np.flatnonzero(before >= enough)[-1])
        return int(before.argmax())

    def _chosen(self, values: Any) -> np.ndarray:
        return largest(values, portion(len(values), self.share))


def changes(waad: Any) -> np.ndarray:
    """|WAAD_t - WAAD_{t+1}|; 0 at the last token."""
    series = np.asarray(waad, dtype=float)
    if series.ndim != 1 or not len(series) or bool(np.isnan(series).any()):
        raise ValueError(
            f"credit takes the WAAD of one response, a defined number for each of its tokens; not "
            f"{series.shape} with {int(np.isnan(series).sum())} NaN. Cut the prompt's rows off first."
        )
    return np.append(np.abs(np.diff(series)), 0.0)


def shaped(advantages: Any, gamma: Any, version: str = DEFAULT) -> Tensor:
    """gamma times the advantage, token by token; no gradient flows to gamma.

    `gamma` is [token] or [batch, token]; `advantages` is of the same shape, [batch, 1], or one number.
    "v2" weighs every advantage, "v1" leaves negative ones as they are.
    """
    if version not in VERSIONS:
        raise ValueError(unknown("version", version, list(VERSIONS)))
    advantages = torch.as_tensor(advantages)
    if not advantages.is_floating_point():
        advantages = advantages.float()
    weight = torch.as_tensor(gamma).detach().to(advantages)
    if advantages.ndim and (
        advantages.ndim != weight.ndim
        or any(own not in (1, of) for own, of in zip(advantages.shape, weight.shape, strict=True))
    ):
        raise ValueError(
            f"advantages {tuple(advantages.shape)} do not go with weights {tuple(weight.shape)}: give one "
            "for each token, or [batch, 1] for one a response."
        )
    if not VERSIONS[version].negative:
        weight = torch.where(advantages < 0, torch.ones_like(weight), weight)
    return advantages * weight


def too_short(lengths: Sequence[int]) -> list[str]:
    """A sentence for each version whose horizon starts behind the end of some responses."""
    notes = []
    for version, one in VERSIONS.items():
        low = one.horizon[0]
        if short := sum(length <= low for length in lengths):
            notes.append(
                f"FAI of {version} is left out of {short} of {len(lengths)} responses: its horizon starts "
                f"{low} tokens after a key, and they have no more. No anchor gains in them by {version}."
            )
    return notes


def credit_layers(layers: Sequence[int], depth: int, count: int = LAYERS) -> list[int]:
    """Up to `count` evenly spaced ones of the layers from floor(depth / 3) to floor(2 depth / 3).

    `layers` are those that have attention. Of 36: 12, 15, 18, 21, 24.
    """
    inside = [layer for layer in sorted(layers) if depth // 3 <= layer <= 2 * depth // 3]
    if not inside:
        raise ValueError(
            f"no layer from {depth // 3} to {2 * depth // 3} has attention, where credit is read; "
            f"attention is in layers {sorted(layers)}."
        )
    places = np.linspace(0, len(inside) - 1, min(count, len(inside))).round().astype(int)
    return [inside[place] for place in places]
