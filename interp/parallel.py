"""Tensor parallel plans: how one is asked for, which heads this process holds, and what is refused."""

import os
import re
from typing import Any

from torch import nn

from interp.spread import Split, local, mesh_of
from interp.structure import Stack, head_counts

# A projection of this style leaves each process with its own heads; others are gathered at once.
_SHARED_OUT = "colwise"


def placement(device: Any, device_map: Any, more: dict[str, Any]) -> dict[str, Any]:
    """What `from_pretrained` is to be told about where the weights go, from what `interp.load` was told.

    `tp_plan` and `tp_size` are taken out of `more`.
    """
    told = {name: more.pop(name) for name in ("tp_plan", "tp_size") if more.get(name) is not None}
    ways = [*told, *(["distributed_config"] if more.get("distributed_config") is not None else [])]
    ways += ["device_map"] if device_map is not None else []
    if device is not None and ways:
        raise ValueError(
            f"device={str(device)!r} and {ways[0]} both say where the weights go; give one of them. "
            "device_map='cuda:0' is the same as device='cuda:0'."
        )
    if told and len(ways) > len(told):
        raise ValueError(
            f"{next(iter(told))} and {ways[-1]} both say where the weights go; give one of them."
        )
    if not told:
        return {} if device_map is None else {"device_map": device_map}
    _check_started(next(iter(told)))
    from transformers.distributed.configuration_utils import DistributedConfig

    return {"distributed_config": DistributedConfig(**told)}


def _check_started(asked: str) -> None:
    """In one process a plan would share out nothing, and nobody would be told."""
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        count = distributed.get_world_size()
    else:
        given = {name: os.environ.get(name) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        count = int(given["WORLD_SIZE"] or 1) if all(given.values()) else 1
    if count < 2:
        raise ValueError(
            f"{asked} shares the model out over several processes, and this is one by itself: start the "
            "script by `torchrun --nproc-per-node 2 script.py`, or leave it out."
        )


def check_weights(hf: Any, what: str) -> None:
    """Refuse what changes or reads weights in place where they are not all here."""
    if any(weight.is_meta or local(weight) is not weight for weight in hf.parameters()):
        raise ValueError(
            f"{what} needs all weights in this process, and they are spread over processes or offloaded; "
            "open the model without tp_plan, and without device_map or with one that fits."
        )


def told_without_plan(problem: ValueError, name: str) -> ValueError:
    """transformers' refusal of a family without a plan, in words that lead on; others as they are."""
    if "has no `tp_plan`" not in str(problem):
        return problem
    return ValueError(
        f"transformers has no tensor parallel plan for {name!r}; spread it by device_map, or give a plan of "
        "your own, tp_plan={'model.layers.*.self_attn.q_proj': 'colwise', ...}."
    )


def split_of(hf: Any, attention: nn.Module | None) -> Split | None:
    """How the heads of this attention may be shared out; None where one process holds the model."""
    mesh = mesh_of(hf)
    if mesh is None or attention is None:
        return None
    heads, kv_heads, _ = head_counts(attention)
    return Split(mesh.get_group(), mesh.get_local_rank(), mesh.size(), heads, kv_heads)


def check_spread(hf: Any, stacks: dict[str, Stack]) -> None:
    """Refuse what is spread so that prompts find no place, or that sites would hold parts of values."""
    first = next(iter(hf.named_parameters()), None)
    if first is not None and first[1].is_meta and getattr(hf, "hf_device_map", None):
        raise ValueError(
            f"device_map has offloaded {first[0]}, which comes first and says where prompts go; keep "
            f"{first[0].rpartition('.')[0]} on a device that is not offloaded."
        )
    asked = getattr(hf.config, "distributed_config", None)
    if getattr(hf, "_device_mesh", None) is None or asked is None:
        _check_nobody_else(hf)
        return
    for size, kind in (
        ("pp_size", "pipeline parallelism (layers of other processes are not here)"),
        ("dp_size", "FSDP (each process has prompts of its own)"),
        ("ep_size", "expert parallelism"),
    ):
        if (getattr(asked, size, 1) or 1) > 1:
            raise ValueError(
                f"{type(hf).__name__} was opened with {kind}, which is not served. Served are tensor "
                "parallelism, interp.load(name, tp_plan='auto') under torchrun, and device_map."
            )
    styles = {_generic(path): style for path, style in (hf.tp_plan or {}).items()}
    ordered = sorted(path for path, style in styles.items() if "sequence" in style)
    if ordered:
        raise ValueError(
            f"the tensor parallel plan of {type(hf).__name__} shares out positions at {ordered[0]}, where "
            "sites would hold some of them only; it is not served. Use device_map, or a tp_plan without it."
        )
    mesh = mesh_of(hf)
    if mesh is not None:
        _check_heads(hf, stacks, styles, mesh.size())


def _check_nobody_else(hf: Any) -> None:
    """Weights that are shares of others, of which transformers knows nothing: whose heads are here?"""
    if any(local(weight) is not weight for weight in hf.parameters()):
        raise ValueError(
            f"the weights of {type(hf).__name__} were shared out over processes by something else than "
            "transformers, so which heads are here is not known. Served is interp.load(name, tp_plan='auto') "
            "under torchrun."
        )


def _check_heads(hf: Any, stacks: dict[str, Stack], styles: dict[str, str], count: int) -> None:
    paths = {module: path for path, module in hf.named_modules()}
    for stack in stacks.values():
        for index, layer in stack.layers.items():
            if layer.attention is None:
                continue
            parts = [paths[part] for part in layer.attention.modules() if part in paths]
            own = {styles.get(_generic(path)) for path in parts}
            heads, kv_heads, _ = head_counts(layer.attention)
            if _SHARED_OUT in own and (heads % count or kv_heads % count):
                raise ValueError(
                    f"layer {index} of the {stack.name} stack of {type(hf).__name__} has {heads} heads and "
                    f"{kv_heads} KV heads, which {count} processes cannot share out equally; start as many "
                    "as divide both, or spread the model by device_map."
                )


def _generic(path: str) -> str:
    """A module's path as plans write it, with * for the number of a layer."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", path)
