"""A model whose last layers lie on another device, where there is only one.

The other device is "meta": it holds shapes and no numbers, and torch refuses to mix it with the CPU as it
refuses to mix two GPUs. Where code asks for a number (a truth, a length), `NoNumbers` makes one up.
"""

import functools
import types
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import interp

OTHER = "meta"


class NoNumbers(TorchFunctionMode):
    """Answers what a tensor without numbers cannot: yes, one, zeros."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not any(isinstance(one, Tensor) and one.is_meta for one in args):
            return func(*args, **kwargs)
        own = args[0]
        if func in (Tensor.__bool__, torch.equal, Tensor.equal, torch.allclose):
            return True
        if func in (Tensor.item, Tensor.__int__, Tensor.__index__, Tensor.__float__):
            return 1.0 if func is Tensor.__float__ else 1
        if func is Tensor.tolist:
            return torch.zeros(own.shape).tolist()
        if func is Tensor.__getitem__ and getattr(args[1], "dtype", None) == torch.bool:
            return own[torch.zeros(1, dtype=torch.long)]
        if func in (Tensor.nonzero, torch.nonzero):
            return own.new_zeros(1, own.ndim, dtype=torch.long)
        if func is Tensor.cpu or (func is Tensor.to and _to_cpu(args[1:], kwargs)):
            return torch.zeros(own.shape, dtype=own.dtype)
        return func(*args, **kwargs)


def _to_cpu(given, kwargs):
    for one in [*given, *kwargs.values()]:
        device = one.device if isinstance(one, Tensor) else one
        if isinstance(device, (str, torch.device)) and torch.device(device).type == "cpu":
            return True
    return False


def split(name):
    """A shipped model with the second half of its text layers, its last norm and its head elsewhere."""
    model = interp.load(name)
    stack = model.stacks["text"]
    tower = model.hf.get_submodule(stack.path.rpartition(".")[0])
    far: list[Any] = [layer.module for at, layer in stack.layers.items() if at >= stack.size // 2]
    far += [tower.norm, model.hf.get_output_embeddings()]
    _place(model.hf, "cpu", back=True)
    for layer in stack.layers.values():
        _place(layer.module, "cpu")
    for module in far:
        # Tied weights and buffers that lie on the CPU stay there for whoever else holds them.
        for part in module.modules():
            for held in (part._parameters, part._buffers):
                for key, value in held.items():
                    if value is not None:
                        moved: Any = value.data.to(OTHER)
                        held[key] = nn.Parameter(moved) if held is part._parameters else moved
        _place(module, OTHER)
    return model


def _place(module, device, back=False):
    """What accelerate does: a module's arguments are moved to it; the whole model's logits back."""
    plain = vars(module).get("_plain", module.forward)

    def forward(*args, **kwargs):
        output = plain(*_sent(args, device), **_sent(kwargs, device))
        if back and isinstance(getattr(output, "logits", None), Tensor):
            output.logits = output.logits.to(device)
        return output

    module._plain, module.forward = plain, functools.update_wrapper(forward, plain)
    module._hf_hook = types.SimpleNamespace(execution_device=device)


def _sent(given, device):
    if isinstance(given, Tensor):
        return given.to(device)
    if type(given) in (tuple, list):
        return type(given)(_sent(one, device) for one in given)
    return {key: _sent(one, device) for key, one in given.items()} if type(given) is dict else given
