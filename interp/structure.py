"""The stacks of a model, found by structure: attentions that reach the seam, their layers, their lists."""

import functools
import inspect
import re
import sys
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from interp.families import Family, family_of

_MLP = (
    "mlp",
    "feed_forward",
    "ffn",
    "block_sparse_moe",
    "moe",
    "fc2",
    "output.dense",
    "DenseReluDense",
)
_OUT = (
    "o_proj", "out_proj", "c_proj", "dense", "proj", "wo", "Wo", "o", "out_lin", "projection"
)  # fmt: skip
_ROTARY = re.compile(r"rotary|rope\b", re.IGNORECASE)
_VISION = re.compile(r"vision|visual|image|vit\b", re.IGNORECASE)
_CROSS = re.compile(r"cross|encoder_attn|EncDec", re.IGNORECASE)
# The stack that a call means when it names none.
MAIN = ("text", "decoder", "encoder", "vision")


@dataclass
class Layer:
    """The modules of one layer that sites stand on; None where the layer has no such part."""

    module: nn.Module | None
    attention: nn.Module | None = None
    out: nn.Module | None = None
    mlp: nn.Module | None = None


@dataclass
class Stack:
    """A tower of layers: `text`, `vision`, `encoder`, `decoder`, or the `cross` attention of one."""

    name: str
    path: str
    causal: bool
    layers: dict[int, Layer] = field(default_factory=dict)
    heads: int = 0
    kv_heads: int = 0
    d_head: int = 0
    refused: dict[str, str] = field(default_factory=dict)  # site -> why another back end has it not

    @property
    def size(self) -> int:
        return max(self.layers, default=-1) + 1

    def __repr__(self) -> str:
        shared = f", {self.kv_heads} KV heads" if self.kv_heads != self.heads else ""
        return (
            f"Stack({self.name}: {len(self.layers)} layers, {self.heads} heads{shared}, "
            f"d_head {self.d_head})"
        )


@functools.cache
def reaches_seam(cls: type[nn.Module]) -> bool:
    """Whether this attention class asks transformers for its attention function."""
    for base in cls.__mro__:
        if base is nn.Module:
            return False
        try:
            if "ALL_ATTENTION_FUNCTIONS" in inspect.getsource(base):
                return True
        except (OSError, TypeError):
            continue
    return False


def find_stacks(hf: Any) -> dict[str, Stack]:
    """Every tower whose attention reaches the seam, by name, main stack first."""
    family = family_of(hf.config)
    stacks: dict[str, Stack] = {}
    names: dict[str, str] = {}
    for path, module in hf.named_modules():
        if not reaches_seam(type(module)):
            continue
        place = _layer_list(hf, path)
        if place is None:
            continue
        list_path, index, inside = place
        if list_path not in names:
            names[list_path] = _free_name(_stack_name(hf, list_path, module), list_path, stacks)
            stacks[names[list_path]] = _empty_stack(hf, names[list_path], list_path, module, family)
        _add_attention(hf, stacks, names[list_path], index, inside, module, family)
    order = {name: rank for rank, name in enumerate(MAIN)}
    return dict(sorted(stacks.items(), key=lambda item: order.get(item[0], len(order))))


def _layer_list(hf: Any, path: str) -> tuple[str, int, str] | None:
    """The list of layers that an attention belongs to: (path of the list, index, path inside).

    The innermost list whose every item holds an attention; a T5 block's own list of sub-layers has
    a feed-forward item that holds none. Hybrid models have such items everywhere: then the outermost.
    """
    parts = path.split(".")
    found: list[tuple[str, int, str]] = []
    for position, part in enumerate(parts):
        above = ".".join(parts[:position])
        if part.isdigit() and isinstance(hf.get_submodule(above), nn.ModuleList):
            found.append((above, int(part), ".".join(parts[position + 1 :])))
    full = [place for place in found if _all_attend(hf.get_submodule(place[0]))]
    return (full or found[:1] or [None])[-1]


def _all_attend(items: nn.ModuleList) -> bool:
    return all(any(reaches_seam(type(part)) for part in item.modules()) for item in items)


def _stack_name(hf: Any, path: str, attention: nn.Module) -> str:
    """Which tower a list of layers is, from its path, its model and its attention."""
    if "qformer" in path:
        return "qformer"
    if _VISION.search(path) and "text" not in path:
        return "vision"
    if getattr(hf.config.get_text_config(), "is_encoder_decoder", False):
        return "decoder" if "decoder" in path else "encoder"
    beside_images = hasattr(hf.config, "vision_config")
    if beside_images or getattr(attention, "is_causal", False) or hf.can_generate():
        return "text"
    return "vision" if getattr(hf, "main_input_name", "") == "pixel_values" else "encoder"


def _free_name(name: str, path: str, stacks: dict[str, Stack]) -> str:
    if name not in stacks:
        return name
    owner = path.split(".")[-2].removesuffix("_transformer")
    return f"{name}_{owner}" if f"{name}_{owner}" not in stacks else f"{name}_{len(stacks)}"


def _says_causal(attention: nn.Module) -> bool:
    return bool(getattr(attention, "is_causal", False))


