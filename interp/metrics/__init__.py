"""Numbers read off a model while it runs, and equally off what was stored.

Most are read off attention: a small frozen object with settings, and three steps that the seam calls
block by block. Called on a stored pattern it takes the same steps over one block that holds
everything. `SiteMetric` reads another site, which passes whole.

    waad = METRICS["waad"](window=3)
    model.trace(prompt, keep=[waad])["waad", 2]  # equal to: waad(trace["pattern", 2])
    metric(trace[metric.site, 2], prompt, model.stacks["text"].layers[2])  # of any metric
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from interp.readouts import divergence as divergence
from interp.readouts import log_probability as log_probability
from interp.readouts import logit as logit
from interp.readouts import logit_diff as logit_diff
from interp.readouts import probability as probability
from interp.registry import Registry
from interp.sites import SITES

if TYPE_CHECKING:
    from interp.prompt import Prompt

# Classes of metrics; each has settings of its own.
METRICS: Registry[Any] = Registry("metric", "interp.metrics")
# What one number of a metric belongs to, and the axes of its values.
AXES = {
    "query": ("batch", "head", "query"),
    "key": ("batch", "head", "key"),
    "head": ("batch", "head"),
    "hop": ("batch", "head", "hop"),
    "chunk": ("batch", "head", "chunk", "chunk"),
    "position": ("batch", "position"),
    "rank": ("batch", "rank", "field"),
}


@dataclass(frozen=True)
class Block:
    """Some rows of some heads of attention maps, on their way through the seam."""

    pattern: Tensor  # [batch, head, row, key]
    scores: Tensor | None  # the same before softmax; None when the pattern was changed after it
    rows: slice  # which query rows of the call
    left: int  # the call's column that is this block's first
    batch: slice
    heads: slice

    @property
    def columns(self) -> slice:
        """The keys that the block's columns stand for."""
        return slice(self.left, self.left + self.pattern.shape[-1])


@dataclass(frozen=True)
class Extent:
    """The size of one attention call, where it lies in the text, and whose text that is."""

    batch: int
    heads: int
    queries: int
    keys: int
    first: int  # absolute position of the first query
    first_key: int  # and of the first key
    causal: bool  # no key lies after its query: known of the stack, not guessed from numbers
    device: torch.device
    real: Tensor | None = None  # [batch, head or 1, query]: rows that are tokens; None when all are
    parts: tuple[slice, ...] = ()  # stretches that do not see each other; () where all is one
    prompt: "Prompt | None" = None
    stack: str = ""  # "" for a stored pattern: taken to be over the prompt's positions
    layer: int = 0

    @property
    def rows(self) -> Tensor:
        """[batch, head or 1, query]: 1 for rows that are tokens."""
        if self.real is None:
            return torch.ones(1, 1, self.queries, device=self.device)
        return self.real.float()

    def rows_seeing(self) -> Tensor:
        """[batch, head or 1, key or 1]: how many queries see each key; a sliding window counts as open."""
        if self.causal:
            return self.rows_after()
        rows = self.rows
        if not self.parts:
            return rows.sum(-1, keepdim=True)
        counts = [rows[..., part].sum(-1, keepdim=True) for part in self.parts]
        sizes = [part.stop - part.start for part in self.parts]
        spread = [
            one.expand(*one.shape[:-1], size) for one, size in zip(counts, sizes, strict=True)
        ]
        return torch.cat(spread, -1)

    def rows_after(self, low: int = 0, high: int | None = None) -> Tensor:
        """[batch, head or 1, key]: how many rows stand `low` to `high` positions after each key."""
        upto = torch.nn.functional.pad(self.rows.cumsum(-1), (1, 0))
        key = torch.arange(self.keys, device=self.device) + self.first_key - self.first
        start = (key + low).clamp(0, self.queries)
        stop = (key + high + 1).clamp(0, self.queries) if high is not None else None
        last = upto[..., -1:] if stop is None else upto[..., stop]
        return last - upto[..., start]

    def owner(self, name: str) -> "Prompt":
        """The prompt whose positions these keys are, or the reason why there is none."""
        if self.prompt is None:
            raise ValueError(
                f"{name} needs to know the prompt: metric(pattern, prompt) on a stored pattern, or "
                "trace(prompt, keep=...)."
            )
        check_owner(name, self.stack, self.prompt)
        if self.prompt.length != self.first_key + self.keys:
            raise ValueError(
                f"{name} reads the prompt's {self.prompt.length} positions, and this pattern has "
                f"{self.keys} keys: they are not the same sequence."
            )
        return self.prompt

    def span(self, name: str, span: str) -> Tensor:
        """The prompt's span over the keys, [batch, key]."""
        return self.owner(name).where(span).to(self.device)[:, self.first_key :]

    def over_queries(self, keys: Tensor) -> Tensor:
        """What is known of each key, [batch, key], at the queries that stand at the same positions."""
        start = self.first - self.first_key
        return keys[:, start : start + self.queries]


