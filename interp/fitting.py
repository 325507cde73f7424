"""Putting a model on the seam and taking it off again; refusing what the seam cannot serve."""

import inspect
import sys
import weakref
from typing import Any

from torch import nn

from interp.families import family_of
from interp.live import Place
from interp.parallel import check_spread, split_of
from interp.structure import Stack, reaches_seam, tops

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
                    f"{name} runs on {own!r} attention now, not on interp's (it was unwrapped, or "
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
        what = f"it is computed in {', '.join(own)}" if own else "it has no attention layers"
        raise ValueError(
            f"{name} ({hf.config.model_type}) does not ask transformers for its attention: {what}, "
            "so nothing can be read or changed there. docs/models.md lists families that are served."
        )
    for stack in stacks.values():
        for layer in stack.layers.values():
            if layer.attention is not None and _chooses_by_name(type(layer.attention)):
                raise ValueError(
                    f"{name} ({hf.config.model_type}) builds its attention mask by the name of the "
                    "attention implementation, and would build a wrong one on the seam; "
                    "it is not served."
                )
    check_spread(hf, stacks)


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


def places_of(hf: Any, stacks: dict[str, Stack]) -> dict[nn.Module, Place]:
    """What each module that a site stands on is in this model."""
    family = family_of(hf.config)
    between = family.between if family else ()
    places = {module: Place("top", "", -1) for module in tops(hf, stacks)}
    for stack in stacks.values():
        for index, layer in stack.layers.items():
            settings = (stack.causal, stack.name in between, index == stack.size - 1)
            split = split_of(hf, layer.attention)
            roles = {
                "layer": layer.module,
                "attention": layer.attention,
                "attn_out": layer.out,
                "mlp_out": layer.mlp,
            }
            for role, module in roles.items():
                if module is not None:
                    own = split if role == "attention" else None
                    places[module] = Place(role, stack.name, index, *settings, own)
    return places


def kind_of(hf: Any, stacks: dict[str, Stack]) -> str:
    """What a model eats and whether it writes, from its config, its towers and its class."""
    if hasattr(hf.config, "vision_config"):
        return "vlm" if hf.can_generate() else "dual"
    if hf.main_input_name in ("input_features", "input_values"):
        return "audio"
    if "decoder" in stacks:
        return "encoder-decoder"
    if hf.main_input_name == "pixel_values":
        return "vision"
    return "text" if "text" in stacks else "encoder"
