"""The verbs of `Model` over a TransformerBridge, whose hook points stand where the seam stands elsewhere."""

import weakref
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from interp.backends.lens.points import ours, points_of, theirs
from interp.backends.lens.proving import Proof, unbridged
from interp.families import family_of
from interp.fitting import kind_of
from interp.live import RUN, Place, Session, hooks_at, pass_through, sessions_of
from interp.measured import measure
from interp.metrics import owns
from interp.model import Model
from interp.sites import SITES
from interp.structure import find_stacks, tops
from interp.taps import taps_for

NOT_THERE = (
    "TransformerLens has no hook point for {site} in the {stack} stack of this model; "
    'backend="hf" offers it.'
)


class LensModel(Model):
    """A `TransformerBridge`; `bridge` stays usable beside it, and so do its own hooks."""

    backend = "lens"

    def __init__(self, bridge: Any, processor: Any = None):
        self.bridge = bridge
        self.hf: Any = bridge.original_model
        own = getattr(bridge, "processor", None) or getattr(bridge, "tokenizer", None)
        self.processor = processor if processor is not None else own
        self.family = family_of(self.hf.config)
        self.stacks = find_stacks(self.hf)
        self.points_there = points_of(self.hf, self.stacks)
        self.places = {module: Place("top", "", -1) for module in tops(self.hf, self.stacks)}
        for (name, layer, site), point in self.points_there.items():
            self.places[point] = Place(site, name, layer, self.stacks[name].causal)
        for name, stack in self.stacks.items():
            there = {site for own, _, site in self.points_there if own == name}
            missing = [site for site in SITES if site not in there]
            stack.refused = {site: NOT_THERE.format(site=site, stack=name) for site in missing}
        self.kind = kind_of(self.hf, self.stacks)
        self._plain = unbridged(self.hf)
        self.proof = Proof(self)
        self.proof.refuse_what_differs()

    @property
    def plain(self) -> Any:
        """The plain model inside the bridge, over the same weights."""
        return self._plain

    @property
    def weighed(self) -> Model:
        """The same weights on the seam: a bridge's modules are not those that readers of weights know."""
        return self.proof.plain or self

    def unwrap(self) -> Any:
        """The bridge; nothing was put into it."""
        return self.bridge

    def _check(self) -> None:
        pass

    def _taps(self, wanted: Iterable[tuple[str, str]]) -> Any:
        yield from taps_for(self.hf, self.stacks, (), weakref.ref(self))
        around = _Around(weakref.ref(self))
        wanted = {*wanted, *((name, "pattern") for name in self.stacks)}  # metrics read it
        for (name, _, site), point in self.points_there.items():
            if (name, site) in wanted:
                # Around the whole call: hooks that a user hung onto the point come before.
                yield point, "_call_impl", around


class _Around:
    """What stands around a hook point while something is asked."""

    def __init__(self, owner: Any):
        self.owner = owner

    def __call__(self, original: Any, point: nn.Module, args: tuple, kwargs: dict) -> Any:
        value = original(*args, **kwargs)
        place, sessions = sessions_of(point)
        if place is None:
            return value
        site = place.role
        hooks = hooks_at(place, site, sessions)
        watched = _watched(place, sessions) if site == "pattern" else []
        if not hooks and not watched:
            return value
        model = self.owner()
        before = ours(value, point, site, model.stacks[place.stack])
        shown, hidden = _shown(before, site, place)
        after = pass_through(shown, hooks, place, first=_first(site, place))
        if watched:
            measure(watched, after, place, _prompt())
        if after is shown and not (torch.is_grad_enabled() and value.requires_grad):
            return value
        if after is not shown:
            _tell_if_lost(model, place, site)
        # Gradients reach what was shown: the forward goes on with it.
        after = after if hidden is None else torch.where(hidden, before, after)
        return theirs(after, point, value)


def _watched(place: Place, sessions: list[Session]) -> list:
    each = [one for session in sessions for one in session.metrics]
    return [one for one in each if one.stack == place.stack and place.layer in one.layers]


def _prompt() -> Any:
    run = RUN.get()
    return None if run is None else run.prompt


def _first(site: str, place: Place) -> int:
    """The absolute position of the first row; keys and values are refused behind a cache."""
    run = RUN.get()
    first = run.first if run is not None and (place.causal or place.stack == "cross") else 0
    if first and site in ("k", "v"):
        raise ValueError(
            f"TransformerLens shows {site} before it enters the cache, and here the cache holds {first} "
            'positions already: hooks there are served in trace and logits; in generate use backend="hf".'
        )
    return first


def _shown(value: Tensor, site: str, place: Place) -> tuple[Tensor, Tensor | None]:
    """As `interp` shows it: padding rows of the pattern are 0, hidden scores the lowest number there is.

    And where a change must not reach: what a mask hides stays hidden.
    """
    if site == "scores":
        lowest = torch.finfo(value.dtype).min
        hidden = value <= lowest / 2
        return value.masked_fill(hidden, lowest), hidden
    prompt = _prompt()
    if site != "pattern" or not owns(place.stack, prompt):
        return value, None
    mask = prompt.mask
    if bool(mask.all()) or mask.shape != (value.shape[0], value.shape[2]):
        return value, None
    padding = ~mask.bool().to(value.device)[:, None, :, None]
    return value.masked_fill(padding, 0), padding


def _tell_if_lost(model: LensModel, place: Place, site: str) -> None:
    """A change that the bridge does not pass on is an error, told when the run is over."""
    run = RUN.get()
    if run is None or (place.stack, site, place.layer) in run.tried:
        return
    run.tried.add((place.stack, site, place.layer))

    def tell() -> None:
        lost = model.proof.change(place.stack, site, place.layer)
        if lost:
            raise ValueError(lost)

    run.ending.append(tell)