@dataclass(frozen=True)
class Metric:
    """One number per head and query, or head and key, or head: see `per` and AXES."""

    name: ClassVar[str]
    per: ClassVar[str]
    site: ClassVar[str] = "pattern"
    one_sequence: ClassVar[bool] = False  # needs queries and keys to be positions of one sequence
    only_causal: ClassVar[bool] = False

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        """Refuse a prompt that this has no meaning on; `stack` is "" where it is not known."""

    @property
    def joins(self) -> bool:
        """Whether values of several calls in one forward (windows, images) lie end to end."""
        return self.per in ("query", "key", "position")

    def start(self, extent: Extent) -> Tensor:
        """The total before the first block: zeros in the shape that `per` names."""
        length = {"query": [extent.queries], "key": [extent.keys], "head": []}[self.per]
        return torch.zeros(extent.batch, extent.heads, *length, device=extent.device)

    def add(self, total: Tensor, block: Block, extent: Extent) -> None:
        """Take one block into the running total. Blocks come in any order, each row once."""
        raise TypeError(f"the metric {self.name!r} does not say how it adds a block.")

    def finish(self, total: Tensor, extent: Extent) -> Tensor:
        """The number itself, from the total over all blocks."""
        return total

    def __call__(
        self, pattern: Tensor, prompt: "Prompt | None" = None, layer: Any = None
    ) -> Tensor:
        """From a stored [batch, head, query, key]; the last query is taken to be at the last key."""
        if pattern.ndim != 4:
            raise ValueError(
                f"{self.name} takes a pattern [batch, head, query, key], not {tuple(pattern.shape)}."
            )
        self.check("", prompt)
        pattern = pattern.detach().float()
        batch, heads, queries, keys = pattern.shape
        first = max(0, keys - queries)
        ahead = bool(pattern.triu(first + 1).any())
        extent = Extent(batch, heads, queries, keys, first, 0, not ahead, pattern.device)
        seen = (pattern != 0).flatten(0, 1).any(0)
        parts = apart(seen) if ahead else [slice(0, queries)]
        real = pattern.sum(-1) > 0
        if len(parts) == 1:
            extent = replace(extent, prompt=prompt, real=None if bool(real.all()) else real)
            return self._stored(pattern, extent)
        found = []
        for part in parts:
            rows = real[..., part]
            size = part.stop - part.start
            own = replace(extent, queries=size, keys=size, first=part.start, first_key=part.start)
            own = replace(own, prompt=prompt, real=None if bool(rows.all()) else rows)
            found.append(self._stored(pattern[..., part, part], own))
        return self._joined(found)

    def _stored(self, pattern: Tensor, extent: Extent) -> Tensor:
        every = slice(None)
        total = self.start(extent)
        self.add(total, Block(pattern, None, slice(0, extent.queries), 0, every, every), extent)
        return self.finish(total, extent)

    def _joined(self, parts: list[Tensor]) -> Tensor:
        """Values of several calls (windows, images of a tower) as a trace joins them."""
        if not self.joins:
            raise ValueError(
                f"{self.name} reads one map, and this pattern holds {len(parts)} that do not see each "
                "other (windows, or several images); give them one by one."
            )
        return torch.cat(parts, -1)


@dataclass(frozen=True)
class LooksBack(Metric):
    """Of queries that look at earlier places: of all, or of a span of the prompt, such as "response"."""

    one_sequence: ClassVar[bool] = True
    only_causal: ClassVar[bool] = True

    rows: str | None = field(default=None, kw_only=True)

    def check(self, stack: str, prompt: "Prompt | None") -> None:
        if self.rows is not None:
            hint = "prompt.spans[name] = mask makes one."
            check_span(self.name, self.rows, stack, prompt, hint)

    def chosen(self, extent: Extent) -> Tensor | None:
        """[batch, query]: True for the queries of the span; None when all count."""
        if self.rows is None:
            return None
        return extent.over_queries(extent.span(self.name, self.rows))


