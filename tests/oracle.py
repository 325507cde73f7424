"""The family's own eager run, watched from outside: what the seam is held against."""

import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from interp.structure import find_stacks
from interp.trace import main_output


@dataclass
class Eager:
    logits: Tensor
    patterns: dict[nn.Module, list[Tensor]] = field(default_factory=dict)


def eager_run(hf: Any, inputs: dict[str, Tensor]) -> Eager:
    """One forward on eager attention; each attention call's own weights, in order."""
    result: dict[nn.Module, list[Tensor]] = {}
    with torch.no_grad(), on_eager(hf), _watching(hf, result):
        output = hf(**inputs)
    return Eager(main_output(output), result)


@contextmanager
def on_eager(hf: Any) -> Any:
    """The model on eager attention for a while, config by config."""
    configs = {id(m.config): m.config for m in hf.modules() if hasattr(m, "config")}
    before = [(config, config._attn_implementation) for config in configs.values()]
    for config, _ in before:
        config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        for config, own in before:
            config._attn_implementation_internal = own


@contextmanager
def _watching(hf: Any, result: dict[nn.Module, list[Tensor]]) -> Any:
    """Shadow each modelling file's `eager_attention_forward` to keep the weights it returns."""
    files = {
        sys.modules[type(layer.attention).__module__]
        for stack in find_stacks(hf).values()
        for layer in stack.layers.values()
        if layer.attention is not None
    }
    originals = {file: file.eager_attention_forward for file in files}

    def watched(original: Any) -> Any:
        def run(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            output, weights = original(module, *args, **kwargs)
            result.setdefault(module, []).append(weights)
            return output, weights

        return run

    for file, original in originals.items():
        file.eager_attention_forward = watched(original)
    try:
        yield
    finally:
        for file, original in originals.items():
            file.eager_attention_forward = original


def plain_run(hf: Any, inputs: dict[str, Tensor]) -> Tensor:
    """One forward as transformers would run it by itself (SDPA, or eager where it has none)."""
    with torch.no_grad():
        return main_output(hf(**inputs))
