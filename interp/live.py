"""What is asked of the model in this context, and only in this context.

`LIVE` holds the sessions of the running thread or task: other threads on the same weights see nothing.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from interp.sites import At, Hook, head_axis
from interp.spread import Split

if TYPE_CHECKING:
    from interp.metrics import Metric
    from interp.prompt import Prompt


@dataclass(frozen=True)
class Place:
    """What a module is in its model: an attention, a layer, an output projection, an MLP, the top."""

    role: str
    stack: str
    layer: int
    causal: bool = False  # positions of this stack see only earlier ones, and may come from a cache
    between: bool = False  # the model adds to the stream between this stack's layers
    last: bool = False
    split: Split | None = None  # of an attention whose heads may be shared out over processes


@dataclass
class Run:
    """One prompt going through the model: one forward, or every step of one `generate`."""

    source: "Callable[[], Prompt | None] | None" = (
        None  # builds the prompt when someone asks for it
    )
    length: int = 0  # prompt positions; 0 until the first forward has been seen
    start: int | None = None  # positions that were in the cache before the run
    first: int = 0  # positions already in the cache when this forward began
    shape: tuple[int, int] = (0, 0)  # batch and positions of the layer that is running
    memos: dict[int, dict] = field(default_factory=dict)
    planned: dict[int, list["Placed"]] = field(default_factory=dict)
    asked: dict[tuple, list["Placed"]] = field(default_factory=dict)  # what hooks_at found before
    agreed: dict[nn.Module, bool] = field(
        default_factory=dict
    )  # whether the seam's arithmetic is its own
    inside: bool = False  # a forward of the whole model is under way
    generating: bool = False  # each step's logits are taken from `generate`
    visits: dict[nn.Module, tuple[int, int]] = field(default_factory=dict)  # rows, keys seen so far
    tried: set[tuple[str, str, int]] = field(default_factory=set)  # changed behind another back end
    ending: list[Callable[[], None]] = field(default_factory=list)  # called when the run is left

    def end(self) -> None:
        """The run is over, well or by an exception: what hooks keep going beside it stops."""
        while self.ending:
            self.ending.pop()()

    @property
    def prefill(self) -> bool:
        return self.first < self.length or self.length == 0

    def enter(self, cached: int, positions: int) -> None:
        """A forward of the whole model begins."""
        self.first = cached
        self.start = cached if self.start is None else self.start
        self.length = self.length or cached or positions
        self.visits.clear()

    def visit_once(self, module: nn.Module, place: "Place") -> None:
        """Layers that share weights are one module: which of them is meant could not be told."""
        if module in self.visits:
            raise ValueError(
                f"layer {place.layer} of the {place.stack} stack runs several times in one forward "
                "(shared weights, or attention in two parts), so its sites are not served."
            )
        self.visits[module] = (0, 0)

    @functools.cached_property
    def prompt(self) -> Any:
        """The `Prompt`; None for a forward that nobody can name one for."""
        return self.source() if self.source is not None else None


@dataclass(eq=False)
class Placed:
    """A hook put where it belongs; `group` tells whose memo it shares."""

    hook: Any  # a Hook, or a LogitsHook (in no layer)
    layers: frozenset[int]
    stack: str
    heads: tuple[int, ...] | None
    group: int
    owner: str = ""  # what a user calls it: the intervention, or the function
    planned: bool = False  # by an intervention
    ran: bool = False

    def rows(self, first: int, count: int, start: int) -> tuple[int, int]:
        """Which of `count` rows from position `first` on it is shown; the prompt begins at `start`."""
        if self.hook.within is None:
            return 0, count
        low, high = self.hook.within
        top = max(0, low + start - first)
        return top, count if high is None else min(count, high + start - first)

    def shows(self, first: int, count: int, start: int) -> bool:
        top, bottom = self.rows(first, count, start)
        return top < bottom


class Carrier:
    """Stands in the place of layers and attention calls for a session: how replay enters a model.

    As it is it lets everything pass.
    """

    def layer(self, place: Place, forward: Callable[..., Any], args: tuple, kwargs: dict) -> Any:
        """A layer's call, after the hooks at its input."""
        return forward(*args, **kwargs)

    def attention(self, passage: Any, call: Callable[[], Any], parts: tuple) -> Any:
        """An attention call: `parts` are query, key, value and mask, after their hooks."""
        return call()


