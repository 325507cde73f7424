"""From scores to names: which labels a head earned, and which pairs of heads stand out."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas

FIXED = 0.9  # share of tokens at which a positional head's peak stands at one offset
COPIES = 0.5  # share of names among the first five that makes a head one that copies
RETRIEVES = 0.1
APART = 0.1  # of the mean: heads whose spans differ by less are neither local nor global
OTHER = "other"
# Columns whose score alone earns a label.
BY_SCORE = {
    "previous": "previous token",
    "duplicate": "duplicate token",
    "induction": "induction",
    "seeing": "visual",
    "nearer": "neighbours",
    "to_class": "class token",
}
# What a head rests on, and how far it looks, go after what it does.
RESTS, LOOKS = ("sink", "positional", "class token"), ("local", "global")
MOVERS = {"name_copy": "mover", "negative_copy": "negative mover"}


@dataclass(frozen=True)
class Limits:
    """What earns a label."""

    strong: float
    weak: float
    epsilon: float
    quantile: float


@dataclass(frozen=True)
class Label:
    """A name that a head earned."""

    name: str
    score: float
    strong: bool

    def __str__(self) -> str:
        return self.name if self.strong else f"{self.name} (weak)"

    @property
    def order(self) -> tuple[bool, bool, bool, bool, float]:
        """The least comes first. Retrieval asks for a peak alone, movers for more."""
        least = self.name == "retrieval"
        return (self.name in LOOKS, not self.strong, self.name in RESTS, least, -self.score)


def named(table: "pandas.DataFrame", limits: Limits) -> "pandas.DataFrame":
    """The table with `type` and `types` behind layer and head."""
    far = _far(table, limits.quantile)
    found = [
        sorted([*_labels(row, limits), *far.get(number, [])], key=lambda label: label.order)
        for number, row in enumerate(table.to_dict("records"))
    ]
    table.insert(2, "type", [str(labels[0]) if labels else OTHER for labels in found])
    table.insert(3, "types", [", ".join(map(str, labels)) for labels in found])
    return table


def _labels(row: dict[Any, Any], limits: Limits) -> list[Label]:
    found = []

    def earned(name: str, score: float, weak: float = limits.weak, strong: float = limits.strong):
        if score > weak:
            found.append(Label(name, score, score > strong))

    for column, name in BY_SCORE.items():
        earned(name, row.get(column, 0.0))
    for column, name in MOVERS.items():
        if row.get(column, 0.0) >= COPIES:
            earned(name, row.get("answer", 0.0))
    if row.get("retrieval", 0.0) >= RETRIEVES:
        found.append(Label("retrieval", row["retrieval"], row["retrieval"] >= limits.strong))
    earned("sink", row.get("sink", 0.0), limits.epsilon, max(limits.epsilon, limits.strong))
    if row.get("positional", 0.0) >= FIXED:
        found.append(Label("positional", row["positional"], True))
    return found


def _far(table: "pandas.DataFrame", quantile: float) -> dict[int, list[Label]]:
    """Local and global heads, by row: the lowest and highest share by span."""
    column = next((name for name in ("span", "distance") if name in table), None)
    if column is None:
        return {}
    values = table[column].to_numpy()
    if values.max() - values.min() < APART * abs(values.mean()):
        return {}
    order = values.argsort(kind="stable")
    count = int(quantile * len(order))
    ends = {"local": order[:count], "global": order[len(order) - count :]}
    return {int(at): [Label(name, 0.0, True)] for name, places in ends.items() for at in places}


def composed(
    scores: dict[str, Tensor], table: "pandas.DataFrame", layers: list[int], count: int, weak: float
) -> tuple["pandas.DataFrame", list[str]]:
    """The strongest pairs of each kind, and what can be said of previous-token and induction heads."""
    import pandas

    types = dict(zip(zip(table["layer"], table["head"], strict=True), table["types"], strict=True))
    rows, notes = [], []
    for name, score in scores.items():
        kind, heads = name.removeprefix("composition "), score.shape[1]
        flat = score.flatten()
        order = flat.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
        known = int(flat.isfinite().sum())
        for rank, place in enumerate(order[: min(count, known)].tolist()):
            early, late = divmod(place, score[0, 0].numel())
            first = (layers[early // heads], early % heads)
            second = (layers[late // heads], late % heads)
            rows.append(
                {"kind": kind, "rank": rank + 1, "score": float(flat[place])}
                | {"earlier_layer": first[0], "earlier_head": first[1], "earlier": types[first]}
                | {"later_layer": second[0], "later_head": second[1], "later": types[second]}
            )
        if kind == "K" and known:
            notes += _previous_to_induction(score, table, weak)
    return pandas.DataFrame(rows), notes


def _previous_to_induction(score: Tensor, table: "pandas.DataFrame", weak: float) -> list[str]:
    """Whether induction heads look for what previous-token heads wrote."""
    if "induction" not in table:
        return []
    shape = score.shape[:2]
    one = torch.tensor((table["previous"] > weak).to_numpy()).view(shape)
    two = torch.tensor((table["induction"] > weak).to_numpy()).view(shape)
    both = (one[..., None, None] & two) & score.isfinite()
    if not bool(both.any()):
        return ["No previous-token head stands before an induction head, so that none can compose."]
    own, rest = score[both], score[score.isfinite()]
    place = int((rest > own.max()).sum()) + 1
    return [
        "K-composition of previous-token heads with later induction heads: "
        f"{float(own.mean()):.3f} over chance, against {float(rest.mean()):.3f} of all pairs; the strongest, "
        f"{float(own.max()):.3f}, is number {place} of {len(rest)}."
    ]
