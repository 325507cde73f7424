"""How much a head writes into the residual stream."""

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from interp.metrics import METRICS, SiteMetric
from interp.metrics.value_drain import projected_norms


@dataclass(frozen=True)
class Written(SiteMetric):
    """|z W_O| of each head: what it adds to the stream, per head and query; padding is 0."""

    name: ClassVar[str] = "written"
    per: ClassVar[str] = "query"
    site: ClassVar[str] = "z"

    def read(self, value: Tensor, mask: Tensor, layer: Any) -> Tensor:
        return projected_norms(value, layer, self.name) * mask[:, None]


METRICS.add(Written.name, Written)