@dataclass(eq=False)
class Session:
    """Hooks and metrics that are live on one model in one context."""

    places: dict[nn.Module, Place]
    hooks: list[Placed] = field(default_factory=list)
    metrics: "list[Watched]" = field(default_factory=list)
    plan: "Callable[[Run], Prompt | None] | None" = None  # fills run.planned when a run begins
    carrier: Carrier | None = None
    used: bool = False  # the whole model ran while it was live
    closed: bool = False

    def named(self) -> list[str]:
        """What is live, in words: the sites of its hooks, and whether interventions plan more."""
        hooks = [
            f"{one.hook.name} at {one.hook.site} of the {one.stack} stack" for one in self.hooks
        ]
        return [*hooks, *(["interventions"] if self.plan is not None else [])]

    def placed(self, stack: str, layer: int, run: Run | None) -> Iterator[Placed]:
        planned = run.planned.get(id(self), []) if run is not None else []
        for hook in [*planned, *self.hooks]:
            if hook.stack == stack and layer in hook.layers:
                yield hook


@dataclass(frozen=True)
class Watched:
    """A metric, where it is taken, and who takes its results."""

    metric: "Metric"
    stack: str
    layers: frozenset[int]
    collect: Callable[[Tensor, Place], None]


LIVE: ContextVar[tuple[Session, ...]] = ContextVar("interp_live", default=())
RUN: ContextVar[Run | None] = ContextVar("interp_run", default=None)


def sessions_of(module: nn.Module) -> tuple[Place | None, list[Session]]:
    """The module's place and this context's sessions on its model."""
    found = [session for session in LIVE.get() if module in session.places and not session.closed]
    return (found[0].places[module], found) if found else (None, [])


def positions_of(module: nn.Module, place: Place, queries: int, keys: int) -> tuple[int, int]:
    """Absolute positions of the first query and the first key.

    A tower that splits one sequence into several calls (windows, images) counts on from the last.
    """
    run = RUN.get()
    if run is not None and not place.stack.startswith("vision"):
        run.visit_once(module, place)
    if place.causal or "cross" in place.stack:
        first = run.first if run is not None else 0
        return first, max(0, first + queries - keys) if place.causal else 0
    if run is None:
        return 0, 0
    seen = run.visits.get(module, (0, 0))
    run.visits[module] = (seen[0] + queries, seen[1] + keys)
    return seen


def carrier_of(sessions: Iterable[Session]) -> Carrier | None:
    return next((session.carrier for session in sessions if session.carrier is not None), None)


def hooks_at(place: Place, site: str, sessions: Sequence[Session]) -> list[Placed]:
    run = RUN.get()
    if run is None:
        if any(session.plan is not None for session in sessions):
            raise RuntimeError(
                "a part of the model was called by itself under using(...), where the interventions "
                "know no prompt and cannot plan; call the whole model, or its generate."
            )
        return _hooks_at(place, site, sessions, None)
    key = (place.stack, place.layer, site, *sessions)  # each step of `generate` asks the same
    found = run.asked.get(key)
    if found is None:
        found = run.asked[key] = _hooks_at(place, site, sessions, run)
    return found


def _hooks_at(
    place: Place, site: str, sessions: Sequence[Session], run: Run | None
) -> list[Placed]:
    return [
        placed
        for session in sessions
        for placed in session.placed(place.stack, place.layer, run)
        if placed.hook.site == site
    ]


