"""Putting a model on the seam and taking it off again; refusing what the seam cannot serve."""

import inspect
import sys
import weakref
from typing import Any

from torch import nn

from interp.structure import Stack, reaches_seam

# Per model, its configs and the attention that each had.
_BEFORE: "weakref.WeakKeyDictionary[nn.Module, list[tuple[Any, str | None]]]" = (
    weakref.WeakKeyDictionary()
)


def check_kind(hf: Any) -> None:
    """Only transformers models come with the attention interface that the seam is."""
    from transformers import PreTrainedModel

    if not isinstance(hf, PreTrainedModel):
        raise TypeError(
            f"interp wraps transformers models, not {type(hf).__name__}; "
            "pass the PreTrainedModel itself."
        )


def fit(hf: Any, stacks: dict[str, Stack]) -> None:
    """Set every config of the model to the seam, over SDPA where the family has it, else over eager.

    Nothing is changed unless all can be.
    """
    from transformers import PretrainedConfig, PreTrainedModel

    from interp.seam import OVER_EAGER, OVER_SDPA

    _refuse(hf, stacks)
    wanted: dict[int, tuple[Any, str]] = {}
    for module in hf.modules():
        config = getattr(module, "config", None)
        if not isinstance(config, PretrainedConfig):
            continue
        if isinstance(module, PreTrainedModel) and not module._supports_sdpa:
            wanted[id(config)] = (config, OVER_EAGER)
        wanted.setdefault(id(config), (config, OVER_SDPA))
    copied = hf not in _BEFORE
    before = _BEFORE.setdefault(hf, [])
    for config, name in wanted.values():
        own = config._attn_implementation
        if own not in (OVER_SDPA, OVER_EAGER):
            before.append((config, own))
        elif copied:  # a copy of a wrapped model brought the name along
            before.append((config, "sdpa" if name == OVER_SDPA else "eager"))
        # The public setter would also set sub-configs, whose models may need the other name.
        config._attn_implementation_internal = name


def check_fit(name: str, stacks: dict[str, Stack]) -> None:
    """Say so when someone has taken the model off the seam since it was wrapped."""
    from interp.seam import OVER_EAGER, OVER_SDPA

    for stack in stacks.values():
        for layer in stack.layers.values():
            own = getattr(
                getattr(layer.attention, "config", None), "_attn_implementation", OVER_SDPA
            )
            if own not in (OVER_SDPA, OVER_EAGER):
                raise RuntimeError(
                    f"{name} runs on {own!r} attention now, not on the seam (it was unwrapped, or "
                    "set_attn_implementation was called); wrap it again with interp.wrap(hf)."
                )


def unfit(hf: Any) -> None:
    for config, own in _BEFORE.pop(hf, []):
        config._attn_implementation_internal = own


def _refuse(hf: Any, stacks: dict[str, Stack]) -> None:
    """Say why a model cannot be served, rather than serve it in part and in silence."""
    name = type(hf).__name__
    if not any(layer.attention for stack in stacks.values() for layer in stack.layers.values()):
        own = sorted({type(part).__name__ for part in hf.modules() if _looks_like_attention(part)})
        what = f"{', '.join(own)} compute it by themselves" if own else "it has no attention layers"
        raise ValueError(
            f"{name} ({hf.config.model_type}) does not ask transformers for its attention: {what}, "
            "so nothing can be read or changed there. Families that can be served are in "
            'docs/models.md; TransformerLens may adapt this one (interp.load(..., backend="lens")).'
        )
    for stack in stacks.values():
        for layer in stack.layers.values():
            if layer.attention is not None and _chooses_by_name(type(layer.attention)):
                raise ValueError(
                    f"{name} ({hf.config.model_type}) builds its attention mask by the name of the "
                    "attention implementation, and would build a wrong one on the seam; "
                    "it is not served."
                )


def _looks_like_attention(module: nn.Module) -> bool:
    kind = type(module).__name__
    return "Attention" in kind and not reaches_seam(type(module))


def _chooses_by_name(cls: type) -> bool:
    """Sparse-attention families compare the implementation's name with 'eager' and 'sdpa'."""
    try:
        source = inspect.getsource(sys.modules[cls.__module__])
    except (OSError, TypeError, KeyError):
        return False
    ways = (
        '_attn_implementation in ("eager", "sdpa")',
        'if self.config._attn_implementation == "sdpa":',
    )
    return any(way in source for way in ways)