def places_itself(hf: Any) -> bool:
    """Whether the model derives positions from ids or mask by itself, better than a count would.

    Rotary positions in three dimensions (Qwen-VL and its kin), and RoBERTa's count past padding.
    """
    ways = ("get_rope_index", "create_position_ids_from_input_ids")
    return any(
        hasattr(type(module), way) or hasattr(sys.modules.get(type(module).__module__), way)
        for module in hf.modules()
        for way in ways
    )


def counts_padding(hf: Any) -> bool:
    """Whether learned positions are counted from a row's first place, padding or not."""
    for module in hf.modules():
        if re.search(r"(Learned|Sinusoidal)PositionalEmbedding$", type(module).__name__):
            takes = inspect.signature(type(module).forward).parameters
            return "attention_mask" not in takes and not places_itself(hf)
    return False


def _empty_stack(
    hf: Any, name: str, path: str, attention: nn.Module, family: Family | None
) -> Stack:
    told = name == "decoder" or (name == "text" and (hf.can_generate() or _says_causal(attention)))
    causal = told or (family is not None and name in family.causal)
    stack = Stack(name, path, causal)
    for index, module in enumerate(hf.get_submodule(path)):
        mlp = (family.mlp if family else {}).get(name)
        candidates = (mlp,) if mlp else _MLP
        stack.layers[index] = Layer(
            module, mlp=_first_at(module, candidates, holding_no_attention=True)
        )
    return stack


def _add_attention(
    hf: Any,
    stacks: dict[str, Stack],
    name: str,
    index: int,
    inside: str,
    attention: nn.Module,
    family: Family | None,
) -> None:
    """Put an attention where it belongs: in the stack of its list, or in `cross`."""
    own = stacks[name]
    if _CROSS.search(inside) or _CROSS.search(type(attention).__name__):
        cross = "cross" if name != "qformer" else "qformer_cross"
        target = stacks.setdefault(cross, Stack(cross, own.path, False))
        layer = target.layers.setdefault(index, Layer(None))
    else:
        target, layer = own, own.layers[index]
    layer.attention = attention
    layer.out = _output_projection(
        hf.get_submodule(f"{own.path}.{index}"), inside, attention, target.name, family
    )
    if not target.heads:
        target.heads, target.kv_heads, target.d_head = head_counts(attention)


def _output_projection(
    layer: nn.Module, inside: str, attention: nn.Module, stack: str, family: Family | None
) -> nn.Module | None:
    path = (family.out if family else {}).get(stack)
    if path:
        return _first_at(layer, (path,))
    found = _first_at(attention, _OUT)
    if found is None and "." in inside:  # BERT and its kin: attention.self beside attention.output
        found = _first_at(
            layer.get_submodule(inside.rpartition(".")[0]), ("output.dense", "output")
        )
    return found


def _first_at(
    module: nn.Module, paths: tuple[str, ...], holding_no_attention: bool = False
) -> nn.Module | None:
    """The module at the first of these paths, looked for inside the module and one level below."""
    roots = [module]
    for child in module.children():
        roots += child if isinstance(child, nn.ModuleList) else [child]
    for path in paths:
        for root in roots:
            try:
                found = root.get_submodule(path)
            except AttributeError:
                continue
            inner = holding_no_attention and any(
                reaches_seam(type(part)) for part in root.modules()
            )
            if root is not module and inner:
                continue
            return found
    return None


def head_counts(attention: nn.Module) -> tuple[int, int, int]:
    """Heads, KV heads and head size of the whole model, from the names that families give them."""
    config = getattr(attention, "config", None)
    heads = _first_of(attention, config, "num_heads", "num_attention_heads", "n_heads", "heads")
    kv_heads = _first_of(attention, config, "num_key_value_heads", "num_kv_heads")
    groups = getattr(attention, "num_key_value_groups", None)
    if groups and heads:
        kv_heads = heads // groups
    size = _first_of(
        attention, None, "qk_head_dim", "head_dim", "attention_head_size", "key_value_proj_dim",
        "head_size",
    )  # fmt: skip
    if not size and heads:
        width = _first_of(attention, config, "embed_dim", "hidden_size", "all_head_size", "dim")
        size = width // heads if width else 0
    return heads or 0, kv_heads or heads or 0, size or 0


def _first_of(module: nn.Module, config: Any, *names: str) -> int | None:
    for owner in (module, config):
        for name in names:
            value = getattr(owner, name, None)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
    return None


def rotated(hf: Any, stacks: dict[str, Stack]) -> frozenset[str]:
    """Stacks that hold a rotary embedding beside their layers or in them."""
    found = set()
    for name, stack in stacks.items():
        tower = hf.get_submodule(stack.path.rpartition(".")[0])
        if any(
            _ROTARY.search(f"{path} {type(part).__name__}") for path, part in tower.named_modules()
        ):
            found.add(name)
    return frozenset(found)


def tops(hf: Any, stacks: dict[str, Stack]) -> list[nn.Module]:
    """The whole model, and the towers with a cache, which may be called by themselves."""
    owners = [stack.path.rpartition(".")[0] for stack in stacks.values() if stack.causal]
    return list(dict.fromkeys([hf, *(hf.get_submodule(path) for path in owners)]))
