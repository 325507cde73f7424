"""Heads that copy an answer out of the text (Wu et al. 2024)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric, check_span

if TYPE_CHECKING:
    from interp.prompt import Prompt


@dataclass(frozen=True)
class Retrieval(Metric):
    """Share of the needle that a head looks at most while the same token is written, per head.

    The prompt holds its answer as the span `response`, and what is to be found as `needle`: one forward
    over both has the rows of every decoding step. Repeats count again, so a score can exceed 1.
    """

    name: ClassVar[str] = "retrieval"
    per: ClassVar[str] = "head"
    one_sequence: ClassVar[bool] = True
    only_causal: ClassVar[bool] = True

    needle: str = "needle"
    response: str = "response"

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        if prompt is not None and prompt.ids is None:
            raise ValueError("retrieval compares tokens, and this prompt has no text.")
        for span in (self.needle, self.response):
            hint = (
                "prompt.spans[name] = mask makes one; interp.responses.respond marks the response."
            )
            check_span(self.name, span, stack, prompt, hint)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        prompt = extent.owner(self.name)
        assert prompt.ids is not None
        ids = prompt.ids.to(total.device)
        written = torch.roll(extent.span(self.name, self.response), -1, 1)  # rows that write it
        written[:, -1] = False
        needle = extent.span(self.name, self.needle)
        following = torch.roll(ids, -1, 1)
        top = block.rows.start + extent.first
        for example in range(extent.batch)[block.batch]:
            rows = written[example, top : top + block.pattern.shape[-2]].nonzero().flatten()
            if not len(rows):
                continue
            part = block.pattern[example - (block.batch.start or 0)][:, rows]
            place = part.argmax(-1) + block.left + extent.first_key
            wanted = following[example, rows + top]
            hit = needle[example][place] & (ids[example][place] == wanted)
            total[example, block.heads] += hit.sum(-1).to(total.dtype)

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        return total / extent.span(self.name, self.needle).sum(-1, keepdim=True).clamp_min(1)


METRICS.add(Retrieval.name, Retrieval)
