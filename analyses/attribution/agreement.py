"""Tables of nodes, and of how far estimates are from what patching does."""

from typing import TYPE_CHECKING, Any

import pandas
import torch

if TYPE_CHECKING:
    from analyses.attribution.asked import Asked

COMPONENTS = {"z": "head", "mlp_out": "mlp", "q": "query", "k": "key", "v": "value",
              "attn_out": "attention", "resid_pre": "stream"}  # fmt: skip
COLUMNS = ("component", "layer", "head", "method", "effect", "magnitude", "estimate")
EXACT = ("exact", "exact_size")
LEAST = 3  # nodes that a rank correlation needs


def node_table(asked: "Asked") -> pandas.DataFrame:
    """A row for each node and method, means over records."""
    rows: list[dict[str, Any]] = []
    for (method, site), parts in asked.effects.items():
        effect = torch.cat(parts).mean(0)
        columns = {"effect": effect, "magnitude": torch.cat(asked.sizes[method, site]).mean(0)}
        if site in asked.exact:
            swept = torch.cat(asked.exact[site])
            columns |= {"exact": swept.mean(0), "exact_size": swept.abs().mean(0)}
        for order, layer in enumerate(asked.layers[site]):
            for head in range(effect.shape[1]) if effect.ndim == 2 else [None]:
                at = (order,) if head is None else (order, head)
                values = {name: float(value[at]) for name, value in columns.items()}
                rows.append({"component": COMPONENTS[site], "layer": layer, "head": head,
                             "method": method, "estimate": True} | values)  # fmt: skip
    names = [*COLUMNS, *(EXACT if asked.exact else ())]
    return pandas.DataFrame(rows, columns=names).astype({"head": "Int64"})


def agreement(table: Any) -> pandas.DataFrame:
    """How far each method is from the exact effects, for each component."""
    rows = []
    for (method, component), part in table.groupby(["method", "component"], sort=False):
        error = float((part["effect"] - part["exact"]).abs().mean())
        size = float(part["exact"].abs().mean())
        rows.append(
            {"method": method, "component": component, "nodes": len(part),
             "spearman": spearman(part["effect"], part["exact"]),
             "spearman_size": spearman(part["magnitude"], part["exact_size"]),
             "error": error, "relative": error / size if size else float("nan")}
        )  # fmt: skip
    return pandas.DataFrame(rows)


def spearman(one: Any, other: Any) -> float:
    """Correlation of ranks; not a number for fewer than three nodes, or where all are alike."""
    if len(one) < LEAST or one.nunique() < 2 or other.nunique() < 2:
        return float("nan")
    return float(one.rank().corr(other.rank()))
