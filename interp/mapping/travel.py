"""What goes to a worker and comes back: bytes in which the model's parts are names, not copies."""

import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from interp.shadow import Shadow

if TYPE_CHECKING:
    from interp.model import Model

Name = tuple[str, str]


def parts_of(model: "Model") -> Iterator[tuple[Name, Any]]:
    """What a worker has of its own under the same name: the model, its modules, weights and texts' tools."""
    yield ("model", ""), model
    for name, module in model.hf.named_modules():
        yield ("module", name), module
    for name, value in model.hf.named_parameters():
        yield ("parameter", name), value
    for name, value in model.hf.named_buffers():
        yield ("buffer", name), value
    yield from ((("stack", name), stack) for name, stack in model.stacks.items())
    tools = {
        "processor": model.processor,
        "tokenizer": model.tokenizer,
        "image processor": model.image_processor,
    }
    yield from ((("tool", name), tool) for name, tool in tools.items() if tool is not None)


def packed(value: Any, model: "Model | None" = None) -> bytes:
    """The value as bytes; functions too, whatever they close over. The model's own parts by name."""
    from ray import cloudpickle

    known = {} if model is None else {id(part): name for name, part in parts_of(model)}

    class Packer(cloudpickle.Pickler):
        def persistent_id(self, obj: Any) -> Name | None:
            return known.get(id(obj))

        def reducer_override(self, obj: Any) -> Any:
            if isinstance(obj, Shadow):  # somewhere a block is open; it stays where it is
                if obj.own is not None:
                    return _itself, (obj.own,)
                return MethodType, (getattr(type(obj.module), obj.method), obj.module)
            return super().reducer_override(obj)

    content = io.BytesIO()
    try:
        Packer(content).dump(value)
    except (TypeError, AttributeError, pickle.PicklingError) as problem:
        raise TypeError(
            f"this cannot be sent to a worker: {problem}. Hooks, metrics and functions travel with all that "
            "they close over; leave locks, open files, generators and the like out of it, or leave on= out."
        ) from problem
    return content.getvalue()


def unpacked(content: bytes, model: "Model | None" = None) -> Any:
    """What `packed` was given, with the parts of this process' model."""
    own = {} if model is None else dict(parts_of(model))

    class Unpacker(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            return own[pid]

    return Unpacker(io.BytesIO(content)).load()


def _itself(value: Any) -> Any:
    return value


def fingerprint(model: "Model") -> str:
    """Names a model by all that its numbers follow from: weights, buffers, config, modules."""
    from interp.making import weights_digest
    from interp.replay.saved import digest

    hf = model.hf
    kept = hf.state_dict().keys()
    beside = [
        part for name, each in hf.named_buffers() if name not in kept for part in (name, each)
    ]
    config = {key: value for key, value in hf.config.to_dict().items() if key != "_name_or_path"}
    shape = [(name, *_plain(module)) for name, module in hf.named_modules()]
    told = [weights_digest(hf), digest(beside), repr(sorted(config.items(), key=str)), repr(shape)]
    told += [str(model.device.type), repr(getattr(hf, "generation_config", None))]
    return hashlib.sha256("|".join(told).encode()).hexdigest()[:16]


def folder_of(model: "Model") -> str | None:
    """The folder that gives this model, as far as can be told; None where it holds what no file does."""
    hf = model.hf
    folder = Path(hf.config.name_or_path or "")
    if not (folder / "config.json").is_file() or any(_touched(part) for part in hf.modules()):
        return None
    return str(folder.resolve())


def _touched(module: nn.Module) -> bool:
    """Whether something was hung onto it since it was made."""
    own = module.__dict__.get("forward")
    if own is not None and not (isinstance(own, Shadow) and own.own is None):
        return True
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
    return any(hooks) or hasattr(module, "parametrizations")


def check(model: "Model", where: str) -> None:
    """Refuse what a worker could not hold as it is here."""
    if getattr(model, "backend", "hf") != "hf":
        raise ValueError(
            f"on={where!r} shares out the work of models opened by transformers; this one is opened with "
            f"backend={model.backend!r}. Open it without backend=, or leave on= out."
        )
    if model.device.type == "cuda" and model.device.index:
        raise ValueError(
            f"{model.name} is on {model.device}, and a worker calls its own GPU cuda:0: open it there "
            "(CUDA_VISIBLE_DEVICES chooses which GPU that is), or leave on= out."
        )
    places = {value.device for value in model.hf.parameters()}
    kinds = {type(value.data).__name__ for value in model.hf.parameters()} - {"Tensor"}
    if len(places) > 1 or kinds or torch.device("meta") in places:
        spread = ", ".join(sorted({*map(str, places), *kinds}))
        raise ValueError(
            f"{model.name} is spread out ({spread}), and a worker holds a model on one device: open it on "
            "one device, or leave on= out."
        )


def _plain(module: nn.Module) -> Iterator[Any]:
    """A module's class, its numbers and words, and what was hung onto it."""
    yield f"{type(module).__module__}.{type(module).__qualname__}"
    for name, value in sorted(vars(module).items()):
        if name[0] != "_" and isinstance(value, (bool, int, float, str, tuple, type(None))):
            yield name, value
    if _touched(module):
        hung = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
        yield (
            id(module.__dict__.get("forward")),
            [id(one) for each in hung for one in each.values()],
        )
