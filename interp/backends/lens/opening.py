"""Bridges made without the hub, without installing anything, and without changing what a user holds."""

import copy
import warnings
from pathlib import Path
from typing import Any

from torch import nn

from interp.backends import refuse_spread
from interp.backends.lens.model import LensModel
from interp.extras import need

TOLD = (
    "a processor could not be opened, and TransformerLens would now install torchvision by itself, which can "
    "replace torch: interp keeps it from doing so. Load the processor with transformers and give it to "
    'interp.load(name, backend="lens", processor=...), or install torchvision yourself.'
)


def open_model(name: str | Path, **settings: Any) -> LensModel:
    """The model of a folder, shipped name or hub id as a bridge; `interp.load` opens it, by its rules."""
    from interp.loading import load

    _lens()
    plain = load(name, **settings)
    refuse_spread(plain.hf, "lens")
    processor = plain.processor
    return LensModel(_bridge(plain.unwrap(), processor), processor)


def wrap_model(bridge: Any, processor: Any = None) -> LensModel:
    """A live bridge."""
    _lens()
    if not hasattr(bridge, "original_model") or not isinstance(bridge.original_model, nn.Module):
        raise TypeError(
            "of TransformerLens' models interp wraps a TransformerBridge over a transformers model, "
            f"not {type(bridge).__name__}."
        )
    return LensModel(bridge, processor)


def bridged(hf: Any, processor: Any = None) -> LensModel:
    """A bridge of a live transformers model, which stays as it is: a copy of its modules is bridged.

    The two share their weights, so the copy costs next to nothing, and a weight changed in place in one is
    changed in both.
    """
    _lens()
    if not hasattr(hf, "config"):
        raise TypeError(f'backend="lens" takes a transformers model, not {type(hf).__name__}.')
    shared = {id(each): each for each in hf.parameters()}
    return LensModel(_bridge(copy.deepcopy(hf, shared), processor), processor)


def _bridge(hf: Any, processor: Any) -> Any:
    from transformer_lens.model_bridge.sources import build_bridge_from_module

    architecture = type(hf).__name__
    tokenizer = getattr(processor, "tokenizer", processor)
    tokenizer = tokenizer if hasattr(tokenizer, "convert_ids_to_tokens") else None
    name = hf.config.name_or_path or architecture
    hf.set_attn_implementation(
        "eager"
    )  # else attentions that TransformerLens leaves alone show no pattern
    try:
        return build_bridge_from_module(
            hf,
            architecture,
            hf_config=hf.config,
            tokenizer=copy.deepcopy(tokenizer),
            model_name=name,
        )
    except (ValueError, KeyError, AttributeError, RuntimeError) as problem:
        raise ValueError(
            f'TransformerLens cannot make a bridge of {architecture}: {problem} backend="hf" may serve it.'
        ) from problem


def _lens() -> Any:
    """TransformerLens, kept from installing packages."""
    lens = need("transformer_lens", 'backend="lens"')
    from transformer_lens.model_bridge.sources.transformers import helpers

    helpers._ensure_torchvision = _no_install
    return lens


def _no_install() -> bool:
    """In the place of their function that installs torchvision: whether it is there."""
    try:
        import torchvision  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError:
        warnings.warn(TOLD, stacklevel=3)
        return False
    return True
