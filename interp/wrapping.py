"""Live models as `Model`s, whatever library they come from."""

import weakref
from typing import Any

from torch import nn

from interp.backends import backend as back_end
from interp.backends import owner_of, refuse_spread
from interp.model import WRAPPED, WRAPPING, Model


def wrap(hf: Any, processor: Any = None, backend: str | None = None) -> Model:
    """A live transformers model as a `Model`; wrapping twice is wrapping once.

    A processor given later takes the place of the one before it. Models of other back ends (a
    TransformerBridge, an nnsight model) are told by what they are; `backend="lens"` or "nnsight" puts a
    transformers model behind one, and leaves the model that is given as it is.
    """
    if isinstance(hf, Model):
        if backend in (None, hf.backend):
            return hf
        hf, processor = hf.plain, processor or hf.processor
    if processor is not None and (isinstance(processor, str) or not callable(processor)):
        raise TypeError(
            f"a processor or tokenizer is an object that reads text, not {processor!r}."
        )
    owner = owner_of(hf)
    if owner is not None and backend not in (None, owner):
        raise ValueError(
            f"this {type(hf).__name__} is of backend={owner!r}: leave backend= out, or give the transformers "
            f"model itself to backend={backend!r}."
        )
    if backend not in (None, "hf", owner):
        return _behind(hf, processor, str(backend))
    with WRAPPING:
        known = WRAPPED.get(hf) if isinstance(hf, nn.Module) else None
        model = known() if known is not None else None
        if model is None:
            model = _made(hf, processor)
            if isinstance(hf, nn.Module):
                WRAPPED[hf] = weakref.ref(model)
        if processor is not None:
            model.processor = processor
    return model


def _made(hf: Any, processor: Any) -> Model:
    owner = owner_of(hf)
    if owner is not None:
        return back_end(owner).wrap_model(hf, processor)
    _refuse_replaced(hf)
    return Model(hf, processor)


def _refuse_replaced(hf: Any) -> None:
    if isinstance(hf, nn.Module) and any(owner_of(part) == "lens" for part in hf.modules()):
        raise ValueError(
            f"the layers of this {type(hf).__name__} were replaced by TransformerLens, which works on the "
            "very model that it is given: wrap the TransformerBridge itself, or load the model once more."
        )


def _behind(hf: Any, processor: Any, name: str) -> Model:
    """A live transformers model behind another back end."""
    _refuse_replaced(hf)
    if isinstance(hf, nn.Module):
        refuse_spread(hf, name)
    own = WRAPPED.get(hf) if isinstance(hf, nn.Module) else None
    model = own() if own is not None else None
    processor = processor or (model.processor if model is not None else None)
    return back_end(name).bridged(hf, processor)
