"""A model whose weights are spread: heads over the processes of a group, layers over devices or a disk.

With tensor parallelism each process holds some heads of each layer, the same share of each, in order.
What a hook is shown is gathered, so that it is the whole model's; every process calls it and keeps its
own share of the answer. Gradients go the other way: what was gathered gives back its own share, and
what was shared out is gathered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Split:
    """Which of an attention's heads this process holds: share `rank` of `count`."""

    group: Any  # the process group
    rank: int
    count: int
    heads: int  # of the whole model
    kv_heads: int

    def divides(self, query: Tensor, key: Tensor) -> bool:
        """Whether these [batch, head, ...] are a share of the heads; False where they are all of them."""
        if query.shape[1] == self.heads:
            return False
        if (query.shape[1] * self.count, key.shape[1] * self.count) == (self.heads, self.kv_heads):
            return True
        raise RuntimeError(
            f"this process holds {query.shape[1]} heads and {key.shape[1]} KV heads of {self.heads} and "
            f"{self.kv_heads}, which is no equal share among {self.count}: this tensor parallel plan is not "
            "served. Open the model in one process, or spread it by device_map."
        )

    def gathered(self, value: Tensor, axis: int) -> Tensor:
        """The shares of all processes, laid end to end along the axis of heads."""
        return _Gathered.apply(value, axis, self)

    def own(self, value: Tensor, axis: int) -> Tensor:
        """This process's share of what all of them have."""
        return _Own.apply(value, axis, self)

    def shown(self, value: Tensor, axis: int, see: Callable[[Tensor], Tensor]) -> Tensor:
        """What is left of the own share when `see` has been shown the whole."""
        whole = self.gathered(value, axis)
        after = see(whole)
        if after is whole and not (torch.is_grad_enabled() and after.requires_grad):
            return value
        return self.own(after, axis)


def _all(value: Tensor, axis: int, split: Split) -> Tensor:
    sent = value.contiguous()
    sent = sent.view(torch.uint8) if sent.dtype == torch.bool else sent
    parts = [torch.empty_like(sent) for _ in range(split.count)]
    torch.distributed.all_gather(parts, sent, group=split.group)
    return torch.cat(parts, axis).view(value.dtype)


def _mine(value: Tensor, axis: int, split: Split) -> Tensor:
    size = value.shape[axis] // split.count
    return value.narrow(axis, split.rank * size, size).clone()


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, axis: int, split: Split) -> Tensor:
        ctx.how = axis, split
        return _all(value, axis, split)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _mine(grads[0], *ctx.how), None, None


class _Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, axis: int, split: Split) -> Tensor:
        ctx.how = axis, split
        return _mine(value, axis, split)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        return _all(grads[0], *ctx.how), None, None


def mesh_of(hf: Any) -> Any:
    """The mesh of processes that share this model's heads; None where one process holds all."""
    mesh = getattr(hf, "_device_mesh", None)
    if mesh is None or (getattr(hf, "_tp_size", None) or 1) < 2:
        return None
    return mesh["tp"] if mesh.ndim > 1 else mesh


def whole_weight(module: nn.Module, name: str = "weight") -> Tensor:
    """All of a module's weight, wherever it lies; to be asked for by all processes together."""
    weight = getattr(module, name)
    if weight.is_meta:  # accelerate keeps it elsewhere until the module runs
        hook = getattr(module, "_hf_hook", None)
        held = [getattr(each, "weights_map", None) for each in getattr(hook, "hooks", [hook])]
        kept = next((one for one in held if one is not None), None)
        if kept is None:
            raise ValueError(
                f"the {name} of a {type(module).__name__} is not in memory, and nothing here says where it "
                "is kept; open the model without offloading."
            )
        weight = kept[name]
    full = getattr(weight, "full_tensor", None)
    return weight.detach() if full is None else full().detach()


def runs_on(module: nn.Module) -> torch.device | None:
    """The device to which accelerate moves what a module is called with; None where it moves nothing."""
    hook = getattr(module, "_hf_hook", None)
    for each in getattr(hook, "hooks", [hook]):
        device = getattr(each, "execution_device", None)
        if device is not None:
            return torch.device(device)
    return None


def local(weight: Tensor) -> Tensor:
    """What of a weight lies in this process."""
    own = getattr(weight, "to_local", None)
    return weight if own is None else own()
