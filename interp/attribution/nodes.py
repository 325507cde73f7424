"""Estimates of what patching one node does: a difference of values times a gradient."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.attribution.contrast import Key, contrast, precise
from interp.attribution.steps import MODULES, Step, Walk
from interp.registry import unknown

if TYPE_CHECKING:
    import pandas

    from interp.model import Model

NODE_SITES = ("resid_pre", "q", "k", "v", "z", "attn_out", "mlp_out")
NAMES = {"clean": "atp", "ends": "clean_corrupted", "inputs": "eap_ig_inputs",
         "activations": "eap_ig_activations"}  # fmt: skip


@dataclass(eq=False)
class Nodes:
    """Estimated effects, metric(patched) - metric(clean), of putting a node's corrupted value in.

    By site: `effects` of one position, [batch, layer, position] or, of sites with heads,
    [batch, layer, position, head]; `whole` of all positions at once, the same without positions.
    `magnitudes` and `whole_magnitudes` are what candidates are ranked by: the sizes of these, but
    for AtP*, where they are means of sizes (see `atp_star`). The first layer of a site is
    `layers[site][0]`. k and v have KV heads.
    """

    method: str
    layers: dict[str, list[int]]
    effects: dict[str, Tensor]
    whole: dict[str, Tensor]
    magnitudes: dict[str, Tensor]
    whole_magnitudes: dict[str, Tensor]

    def __repr__(self) -> str:
        sizes = ", ".join(f"{site} {list(value.shape)}" for site, value in self.effects.items())
        return f"Nodes({self.method}, estimates: {sizes})"

    def table(self) -> "pandas.DataFrame":
        """A row for each node at all positions: `effect` and `magnitude` are means over examples."""
        import pandas

        rows: list[dict[str, Any]] = []
        for site, layers in self.layers.items():
            effect, size = self.whole[site].mean(0), self.whole_magnitudes[site].mean(0)
            for order, layer in enumerate(layers):
                heads = range(effect.shape[1]) if effect.ndim == 2 else [None]
                for head in heads:
                    at = (order,) if head is None else (order, head)
                    rows.append(
                        {"site": site, "layer": layer, "head": head, "method": self.method,
                         "effect": float(effect[at]), "magnitude": float(size[at]), "estimate": True}
                    )  # fmt: skip
        table = pandas.DataFrame(rows)
        return table.astype({"head": "Int64"}) if len(table) else table


def plain(method: str, layers: dict[str, list[int]], effects: dict[str, Tensor]) -> Nodes:
    """Nodes whose magnitude is the size of their effect."""
    whole = {site: value.sum(2) for site, value in effects.items()}
    sizes = {site: value.abs() for site, value in effects.items()}
    return Nodes(
        method, layers, effects, whole, sizes, {s: value.abs() for s, value in whole.items()}
    )


def atp(
    model: "Model",
    clean: Any,
    corrupted: Any,
    metric: Any,
    *,
    sites: Sequence[str] | str = MODULES,
    stack: str | None = None,
) -> Nodes:
    """Attribution patching: (corrupted - clean) . gradient on the clean run, of every node at once.

    Two forwards and a backward, for what `model.sweep(clean, site, take=corrupted trace)` computes
    exactly with a forward for each node.
    """
    return along(model, clean, corrupted, metric, way="clean", sites=sites, stack=stack)


def along(
    model: "Model",
    clean: Any,
    corrupted: Any,
    metric: Any,
    *,
    way: str = "inputs",
    steps: int = 5,
    rule: str = "right",
    sites: Sequence[str] | str = MODULES,
    stack: str | None = None,
) -> Nodes:
    """The same with gradients that are averaged, as EAP-IG does it for nodes.

    `way`: "inputs" (the input walks from corrupted to clean in `steps`, by `rule`: left, right,
    midpoint), "activations" (one layer's z or one MLP's output walks at a time, and tells of its own
    nodes), "ends" (the clean and the corrupted run) or "clean" (attribution patching).
    """
    walk = Walk(way, steps, rule)
    given = contrast(model, clean, corrupted, metric, stack)
    chosen = chosen_sites(sites)
    if way == "activations" and set(chosen) - set(MODULES):
        raise ValueError(
            f"activations walk at {' and '.join(MODULES)}, so that of {', '.join(chosen)} only these can be "
            "estimated; take way='inputs' for others."
        )
    wanted = tuple(dict.fromkeys([*chosen, *(MODULES if way == "activations" else ())]))
    ends = (given.values(given.clean, *wanted), given.values(given.corrupted, *wanted))
    layers = {site: ends[0].layers(site) for site in chosen}
    change = {
        (site, layer): precise(ends[1][site, layer] - ends[0][site, layer])
        for site in chosen
        for layer in layers[site]
    }
    total: dict[Key, Tensor] = {}
    for step in walk.runs(given, chosen, ends):
        for key, grad in _gradients_of(step, list(change)).items():
            part = step.weight * (change[key] * precise(grad)).sum(-1)
            total[key] = total[key] + part if key in total else part
    effects = stacked(total, layers)
    return plain(NAMES[way], layers, effects)


def _gradients_of(step: Step, keys: list[Key]) -> dict[Key, Tensor]:
    if step.part is not None:
        keys = [key for key in keys if key == step.part]
    if not keys:
        return {}
    return step.ran.gradients_at(keys, keep=False)


def chosen_sites(sites: Sequence[str] | str) -> tuple[str, ...]:
    named = (sites,) if isinstance(sites, str) else tuple(dict.fromkeys(sites))
    for site in named:
        if site not in NODE_SITES:
            raise LookupError(unknown("node site", site, list(NODE_SITES)))
    if not named:
        raise ValueError(f"sites= names none; there are {', '.join(NODE_SITES)}.")
    return named


def stacked(parts: dict[Key, Tensor], layers: dict[str, list[int]]) -> dict[str, Tensor]:
    """[batch, layer, position(, head)] by site, from [batch, position(, head)] by site and layer."""
    return {
        site: torch.stack([parts[site, layer].cpu() for layer in of], 1)
        for site, of in layers.items()
    }
