"""How much of a query's attention goes to an image, or to any other span of the prompt."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from interp.metrics import METRICS, Block, Extent, Metric, check_span

if TYPE_CHECKING:
    from interp.prompt import Prompt

PARTS = ("all", "sink", "rest")


@dataclass(frozen=True)
class VisualShare(Metric):
    """Attention on the image's tokens, per head and query; `span` names another stretch of the prompt.

    `sinks` maps layers to masks [batch, position] of sink tokens (see the analysis `sinks`), and `part`
    takes the mass on those ("sink") or on the others ("rest") of the span.
    """

    name: ClassVar[str] = "visual_share"
    per: ClassVar[str] = "query"

    span: str = "image"
    part: str = "all"
    sinks: Mapping[int, Tensor] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if self.part not in PARTS:
            raise ValueError(f"part={self.part!r}: one of {', '.join(PARTS)}.")
        if self.part != "all" and self.sinks is None:
            raise ValueError(
                f"part={self.part!r} splits the span by sinks={{layer: mask}}, and none are given; the "
                "analysis `sinks` finds them."
            )

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        hint = "Encode with images=...: model.encode(text, images=image)."
        check_span(self.name, self.span, stack, prompt, hint)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        keys = extent.span(self.name, self.span)
        if self.part != "all" and self.sinks is not None:
            sinks = self.sinks[extent.layer].to(keys.device)
            keys = keys & (sinks if self.part == "sink" else ~sinks)
        weights = keys[block.batch, None, block.columns, None].float()
        rows = (block.pattern.float() @ weights)[..., 0]
        total[block.batch, block.heads, block.rows] = rows


METRICS.add(VisualShare.name, VisualShare)
