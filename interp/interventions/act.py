"""ACT: attention calibration (Yu et al., ICML 2024)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook, whole_number
from interp.steering.found import taken
from interp.steering.intervention import Intervention, Settings
from interp.steering.moving import Moving, exact
from interp.steering.needs import (
    check_at_least,
    check_flag,
    check_share,
    heads_of,
    layers_of,
    writing_stack,
)
from interp.steering.spans import asked

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

FIXED = 0.1  # the released code's threshold


@dataclass(frozen=True)
class ACT(Intervention):
    """Sinks of a head, the first token apart, keep a share of their weight; the others get the rest.

    Yu et al., ICML 2024. A key is a sink of a head where the mean weight that it gets from the rows from
    it on exceeds `alpha` / N, N the tokens of the prompt; not the first token, and no key that fewer
    than `least_rows` rows see. Sinks keep the share `beta`, and the rest goes to all other keys by their
    weights, the first token included (`first_receives=False`: without it). Only the prompt's rows are
    calibrated; `decode=True` goes on with the prompt's sinks in rows that are written.

    `heads`: (layer, head) pairs, what `interp.steering.search.find_heads` found, or its file; left out,
    all heads of `layers`. The paper calibrates only heads that gain by it on a task's training texts.

    The released code (`official=True`) has a fixed threshold of 0.1, leaves out the first sink in the place
    of the first token, which is mostly the same, and counts keys that one row sees.
    """

    heads: Any = None
    beta: float = 0.4
    alpha: float = 5.0  # 3 to 7 in the paper
    threshold: float | None = None  # fixed, in the place of alpha / N
    layers: Sequence[int] | int | None = None  # 2 to the last but one
    least_rows: int | None = None  # 4; official 1
    first_receives: bool = True
    decode: bool = False
    official: bool = False

    inert: ClassVar[Settings] = Settings(beta=1.0)
    strong: ClassVar[Settings] = Settings(beta=0.0, alpha=0.0, layers=(-2, -1), least_rows=1)
    of: ClassVar[str] = "text"
    paper: ClassVar[str] = "Yu et al., ICML 2024"

    def __post_init__(self) -> None:
        check_share("ACT", "beta", self.beta)
        check_at_least("ACT", "alpha", self.alpha, 0)
        if self.threshold is not None:
            check_share("ACT", "threshold", self.threshold)
            if self.alpha != type(self).alpha:
                raise ValueError("ACT: threshold= is fixed and alpha= grows with 1 / N; give one.")
        if self.least_rows is not None and whole_number(self.least_rows, "least_rows=") < 1:
            raise ValueError(f"ACT(least_rows={self.least_rows}): rows that see a key, at least 1.")

        for name in ("first_receives", "decode", "official"):
            check_flag("ACT", name, getattr(self, name))

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        stack = writing_stack(model, "ACT")
        by_heads = self._heads(model, stack)
        if prompt.ids is None:
            raise ValueError("ACT calibrates the tokens of a text, and this prompt has none.")
        if self.beta == 1:
            return prompt, []
        real = asked(prompt)
        end = int(real.any(0).nonzero()[-1]) + 1
        edit = _Edit(self, real, end, model.kind == "vlm")
        within = (0, None if self.decode else end)
        return prompt, [
            Hook("pattern", edit.calibrate, layers, stack.name, heads, within=within)
            for heads, layers in by_heads.items()
        ]

    def _heads(self, model: "Model", stack: "Stack") -> dict[tuple[int, ...] | None, list[int]]:
        """Layers by the heads that are calibrated in them; None: all."""
        given = taken(model, self.heads, "heads", "ACT")
        if given is None:
            layers = layers_of(stack, self.layers, range(2, stack.size - 1), "pattern")
            if not layers:
                raise ValueError(
                    f"ACT calibrates layers 2 to the last but one, and this stack has {stack.size}: "
                    f"name the layers, ACT(layers=[{stack.size - 1}])."
                )
            return {None: layers}
        if self.layers is not None:
            raise ValueError(
                "ACT(heads=..., layers=...): heads name their layers; give one of both."
            )
        found: dict[tuple[int, ...] | None, list[int]] = {}
        listed = [given] if isinstance(given, str) else given
        for layer, heads in (heads_of(stack, listed, "pattern") or {}).items():
            found.setdefault(heads, []).append(layer)
        return found


@dataclass(frozen=True, eq=False)
class _Edit:
    """The settings laid over one prompt; what is found in a run stays in its memo."""

    method: ACT
    asked: Bool[Tensor, "row position"]
    end: int  # behind the last position of what is asked
    both_ways: bool  # rows may see keys behind them

    def calibrate(self, pattern: Tensor, at: At) -> Tensor:
        """The prompt's rows, all at once; rows that are written, with the sinks that the prompt had."""
        rows, start = pattern.shape[2], at.run.start or 0
        if at.first >= self.end and not start:
            return self._written(exact(pattern), at).to(pattern.dtype)
        if at.first or rows < self.end:
            raise ValueError(
                f"ACT finds sinks in the map of the whole prompt, and was shown positions {at.first} to "
                f"{at.first + rows - 1}, where the prompt is {start} to {start + self.end - 1}: run it in "
                "one piece (no prefill_chunk_size, no cache of an earlier turn)."
            )
        changed = self._asked(exact(pattern[:, :, : self.end]), at)
        if rows > self.end:
            at = replace(at, first=self.end)
            changed = torch.cat([changed, self._written(exact(pattern[:, :, self.end :]), at)], 2)
        return changed.to(pattern.dtype)

    def _asked(self, weights: Tensor, at: At) -> Tensor:
        batch, heads, rows, keys = weights.shape
        real = (
            self.asked[:, :rows].to(weights.device).repeat_interleave(batch // len(self.asked), 0)
        )
        sinks, others = self._found(weights[..., :rows], real)
        moving = Moving.of(others, sinks, self.method.beta, weights.dtype, new=True)
        at.memo.setdefault("moving", {})[at.layer] = moving
        able = real[:, None].expand(-1, heads, -1).flatten(0, 1)[..., None]
        return self._moved(weights, moving, at, able)

    def _written(self, weights: Tensor, at: At) -> Tensor:
        return self._moved(weights, at.memo["moving"][at.layer], at)

    def _found(self, weights: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """[batch * head, key]: the sinks, and who receives, of a square map of real `keys`."""
        total = keys.sum(1, keepdim=True)
        order = keys.cumsum(1) - 1
        seen = total - order  # rows from a key on
        least = self.method.least_rows or (1 if self.method.official else 4)
        # Rows before a key see it too in models that read images both ways, and do not count.
        weights = weights.tril() if self.both_ways else weights
        received = keys[:, None, None].to(weights) @ weights
        limit = self.method.alpha / total
        if self.method.threshold is not None or self.method.official:
            limit = torch.full_like(
                limit, FIXED if self.method.threshold is None else self.method.threshold
            )
        over = received[:, :, 0] / seen.clamp_min(1)[:, None] > limit[:, None]
        over = over & (keys & (seen >= least))[:, None]
        start = (keys & (order == 0))[:, None]
        sinks = over & ~(over & (over.cumsum(-1) == 1) if self.method.official else start)
        others = keys[:, None] & ~sinks
        others = others if self.method.first_receives else others & ~start
        return sinks.flatten(0, 1), others.flatten(0, 1)

    def _moved(self, weights: Tensor, moving: Moving, at: At, rows: Tensor | None = None) -> Tensor:
        return moving.shift(weights.flatten(0, 1), at.first_key, rows)[0].view(weights.shape)


INTERVENTIONS.add("ACT", ACT)
