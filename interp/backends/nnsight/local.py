"""A forward inside an nnsight trace of this process: the hooks that are live, at nnsight's values."""

import functools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context, copy_context
from typing import Any

import torch
from torch import Tensor, nn

from interp.backends.nnsight.walking import Stop, walk
from interp.live import LIVE, RUN, Place, Session, Watched, hooks_at, pass_through, positions_of
from interp.measured import measure
from interp.sites import ATTENTION_SITES, SITES
from interp.structure import Stack

PATIENCE = 10.0  # seconds that one hook may take while another thread waits for the model


class Turns:
    """One run of an nnsight model at a time: it has one interleaver, whatever thread calls it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._owner: int | None = None
        self._hook_began: float | None = None

    @property
    def mine(self) -> bool:
        """Whether this thread is in the midst of a run."""
        return self._owner == threading.get_ident()

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Wait for the others; refused where that would be waiting for oneself."""
        while not self._lock.acquire(timeout=0.2):
            began = self._hook_began
            if began is not None and time.monotonic() - began > PATIENCE:
                raise RuntimeError(
                    "an nnsight model makes one run at a time, and a hook of the run under way has not come "
                    f"back for {PATIENCE:g} seconds: it may be waiting for this one (interventions with a "
                    'second run in step do). Use backend="hf" for those.'
                )
        self._owner = threading.get_ident()
        try:
            yield
        finally:
            self._owner = None
            self._lock.release()

    def refuse_in_hook(self, name: str) -> None:
        """A hook that calls the model again would feed the values of its own run."""
        if self._hook_began is not None:
            raise RuntimeError(
                f"a hook called {name} again in the midst of its own run, and nnsight makes one run at a "
                'time. Make the second run before or after, or open the model with backend="hf".'
            )

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """The length of a hook."""
        self._hook_began = time.monotonic()
        try:
            yield
        finally:
            self._hook_began = None


class Courier:
    """Takes a value to the hooks of the context that the forward was called in."""

    def __init__(self, context: Context, sessions: Sequence[Session], turns: Turns):
        self.context, self.sessions, self.turns = context, sessions, turns
        self.metrics: list[Watched] = [one for session in sessions for one in session.metrics]
        self.shape = (1, 1)
        self.first: dict[Place, tuple[int, int]] = {}  # of the attention call under way

    def own_keys(self, place: Place) -> bool:
        return "cross" not in place.stack

    def begin(self, place: Place, envoy: Any, queries: int, keys: int) -> None:
        """An attention call begins: where its first query and its first key stand."""
        self.first[place] = self.context.copy().run(
            positions_of, envoy._module, place, queries, keys
        )

    def deliver(self, place: Place, site: str, value: Tensor) -> Tensor:
        """The value after the site's hooks; the same object where they only read."""
        with self.turns.hooked():  # workers of nnsight start with an empty context
            return self.context.copy().run(self._deliver, place, site, value)

    def _deliver(self, place: Place, site: str, value: Tensor) -> Tensor:
        first, first_key = self.first.get(place, (0, 0))
        run = RUN.get()
        if site not in ATTENTION_SITES[:-1]:
            along = place.causal or place.stack == "cross"
            first, first_key = (run.first if run is not None and along else 0), 0
        hooks = hooks_at(place, site, self.sessions)
        after = pass_through(value, hooks, place, first=first, first_key=first_key)
        if site == "pattern" and self.metrics:
            measure(self.metrics, after, place, None if run is None else run.prompt)
        return after


Asks = Callable[[Place, str], bool]


def stops_of(
    stacks: dict[str, Stack],
    places: dict[nn.Module, Place],
    envoys: dict[nn.Module, Any],
    asks: Asks,
) -> list[Stop]:
    """The modules at which something is asked, each with a worker of its own.

    Workers that wait each for one module need not know the order in which the model calls them.
    """
    found: list[Stop] = []
    for stack in stacks.values():
        for layer in stack.layers.values():
            for module in (layer.module, layer.attention, layer.out, layer.mlp):
                if module is not None and module in envoys and places[module].stack == stack.name:
                    found += _stops_at(envoys[module], places[module], asks)
    flattened = {stop.place.stack for stop in found if stop.kind in ("attn_out", "mlp_out")}
    return [
        stop
        for stop in found
        if stop.entering or stop.leaving or (stop.kind == "layer" and stop.place.stack in flattened)
    ]


def _stops_at(envoy: Any, place: Place, asks: Asks) -> list[Stop]:
    if place.role == "attention":
        sites = [(place, site) for site in ATTENTION_SITES[:-1] if asks(place, site)]
        return [Stop("attention", envoy, place, sites)] if sites else []
    if place.role == "layer":
        entering, leaving = [(place, "resid_pre")], [(place, "resid_post")]
        if place.between and place.layer > 0:
            # The model adds to the stream between two layers: what leaves one is what enters the next.
            before = Place("layer", place.stack, place.layer - 1, place.causal)
            entering = [(before, "resid_post"), *entering]
        if place.between and not place.last:
            leaving = []
        entering = [pair for pair in entering if asks(*pair)]
        return [Stop("layer", envoy, place, entering, [pair for pair in leaving if asks(*pair)])]
    leaving = [(place, place.role)] if place.role in SITES and asks(place, place.role) else []
    return [Stop(place.role, envoy, place, (), leaving)] if leaving else []


def traced(model: Any, original: Callable[..., Any], module: nn.Module) -> Callable[..., Any]:
    """A module's forward that runs inside an nnsight trace, past what is live in this context."""

    @functools.wraps(type(module).forward.__get__(module))
    def forward(*args: Any, **kwargs: Any) -> Any:
        if model.turns.mine:
            model.turns.refuse_in_hook(model.name)
            return original(*args, **kwargs)  # a part of the run under way
        with model.turns.taken():
            sessions = [one for one in LIVE.get() if module in one.places and not one.closed]
            metrics = [one for session in sessions for one in session.metrics]

            def asks(place: Place, site: str) -> bool:
                wanted = site == "pattern" and any(
                    one.stack == place.stack and place.layer in one.layers for one in metrics
                )
                return wanted or bool(hooks_at(place, site, sessions))

            stops = stops_of(model.stacks, model.places, model.envoys, asks)
            if not stops:
                return original(*args, **kwargs)
            courier = Courier(copy_context(), sessions, model.turns)
            return _run(model.nn, stops, courier, functools.partial(original, *args, **kwargs))

    return forward


def _run(nnsight_model: Any, stops: list[Stop], courier: Courier, call: Callable[[], Any]) -> Any:
    """The call inside a trace, with a worker for each stop."""
    kept: list[Any] = []
    token = torch.zeros(1)  # nnsight wants an input; the call brings its own

    def forward(_: Any) -> Any:
        kept.append(call())
        return kept[0]

    with nnsight_model.trace(fn=forward) as tracer:
        with tracer.invoke(token):
            pass
        for stop in stops:
            with tracer.invoke():
                walk(tracer, stop, courier)
    return kept[0]
