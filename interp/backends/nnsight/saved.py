"""What a user of nnsight has saved, as a `Trace`: by module paths, or out of `tracer.cache()`."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from interp.backends.nnsight.model import NnsightModel
from interp.live import Place
from interp.metrics import owns
from interp.sites import SITES
from interp.trace import Trace

_KNOWN = (
    "a layer's .input and .output, the .output of its MLP and of its output projection, the .output of its "
    "attention (its second part is the pattern), and .source.attention_interface_1 with .inputs, .output, "
    "and .source.nn_functional_softmax_0 of an eager attention"
)
_SOURCE = re.compile(
    r"(?P<path>.+?)\.source\.attention_interface_\d+(?P<deep>\.source\.\w*softmax_\d+)?\.(?P<end>inputs?|output)"
)
_PLAIN = re.compile(r"(?P<path>.+?)\.(?P<end>inputs?|output)")


def trace_of(model: NnsightModel, prompt: Any, saved: Any) -> Trace:
    """Values saved in an nnsight trace of this prompt, under the names of interp's sites.

        with model.nn.trace(**prompt.inputs) as tracer:
            held = nnsight.save({"transformer.h.0.output": model.nn.transformer.h[0].output})
        trace_of(model, prompt, held)["resid_post", 0]

    `saved` maps module paths to values; `tracer.cache(include_inputs=True)` is taken as it is, and what it
    holds of modules without a site is passed over.
    """
    if not isinstance(model, NnsightModel):
        raise TypeError(
            f'trace_of takes a model of backend="nnsight", not one of {model.backend!r}.'
        )
    prompt = model._prompt(prompt)
    sizes = {name: stack.size for name, stack in model.stacks.items()}
    trace = Trace(prompt, next(iter(model.stacks)), model.name, sizes)
    cached = not isinstance(saved, Mapping) and hasattr(saved, "keys")
    if not cached and not isinstance(saved, Mapping):
        raise TypeError(
            f"saved is a mapping from module paths to values, not {type(saved).__name__}."
        )
    for key, value in _cached(saved) if cached else saved.items():
        if key.rpartition(".")[0] in ("", model.nn.path) and key.endswith("output"):
            trace.output = value
            continue
        found = list(_sites(model, prompt, key, value))
        if not found and not cached:
            raise LookupError(f"{key!r} stands for no site. Those that do: {_KNOWN}.")
        for place, site, tensor in found:
            trace.recorder(site)(tensor, place)
    if len(trace) == 0:
        raise LookupError(f"nothing that was saved stands for a site. What does: {_KNOWN}.")
    return trace


def _cached(view: Any) -> Iterator[tuple[str, Any]]:
    """A cache as paths and values."""
    paths = view.keys()  # what it is iterated over are its parts
    for path in paths:
        if "." not in path:
            continue  # the whole model
        node = view[path]
        for end in ("output", "input"):
            value = getattr(node, end)
            if value is not None:
                yield f"{path}.{end}", value


def _sites(
    model: NnsightModel, prompt: Any, key: str, value: Any
) -> Iterator[tuple[Place, str, Tensor]]:
    """The sites that a saved value holds."""
    match = _SOURCE.fullmatch(key) or _PLAIN.fullmatch(key)
    place = None if match is None else _place(model, match["path"])
    if match is None or place is None:
        return
    if isinstance(value, list):
        raise ValueError(
            f"{key!r} was saved {len(value)} times (steps of generate, or several images); a trace is of one "
            "forward."
        )
    end, groups = match["end"], match.groupdict()
    if "deep" not in groups:
        yield from _module(place, end, value, prompt)
    elif groups["deep"]:
        first = _first(value) if end != "output" else value
        keys = first.shape[-1]
        yield (
            place,
            "pattern" if end == "output" else "scores",
            _shown(place, first, prompt, end, keys),
        )
    elif end == "output":
        yield place, "z", value[0]
    elif end == "inputs":
        for site, part in zip(("q", "k", "v"), value[0][1:4], strict=True):
            yield place, site, part.transpose(1, 2)


def _module(place: Place, end: str, value: Any, prompt: Any) -> Iterator[tuple[Place, str, Tensor]]:
    """The sites of a module's own input or output."""
    if place.role == "attention":
        parts = value if isinstance(value, tuple) and end == "output" else ()
        for part in parts[1:2]:
            if isinstance(part, Tensor) and part.ndim == 4:
                yield place, "pattern", _shown(place, part, prompt, "output", part.shape[-1])
    elif place.role == "layer" and end != "output":
        yield place, "resid_pre", _first(value)
    elif end == "output" and not (place.role == "layer" and place.between and not place.last):
        site = "resid_post" if place.role == "layer" else place.role
        if site in SITES:
            yield place, site, _first(value)


def _first(value: Any) -> Tensor:
    """The tensor that counts: of (args, kwargs), of a tuple, or the value itself."""
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], Mapping):
        args, kwargs = value  # what a module was called with
        value = args[0] if args else kwargs.get("hidden_states", next(iter(kwargs.values())))
    return value[0] if isinstance(value, tuple) else value


def _shown(place: Place, value: Tensor, prompt: Any, end: str, keys: int) -> Tensor:
    """A pattern with 0 in the rows of padding, as traces have it."""
    mask = prompt.mask
    if end != "output" or not owns(place.stack, prompt) or mask.shape != (len(value), keys):
        return value
    return value * mask.to(value)[:, None, :, None]


def _place(model: NnsightModel, path: str) -> Place | None:
    root = model.nn.path
    for envoy in model.envoys.values():
        if envoy.path in (path, f"{root}.{path}"):
            return model.places.get(envoy._module)
    return None
