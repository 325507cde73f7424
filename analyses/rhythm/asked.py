"""The settings of a rhythm, checked before anything runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from interp import coupling
from interp.coupling.heads import head_groups
from interp.credit import VERSIONS, Credit
from interp.metrics import METRICS
from interp.registry import unknown
from interp.responses import SPAN

if TYPE_CHECKING:
    from interp.metrics import Metric

TEMPERATURES = {"analysis": 0.7, "rl": 1.0}  # of the paper, by mode
LONGEST = 128  # tokens of a response, if the caller names no number
TRAINED = {version: f"fai_{version}" for version in VERSIONS}  # columns


@dataclass(frozen=True)
class Asked:
    """The settings, checked before anything runs."""

    window: int
    mode: str
    layers: Sequence[int] | None
    share: float
    peaks: str
    peak_share: float | None
    horizon: tuple[int, int | None]
    lag: int
    seed: int
    shuffles: int
    receivers: int | None
    chunks: int | None
    proximity: int
    depth_control: bool
    batch: int | None
    count: int | None
    credit: Credit
    given: dict[str, Any]  # of generate's options, what the caller named; None: not

    def __post_init__(self) -> None:
        if not isinstance(self.horizon, (tuple, list)) or len(self.horizon) != 2:
            raise TypeError(f"horizon={self.horizon!r}: from where to where, such as (0, None).")
        if self.mode not in TEMPERATURES:
            raise ValueError(unknown("mode", self.mode, list(TEMPERATURES)))
        _ = self.metrics(), self.writing(), self.found([0.0])  # refuse what they cannot take
        head_groups([0.0, 1.0], self.share)
        if self.peaks == "maxima" and self.peak_share is not None:
            raise ValueError('peak_share= goes with peaks="top"; leave it out for local maxima.')
        if self.mode == "analysis" and self.batch is not None:
            raise ValueError('batch= goes with mode="rl"; in analysis all records make one group.')
        if self.receivers == 0 and (self.chunks is not None or self.depth_control):
            raise ValueError("chunks= and depth_control= would do nothing with receivers=0.")
        least = {"shuffles": 1, "chunks": 1, "batch": 1, "count": 1}
        for name, low in (least | dict.fromkeys(("receivers", "lag", "proximity"), 0)).items():
            value = getattr(self, name)
            if value is not None and value < low:
                raise ValueError(f"{name}={value}: give at least {low}.")

    def found(self, values: Any) -> np.ndarray:
        """The peaks of a curve."""
        share = 0.2 if self.peak_share is None else self.peak_share
        return coupling.peaks(values, self.peaks, share)

    def metrics(self) -> "dict[str, Metric]":
        kept = {name: METRICS["fai"](*VERSIONS[version].horizon, rows=SPAN)
                for version, name in TRAINED.items()}  # fmt: skip
        kept["fai"] = METRICS["fai"](*self.horizon, rows=SPAN)
        kept["waad"] = METRICS["waad"](window=self.window, rows=SPAN)
        kept["span"] = METRICS["span"](rows=SPAN)
        kept["span_without_first"] = METRICS["span"](rows=SPAN, without_first=True)
        return kept

    def writing(self) -> dict[str, Any]:
        """Options of generate."""
        heat = self.given["temperature"]
        heat = TEMPERATURES[self.mode] if heat is None else heat
        if heat < 0:
            raise ValueError(f"temperature={heat}: 0 is greedy, and above it is sampled.")
        sampled = {"do_sample": True, "temperature": heat, "top_k": 0, "top_p": 1.0}
        longest, least = self.given["max_new_tokens"], self.given["min_new_tokens"]
        options: dict[str, Any] = {"max_new_tokens": LONGEST if longest is None else longest}
        options |= {} if least is None else {"min_new_tokens": least}
        return options | (sampled if heat else {"do_sample": False})
