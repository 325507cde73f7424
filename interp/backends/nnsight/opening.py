"""nnsight models made from a folder, a shipped name, a hub id or a live model."""

import copy
import os
import sys
import tempfile
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from interp.backends.nnsight.model import NnsightModel
from interp.extras import need

_WRAPPED: "weakref.WeakKeyDictionary[Any, weakref.ref[NnsightModel]]" = weakref.WeakKeyDictionary()


def open_model(
    name: str | Path, processor: Any = None, remote: bool | str = False, **settings: Any
) -> NnsightModel:
    """The model of a folder, shipped name or hub id in nnsight, on eager attention.

    `remote`: True for NDIF, the address of a server like it, or "local" to go through the same
    packing and unpacking in this process.
    """
    from interp.loading import load

    _nnsight()
    settings = {"attn_implementation": "eager"} | {
        key: value for key, value in settings.items() if value is not None
    }
    if remote:
        from interp.backends.nnsight.remote import open_remote

        return open_remote(name, processor, remote, **settings)
    plain = load(name, processor=processor, **settings)
    return NnsightModel(_envoy(plain.unwrap()), plain.processor)


def wrap_model(nnsight_model: Any, processor: Any = None) -> NnsightModel:
    """A live nnsight model, with the edits that it has; wrapping twice is wrapping once."""
    nnsight = _nnsight()
    if not isinstance(nnsight_model, nnsight.Envoy):
        raise TypeError(
            f"interp wraps nnsight's NNsight or TransformersModel, not {type(nnsight_model).__name__}."
        )
    if nnsight_model.parent is not None:
        raise ValueError(
            f"{nnsight_model.path} is a part of an nnsight model; wrap the whole: interp.wrap(part.root)."
        )
    if not getattr(nnsight_model, "dispatched", True):
        nnsight_model.dispatch()  # its first run would load the weights, and put other modules there
    known = _WRAPPED.get(nnsight_model)
    model = known() if known is not None else None
    if model is not None and nnsight_model._module is model.hf:
        return model
    names = ("processor", "tokenizer", "image_processor", "feature_extractor")
    held = [vars(nnsight_model).get(name) for name in names]
    own = next((each for each in held if each is not None), None)
    model = NnsightModel(nnsight_model, processor if processor is not None else own)
    _WRAPPED[nnsight_model] = weakref.ref(model)
    return model


def bridged(hf: Any, processor: Any = None) -> NnsightModel:
    """A live transformers model in nnsight; it stays as it is, since a copy of its modules is taken.

    The two share their weights. The copy runs on eager attention.
    """
    _nnsight()
    if not hasattr(hf, "config"):
        raise TypeError(f'backend="nnsight" takes a transformers model, not {type(hf).__name__}.')
    shared = {id(each): each for each in [*hf.parameters(), *hf.buffers()]}
    twin = copy.deepcopy(hf, shared)
    twin.set_attn_implementation("eager")
    return NnsightModel(_envoy(twin), processor)


def _envoy(hf: nn.Module) -> Any:
    """The model in nnsight; modules are found by what they are, so that it renames some is no matter."""
    nnsight: Any = _nnsight()
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Module '.*' has a submodule named", category=UserWarning
        )
        return nnsight.NNsight(hf)


def _nnsight() -> ModuleType:
    """nnsight; imported here first, it puts no `.save` on every object: `nnsight.save(value)` is the same."""
    if "nnsight" in sys.modules:
        return need("nnsight", 'backend="nnsight"')
    with _without_mounting():
        return need("nnsight", 'backend="nnsight"')


@contextmanager
def _without_mounting() -> Iterator[None]:
    """nnsight reads its settings from a file when it is imported: the user's, with one line more."""
    import yaml

    before = os.environ.get("NNSIGHT_CONFIG")
    folder = Path(os.environ.get("XDG_CONFIG_HOME", "~/.config")).expanduser() / "nnsight"
    own = Path(before).expanduser() if before else folder / "config.yaml"
    known = yaml.safe_load(own.read_text()) if own.is_file() else None
    known = known or {}
    asked = {"PYMOUNT": False} | (known.get("APP") or {})
    with tempfile.TemporaryDirectory() as made:
        file = Path(made) / "config.yaml"
        file.write_text(yaml.safe_dump(known | {"APP": asked}))
        os.environ["NNSIGHT_CONFIG"] = str(file)
        try:
            yield
        finally:
            if before is None:
                del os.environ["NNSIGHT_CONFIG"]
            else:
                os.environ["NNSIGHT_CONFIG"] = before