@dataclass(frozen=True)
class SiteMetric(Metric):
    """Read off a site that passes whole, such as values or the residual stream."""

    def read(self, value: Tensor, mask: Tensor, layer: Any) -> Tensor:
        """`mask` [batch, position] is True at tokens; `layer` holds the layer's modules, if known."""
        raise TypeError(f"the metric {self.name!r} does not say how it reads {self.site}.")

    def __call__(self, value: Tensor, prompt: "Prompt | None" = None, layer: Any = None) -> Tensor:
        """From a stored value of the metric's site."""
        axes = SITES[self.site]
        if value.ndim != len(axes):
            raise ValueError(
                f"{self.name} takes {self.site} [{', '.join(axes)}], not {tuple(value.shape)}."
            )
        mask = torch.ones(value.shape[:2], dtype=torch.bool, device=value.device)
        if prompt is not None and prompt.mask.shape == mask.shape:
            mask = prompt.mask.to(value.device)
        return self.read(value.detach().float(), mask, layer)


def owns(stack: str, prompt: "Prompt | None", site: str = "pattern") -> bool:
    """Whether the stack's positions are the prompt's; "" stands for a stored value, taken to be so.

    Keys and values of cross attention are those of the encoder, which reads the prompt.
    """
    if prompt is None:
        return False
    if stack == "cross" and site in ("k", "v"):
        return True
    return stack in ("", "text", "encoder") or (stack == "vision" and prompt.ids is None)


def check_owner(name: str, stack: str, prompt: "Prompt") -> None:
    """Refuse a stack whose positions are not the prompt's."""
    if owns(stack, prompt):
        return
    raise ValueError(
        f"{name} reads the prompt's own positions, and the {stack} stack has others; ask it of the "
        "stack that reads the prompt."
    )


def check_span(name: str, span: str, stack: str, prompt: "Prompt | None", hint: str) -> None:
    """Refuse a prompt without the span, saying how to get one."""
    if prompt is None:
        return
    check_owner(name, stack, prompt)
    if span not in prompt.names:
        raise ValueError(f"{name} reads {span!r}, and this prompt has no such span. {hint}")


def apart(seen: Tensor) -> list[slice]:
    """The squares on the diagonal of [query, key] outside which nothing is seen: windows, or images."""
    size = seen.shape[-1]
    if seen.shape[-2] != size or bool(seen[0, -1]) or bool(seen[-1, 0]):
        return [slice(0, seen.shape[-2])]
    order = torch.arange(size, device=seen.device)
    meets = seen | seen.T | torch.eye(size, dtype=torch.bool, device=seen.device)
    reach = (
        torch.where(meets, order, 0).amax(-1).cummax(0).values
    )  # how far the rows up to here look
    ends = (reach == order).nonzero().flatten().tolist()
    starts = [0, *(end + 1 for end in ends[:-1])]
    return [slice(start, end + 1) for start, end in zip(starts, ends, strict=True)]


def resolve(keep: Any) -> dict[str, Metric]:
    """Metrics by the name they are kept under; a mapping gives two settings of one their own names."""
    if isinstance(keep, Mapping):
        for name in keep:
            if not isinstance(name, str) or name in SITES:
                raise LookupError(f"keep= names metrics freely, but not by a site: {name!r}.")
        return {name: _metric(item) for name, item in keep.items()}
    metrics: dict[str, Metric] = {}
    for item in list(keep) if isinstance(keep, (list, tuple)) else [keep]:
        metric = _metric(item)
        if metric.name in metrics:
            raise ValueError(
                f"keep= holds {metric.name!r} twice; name the two: keep={{'near': ..., 'far': ...}}."
            )
        metrics[metric.name] = metric
    return metrics


def _metric(item: Any) -> Metric:
    if isinstance(item, str) and item in SITES:
        raise LookupError(f"{item!r} is a site, not a metric: trace(prompt, {item!r}).")
    metric = METRICS[item]() if isinstance(item, str) else item
    metric = metric() if isinstance(metric, type) and issubclass(metric, Metric) else metric
    if not isinstance(metric, Metric):
        raise TypeError(
            f"keep= takes metrics or their names, not {item!r}. There are: {', '.join(METRICS)}."
        )
    return metric
