"""What a prompt needs to go through a model once."""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.structure import counts_padding, places_itself
from interp.tokens import first_decoder_ids

if TYPE_CHECKING:
    from interp.model import Model
    from interp.prompt import Prompt


def arguments(model: "Model", prompt: "Prompt") -> dict[str, Any]:
    """The prompt's inputs, positions that skip padding, and a decoder's first token."""
    given: dict[str, Any] = dict(prompt.inputs)
    own = (model.family is not None and model.family.own_positions) or places_itself(model.hf)
    mask = given.get("attention_mask")
    takes = _takes(model.hf, "position_ids") and "position_ids" not in given
    if takes and not own and isinstance(mask, Tensor) and mask.ndim == 2 and not mask[:, 0].all():
        given["position_ids"] = (torch.cumsum(mask.long(), -1) - 1).clamp_min(0)
    if "decoder" in model.stacks and not _decodes(given):
        rows = next(iter(given.values())).shape[0]
        given["decoder_input_ids"] = first_decoder_ids(model.hf, rows)
    return given


def single_pass(model: "Model", prompt: "Prompt") -> dict[str, Any]:
    """A single forward needs no cache, and a long one cannot afford it."""
    given = arguments(model, prompt)
    return {**given, "use_cache": False} if _takes(model.hf, "use_cache") else given


def check_padding(hf: Any, prompt: "Prompt") -> None:
    """Some decoders count positions over padding, and take no others: rows would be shifted."""
    padded = prompt.ids is not None and not bool(prompt.mask[:, :1].all())
    if padded and not _takes(hf, "position_ids") and counts_padding(hf):
        raise ValueError(
            f"{type(hf).__name__} counts positions over padding on the left and takes no "
            "position_ids, so unequal prompts would change each other; give them one by one."
        )


def _takes(hf: Any, name: str) -> bool:
    return name in inspect.signature(type(hf).forward).parameters


def _decodes(given: dict[str, Any]) -> bool:
    return any(name in given for name in ("decoder_input_ids", "decoder_inputs_embeds", "labels"))
