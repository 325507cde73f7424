"""Effects and scores of heads as columns of one table, a row for each head."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from interp.circuits.graph import Node
from interp.roles.looking import attending
from interp.statistics import NORMAL

if TYPE_CHECKING:
    from interp.structure import Stack

Mask = Any  # a Series of True and False, which the stubs of pandas do not tell from numbers


def empty(stack: "Stack") -> pandas.DataFrame:
    """A row for each head of the stack."""
    rows = [(layer, head) for layer in attending(stack) for head in range(stack.heads)]
    return pandas.DataFrame(rows, columns=["layer", "head"])


def add_scores(table: pandas.DataFrame, scores: Mapping[str, Tensor]) -> None:
    """Scores [layer, head], in the order of the rows."""
    for name, values in scores.items():
        table[name] = values.flatten().numpy()


def add_share(
    table: pandas.DataFrame,
    name: str,
    senders: Sequence[Node] | None,
    share: Tensor | None = None,
    error: Tensor | None = None,
) -> None:
    """Shares of senders with their 95 % intervals, as NAME, NAME_low, NAME_high; NaN of other heads."""
    known = {}
    if senders is not None and share is not None and error is not None:
        rows = zip(senders, share.tolist(), error.tolist(), strict=True)
        known = {(one.layer, one.head): numbers for one, *numbers in rows}
    keys = zip(table["layer"], table["head"], strict=True)
    pairs = torch.tensor([known.get(key, [float("nan")] * 2) for key in keys])
    table[name] = pairs[:, 0].numpy()
    table[f"{name}_low"] = (pairs[:, 0] - NORMAL * pairs[:, 1]).numpy()
    table[f"{name}_high"] = (pairs[:, 0] + NORMAL * pairs[:, 1]).numpy()


def supports(table: pandas.DataFrame, name: str, least: float) -> Mask:
    """Heads whose share is at least so much, with an interval above 0."""
    return (table[name] >= least) & (table[f"{name}_low"] > 0)


def opposes(table: pandas.DataFrame, name: str, least: float) -> Mask:
    """Heads whose share is as much below 0."""
    return (table[name] <= -least) & (table[f"{name}_high"] < 0)


def heads_of(table: pandas.DataFrame, chosen: Mask) -> list[tuple[int, int]]:
    rows = table[chosen]
    return [
        (int(layer), int(head)) for layer, head in zip(rows["layer"], rows["head"], strict=True)
    ]
