"""PASTA: post-hoc attention steering (Zhang et al., ICLR 2024)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.interventions import INTERVENTIONS
from interp.prompt import Prompt
from interp.sites import At, Hook
from interp.steering.highlights import check_left, check_lit, check_texts, spans_of, union
from interp.steering.intervention import Intervention, Settings
from interp.steering.needs import check_flag, check_share, writing_stack
from interp.steering.pressing import by_key, hooks_on_scores, placed, seeing_from
from interp.steering.spans import asked

if TYPE_CHECKING:
    from interp.model import Model


@dataclass(frozen=True)
class PASTA(Intervention):
    """Chosen heads look away from all of the prompt but the highlight: S += log(alpha) elsewhere.

    Zhang et al., ICLR 2024, equation 2: weights outside the highlight are multiplied by alpha and the row
    is normalised again, for every row, in prompt and answer. Keys of the answer stay as they are, the
    first token does not. `highlight` is a span's name or an exact text (each place where it stands), or
    several, which count as one. Rows before it see none of it: nothing would change there, and nothing does.

    `heads` are (layer, head) pairs, "layer.head" names, {layer: heads}, a finding or its file; without
    them all heads of `layers` (all), which the paper found worse than 50 to 150 chosen ones. `spare` is
    left as it is besides: the question, say. `official` is the released code (QingruZhang/PASTA) where
    there are several highlights: it presses each down once for every other, and the rest as often as
    there are highlights, so that the answer's own tokens gain against all. Of that code's tokens, one too
    many at a highlight's end is not taken over.
    """

    highlight: str | Sequence[str] = "key"
    alpha: float = 0.01
    heads: Any = None
    layers: Sequence[int] | int | None = None
    spare: str | Sequence[str] = ()
    official: bool = False

    inert: ClassVar[Settings] = Settings(alpha=1.0, highlight="first")
    strong: ClassVar[Settings] = Settings(alpha=1e-4, highlight="first")
    of: ClassVar[str] = "text"
    paper: ClassVar[str] = "Zhang et al., ICLR 2024"

    def __post_init__(self) -> None:
        check_texts("PASTA", "highlight", self.highlight)
        check_texts("PASTA", "spare", self.spare, none=True)
        check_alpha("PASTA", self.alpha)
        check_flag("PASTA", "official", self.official)

    def plan(self, model: "Model", prompt: Prompt) -> tuple[Prompt, list[Hook]]:
        spans = spans_of(prompt, self.highlight)
        check_lit("PASTA", union(prompt, spans), self.highlight)
        return prompt, looking_away(self, model, prompt, spans, self.official)


def check_alpha(who: str, alpha: Any) -> None:
    check_share(who, "alpha", alpha)
    if alpha == 0:
        raise ValueError(
            f"{who}(alpha=0): 0 would take the rest of the prompt away; give more, such as the paper's 0.01."
        )


def looking_away(
    of: Any, model: "Model", prompt: Prompt, spans: Sequence[Tensor], each: bool = False
) -> list[Hook]:
    """Hooks that press what is asked down by log(alpha), but for the spans and what is spared.

    `of` has the settings alpha, heads, layers and spare. `each`: once for each span that it is outside of.
    """
    who = type(of).__name__
    stack = writing_stack(model, who)
    layers, heads = placed(model, stack, of.heads, of.layers, range(stack.size), who)
    spared = union(prompt, spans_of(prompt, of.spare))
    lit = union(prompt, spans)
    check_left(who, prompt, lit | spared)
    if of.alpha == 1:
        return []
    outside = [~span for span in spans] if each else [~lit]
    times = torch.stack(outside).sum(0) * (asked(prompt) & ~spared & lit.any(1, keepdim=True))
    bias = math.log(of.alpha) * times.double()

    def away(scores: Tensor, at: At) -> Tensor:
        return scores + by_key(bias, scores, at)

    since = seeing_from(model, prompt, lit | spared)
    return hooks_on_scores(stack, away, layers, heads, (since, None))


INTERVENTIONS.add("PASTA", PASTA)