def pass_through(
    value: Tensor,
    hooks: list[Placed],
    place: Place,
    *,
    first: int = 0,
    first_key: int = 0,
    heads: tuple[int, ...] | None = None,
) -> Tensor:
    """Give the value to each hook in turn; a hook that returns a tensor replaces it.

    `heads` are those that the value holds, where it does not hold all.
    """
    if not hooks:
        return value
    run = RUN.get() or Run()
    for placed in hooks:
        hook = placed.hook
        memo = run.memos.setdefault(placed.group, {})
        at = At(hook.site, place.stack, place.layer, first, first_key, run.prefill, memo, run)
        placed.ran = True
        value = _apply_rows(value, placed, at, heads)
    return value


def _apply_rows(value: Tensor, placed: Placed, at: At, heads: tuple[int, ...] | None) -> Tensor:
    """The hook on the rows that it is shown."""
    if placed.hook.within is None:
        return _apply(value, placed, at, heads)
    count = value.shape[2]
    top, bottom = placed.rows(at.first, count, at.run.start or 0)
    if top >= bottom:
        return value
    at.first += top
    if (top, bottom) == (0, count):
        return _apply(value, placed, at, heads)
    part = value[:, :, top:bottom]
    result = _apply(part, placed, at, heads)
    if result is part:
        return value
    return torch.cat([value[:, :, :top], result, value[:, :, bottom:]], dim=2)


@functools.lru_cache(maxsize=1024)
def numbers(listed: tuple[int, ...], device: torch.device) -> Tensor:
    """A tensor of them; made once, for it is asked for at each step."""
    with torch.inference_mode(False):
        return torch.tensor(listed, device=device)


def _apply(value: Tensor, placed: Placed, at: At, heads: tuple[int, ...] | None) -> Tensor:
    hook, axis = placed.hook, head_axis(placed.hook.site)
    if placed.heads is None or axis is None or placed.heads == heads:
        return _called(hook, value, at)
    own = placed.heads if heads is None else tuple(heads.index(head) for head in placed.heads)
    index = numbers(own, value.device)
    part = value.index_select(axis, index)
    result = _called(hook, part, at)
    return value if result is part else value.index_copy(axis, index, result)


def _called(hook: Hook, value: Tensor, at: At) -> Tensor:
    """What the hook makes of the value: the same object when it only read."""
    before = version(value)
    result = hook.fn(value, at)
    touched = version(value) != before
    if result is None:
        if touched:
            raise RuntimeError(
                f"{hook.name} at {at.site} of layer {at.layer} changed its value in place and returned "
                "nothing; return the changed tensor."
            )
        return value
    result = _checked(result, value, hook, at)
    # Changed in place and returned: another object, so that it counts as a change.
    return result.view_as(result) if result is value and touched else result


def version(value: Tensor) -> int:
    """Counts changes in place; inference tensors do not count, and stay at 0."""
    return 0 if value.is_inference() else value._version


def _checked(result: Any, value: Tensor, hook: Hook, at: At) -> Tensor:
    where = f"{hook.name} at {at.site} of layer {at.layer}"
    if not isinstance(result, Tensor):
        raise TypeError(
            f"{where} gave back {type(result).__name__}; return a tensor to change the value, "
            "or None to leave it."
        )
    if result.shape != value.shape:
        raise ValueError(
            f"{where} was given {tuple(value.shape)} and gave back {tuple(result.shape)}; "
            "the shape must stay."
        )
    if result.dtype != value.dtype or result.device != value.device:
        raise ValueError(
            f"{where} was given {value.dtype} on {value.device} and gave back {result.dtype} on "
            f"{result.device}; end it with `.to(value)`."
        )
    return result


@contextmanager
def plainly() -> Iterator[None]:
    """The plain model inside, whatever is live around: for runs that an intervention plans from."""
    sessions, run = LIVE.set(()), RUN.set(None)
    try:
        yield
    finally:
        RUN.reset(run)
        LIVE.reset(sessions)


@contextmanager
def live(session: Session) -> Iterator[None]:
    """Make the session part of this context for the length of the block."""
    LIVE.set((*LIVE.get(), session))
    try:
        yield
    finally:
        # Not a reset to what was before: blocks may be left in any order, or in another context,
        # and a task that outlives the block must not keep half of it.
        session.closed = True
        LIVE.set(tuple(other for other in LIVE.get() if other is not session))
