"""The verbs of `interp.Model` over an nnsight model: each forward runs inside an nnsight trace."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

from interp.backends.nnsight.local import Turns, traced
from interp.families import family_of
from interp.fitting import check_kind, kind_of, places_of
from interp.model import Model
from interp.shadow import Around
from interp.structure import find_stacks
from interp.taps import taps_for

_TURNS: "weakref.WeakKeyDictionary[nn.Module, Turns]" = weakref.WeakKeyDictionary()


class NnsightModel(Model):
    """An nnsight model; `nn` is it, and stays usable beside this one, with the edits that it has."""

    backend = "nnsight"

    def __init__(self, nnsight_model: Any, processor: Any = None):
        hf = nnsight_model._module
        check_kind(hf)
        self.nn = nnsight_model
        self.hf: Any = hf
        self.processor = processor
        self.family = family_of(hf.config)
        self.stacks = find_stacks(hf)
        if not self.stacks:
            raise ValueError(
                f"{type(hf).__name__} ({hf.config.model_type}) does not ask transformers for its "
                "attention, so interp knows no sites in it; nnsight alone serves it."
            )
        self.places = places_of(hf, self.stacks)
        self.kind = kind_of(hf, self.stacks)
        self.envoys = {envoy._module: envoy for envoy in nnsight_model.modules()}
        self.turns = _TURNS.setdefault(hf, Turns())

    def unwrap(self) -> Any:
        """The nnsight model; nothing was put into it."""
        return self.nn

    def _check(self) -> None:
        if self.nn._module is not self.hf:
            raise RuntimeError(
                f"{self.name} holds other modules now than when it was wrapped (an adapter, or weights "
                "loaded since); wrap it again with interp.wrap(nnsight_model)."
            )
        own = {
            getattr(getattr(module, "config", None), "_attn_implementation", None)
            for module in self.envoys
        }
        if own & {"interp", "interp_eager"}:
            raise RuntimeError(
                f"{self.name} was given to interp.wrap as a transformers model too, and runs on interp's "
                "attention: unwrap that one first, or hooks would run twice."
            )

    def _taps(self, wanted: Iterable[tuple[str, str]]) -> Iterable[tuple[nn.Module, str, Around]]:
        for module, method, around in taps_for(self.hf, self.stacks, (), weakref.ref(self)):
            yield module, method, _inside(self, around) if method == "forward" else around


def _inside(model: NnsightModel, around: Around) -> Around:
    """The bookkeeping of a run, around a forward that runs in an nnsight trace."""

    def both(original: Callable[..., Any], module: nn.Module, args: tuple, kwargs: dict) -> Any:
        return around(traced(model, original, module), module, args, kwargs)

    return both
