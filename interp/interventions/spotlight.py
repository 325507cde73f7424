"""SpotLight: a least share of attention for a highlight (Venkateswaran and Contractor, EACL 2026)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.highlights import check_lit, check_texts, spans_of, union
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_share, writing_stack
from interp.steering.pressing import by_key, hooks_on_scores, placed, seeing_from

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class SpotLight(Intervention):
    """Rows that give a highlight less than `target` of their attention give it more: S += log(target / psi).

    Venkateswaran and Contractor, EACL 2026: psi is what the row gives the highlight, before the change; what
    it gives after it lies between target / (1 + target) and target. Rows with psi >= target, and those that
    cannot see the highlight, stay. All layers and heads of the paper, all rows of prompt and answer. 0.1 is
    the paper's target, and 0.3 was found to do harm. `highlight` and `heads` are as PASTA's. A learned sink
    (gpt-oss) does not count: shares are of what it leaves.
    """

    highlight: str | Sequence[str] = "key"
    target: float = 0.1
    heads: Any = None
    layers: Sequence[int] | int | None = None

    inert: ClassVar[Settings] = Settings(target=0.0, highlight="first")
    strong: ClassVar[Settings] = Settings(target=0.95, highlight="first")
    of: ClassVar[str] = "text"
    paper: ClassVar[str] = "Venkateswaran and Contractor, EACL 2026"

    def __post_init__(self) -> None:
        check_texts("SpotLight", "highlight", self.highlight)
        check_share("SpotLight", "target", self.target)

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        stack = writing_stack(model, "SpotLight")
        layers, heads = placed(
            model, stack, self.heads, self.layers, range(stack.size), "SpotLight"
        )
        lit = union(prompt, spans_of(prompt, self.highlight))
        check_lit("SpotLight", lit, self.highlight)
        if self.target == 0:
            return prompt, []
        found = lit.any(0).nonzero()
        first, last = int(found[0]), int(found[-1])
        solid, target = bool(lit[:, first : last + 1].all()), math.log(self.target)
        member = lit.double()

        def lighten(scores: Tensor, at: At) -> Tensor:
            start = (at.run.start or 0) - at.first_key
            low, high = max(0, start + first), max(0, start + last + 1)
            inside = by_key(member, scores, at)
            wide = torch.promote_types(scores.dtype, torch.float32)
            held = scores.softmax(-1, dtype=wide)[..., low:high]
            held = held if solid else held * inside[..., low:high]
            psi = held.sum(-1, keepdim=True).clamp_min(torch.finfo(wide).tiny)
            # Keys that a row cannot see are hidden again whatever is added, so blind rows stay.
            short = (target - psi.log()).clamp_min(0)
            return torch.addcmul(scores, short.to(scores), inside)

        within = (seeing_from(model, prompt, lit), None)
        return prompt, hooks_on_scores(stack, lighten, layers, heads, within)


INTERVENTIONS.add("SpotLight", SpotLight)
