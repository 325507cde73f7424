"""What a method asks of a model and a prompt, and layers as a share of the depth."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp.asking import choose_heads, choose_layers
from interp.prompt import Prompt

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack


def writing_stack(model: "Model", who: str) -> "Stack":
    """The stack that reads the prompt and writes on; refused where there is none."""
    if model.kind not in ("text", "vlm") or "text" not in model.stacks:
        raise ValueError(
            f"{who} acts in a decoder-only or vision-language model, and {model.name} is of kind "
            f"{model.kind!r}."
        )
    return model.stacks["text"]


def image_span(model: "Model", prompt: Prompt, who: str, looked_at: bool = False) -> Tensor:
    """The image's positions [row, position]; refused without an image among them.

    `looked_at`: where the method changes how much the text looks at them.
    """
    writing_stack(model, who)
    if model.kind != "vlm":
        raise ValueError(
            f"{who} acts on what a model sees, and {model.name} reads text only. For text there are "
            "ACT, PASTA, AutoPASTA and SpotLight."
        )
    if looked_at and "cross" in model.stacks:
        raise ValueError(
            f"{who} changes attention to image tokens among the text, and {model.name} sees through cross "
            "attention; a Hook on its stack 'cross' can change that."
        )
    if prompt.ids is None or "image" not in prompt.names or not bool(prompt.where("image").any()):
        raise ValueError(
            f"{who} needs an image among the prompt's tokens, and there is none: "
            "model.encode(text, images=image)."
        )
    return prompt.where("image")


def layers_of(stack: "Stack", given: Any, default: Sequence[int], site: str) -> list[int]:
    """The layers asked for, checked; without any the method's own, as far as the stack has them."""
    if given is not None:
        return sorted(choose_layers(stack, given, site))
    offered = choose_layers(stack, None, site)
    return [layer for layer in default if layer in offered]


def heads_of(stack: "Stack", given: Any, site: str) -> dict[int, tuple[int, ...]] | None:
    """Heads by layer from (layer, head) pairs, "layer.head" names, or {layer: heads}; None: all."""
    if given is None:
        return None
    try:
        pairs = (
            [(layer, head) for layer, own in given.items() for head in own]
            if isinstance(given, dict)
            else [_pair(one) for one in given]
        )
    except TypeError:
        raise ValueError(
            f"heads={given!r}: pairs [(layer, head), ...], names ['2.1', ...] or {{layer: [head, ...]}}."
        ) from None
    found: dict[int, list[int]] = {}
    for layer, head in pairs:
        (checked,) = choose_layers(stack, [layer], site)
        chosen = choose_heads(stack, [head], site)
        found.setdefault(checked, []).extend(chosen or ())
    if not found:
        raise ValueError("heads= names none; leave it out for all, or give (layer, head) pairs.")
    return {layer: tuple(sorted(set(own))) for layer, own in sorted(found.items())}


def _pair(one: Any) -> tuple[int, int]:
    try:
        layer, head = one.split(".") if isinstance(one, str) else one
        return int(layer), int(head)
    except (ValueError, TypeError, AttributeError):
        raise ValueError(f"a head is (layer, head) or 'layer.head', not {one!r}.") from None


def share(stack: "Stack", low: int, high: int, of: int) -> list[int]:
    """Layers `low` to `high` (inclusive) of a model of `of` layers, at the same depth of this one."""
    first, last = low / of * stack.size, (high + 1) / of * stack.size
    return list(
        range(math.floor(first + 0.5), max(math.floor(first + 0.5) + 1, math.floor(last + 0.5)))
    )


def check_share(who: str, name: str, value: Any, low: float = 0.0, high: float = 1.0) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{who}({name}={value!r}): {name} is a number from {low:g} to {high:g}.")


def check_at_least(who: str, name: str, value: Any, least: float) -> None:
    wrong = isinstance(value, bool) or not isinstance(value, (int, float))
    if wrong or not math.isfinite(value) or value < least:
        raise ValueError(f"{who}({name}={value!r}): {name} is a number of at least {least:g}.")


def check_flag(who: str, name: str, value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{who}({name}={value!r}): {name} is True or False.")
