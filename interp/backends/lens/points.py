"""Which hook point of a bridge is which site, and its values in the axes of `interp.sites`."""

from typing import Any

from torch import Tensor, nn

from interp.sites import SITES, head_axis
from interp.structure import Stack

Point = tuple[str, int, str]  # stack, layer, site

# Where a layer's bridge keeps each site; the first that is there counts. TransformerLens takes hook_q before
# the rotation, where there is one, and hook_rot_q after it: attention sees the latter.
_OF_LAYER = {
    "resid_pre": ("hook_in",),
    "resid_post": ("hook_out",),
}
_OF_ATTENTION = {
    "q": ("hook_rot_q", "q.hook_out"),
    "k": ("hook_rot_k", "k.hook_out"),
    "v": ("v.hook_out",),
    "scores": ("hook_attn_scores",),
    "pattern": ("hook_pattern",),
    "z": ("o.hook_in",),
    "attn_out": ("o.hook_out",),
}
_OF_MLP = {"mlp_out": ("hook_out",)}
WRAPPED = "_original_component"


def points_of(hf: nn.Module, stacks: dict[str, Stack]) -> dict[Point, nn.Module]:
    """The hook point of every site that the bridge has."""
    paths = {module: path for path, module in hf.named_modules()}
    found: dict[Point, nn.Module] = {}
    for stack in stacks.values():
        for index, layer in stack.layers.items():
            attention = _around(hf, paths, layer.attention)
            own = ((layer.module, _OF_LAYER), (attention, _OF_ATTENTION), (layer.mlp, _OF_MLP))
            for bridge, sites in own:
                for site, names in sites.items():
                    point = _first(bridge, names)
                    if point is not None:
                        found[stack.name, index, site] = point
            layer.out = _inside(getattr(attention, "o", None) or layer.out)
    return found


def _around(hf: nn.Module, paths: dict[nn.Module, str], attention: nn.Module | None) -> Any:
    """The bridge of an attention: the nearest module above it that has a hook point for patterns."""
    path = "" if attention is None else paths[attention]
    while path:
        bridge: Any = hf.get_submodule(path)
        if hasattr(bridge, "hook_pattern"):
            return bridge
        path = path.rpartition(".")[0]
    return None


def _inside(module: Any) -> Any:
    """The module of transformers in a bridge: readers of weights know its kind."""
    while module is not None and WRAPPED in module._modules:
        module = module._modules[WRAPPED]
    return module


def _first(bridge: Any, names: tuple[str, ...]) -> nn.Module | None:
    for name in names:
        owner: Any = bridge
        for part in name.split("."):
            owner = getattr(owner, part, None)
        if isinstance(owner, nn.Module):
            return owner
    return None


def ours(value: Tensor, point: Any, site: str, stack: Stack) -> Tensor:
    """A hook point's value in the axes of the site, as TransformerLens' own users see it."""
    if point.hook_conversion is not None:
        value = point.hook_conversion.convert(value)
    axis = head_axis(site)
    if axis is None:
        return value
    heads = stack.kv_heads if site in ("k", "v") else stack.heads
    if value.ndim == 3 and axis == 2:
        value = value.unflatten(-1, (heads, -1))
    if value.ndim != len(SITES[site]) or value.shape[axis] != heads:
        raise ValueError(
            f"{site} of the {stack.name} stack comes from TransformerLens as {tuple(value.shape)}, and not "
            f"as [{', '.join(SITES[site])}] of {heads} heads: it is not served through this back end."
        )
    return value


def theirs(value: Tensor, point: Any, before: Tensor) -> Tensor:
    """A changed value in the shape that the bridge goes on with."""
    if point.hook_conversion is not None:
        value = point.hook_conversion.revert(value)
    return value.reshape(before.shape)
