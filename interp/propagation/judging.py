"""Whether rankings of positions are better than random ones: curves, areas, intervals, agreement."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from interp import relevance
from interp.propagation.example import Example

if TYPE_CHECKING:
    import pandas

CONTROL = "random"
# Each quantity, and whether more of it is better.
CURVES = {"deletion": False, "insertion": True}
AOPC = {"comprehensiveness": True, "sufficiency": False}

LEAST = 6  # records: five that all lie on one side of chance do so in 1 of 16 cases by chance

Values = dict[str, Tensor]  # method -> relevance [position]
Found = dict[
    str, dict[str, Tensor]
]  # method, quantity -> of one example [share]; of all [record, share]


def judged(
    example: Example, values: Values, shares: Sequence[float], draws: int, chance: torch.Generator
) -> Found:
    """The answer's probability along each method's ranking, and along random ones in the mean."""
    orders = {
        name: [relevance.ranking(each, example.ranked, chance)] for name, each in values.items()
    }
    nothing = torch.zeros(example.length)
    orders[CONTROL] = [relevance.ranking(nothing, example.ranked, chance) for _ in range(draws)]
    kept = [
        take(order, along, example.length)
        for several in orders.values()
        for order in several
        for along in (shares, relevance.AOPC_SHARES)
        for take in (relevance.without_top, relevance.with_top)
    ]
    chances = list(example.log_odds(torch.cat(kept)).sigmoid().split([len(part) for part in kept]))
    found: Found = {}
    for name, several in orders.items():
        own, chances = chances[: 4 * len(several)], chances[4 * len(several) :]
        means = [torch.stack(own[place::4]).mean(0) for place in range(4)]
        found[name] = dict(zip([*CURVES, *AOPC], means, strict=True))
    return found


def stacked(found: list[Found]) -> Found:
    return {
        name: {quantity: torch.stack([each[name][quantity] for each in found]) for quantity in own}
        for name, own in found[0].items()
    }


def areas(found: Found, shares: Sequence[float], picks: Tensor) -> "pandas.DataFrame":
    """Areas under both curves, a row for each method and curve."""
    measured = {
        name: {curve: relevance.area(shares, own[curve]) for curve in CURVES}
        for name, own in found.items()
    }
    return _compared(measured, CURVES, "curve", "auc", picks)


def changes(found: Found, picks: Tensor) -> "pandas.DataFrame":
    """Comprehensiveness and sufficiency, a row for each method and quantity."""
    full = found[CONTROL]["deletion"][:, 0]
    measured = {
        name: {part: relevance.aopc(full, own[part]) for part in AOPC}
        for name, own in found.items()
    }
    return _compared(measured, AOPC, "quantity", "aopc", picks)


def curves(found: Found, shares: Sequence[float]) -> "pandas.DataFrame":
    """Both curves of each method, mean over records."""
    import pandas

    rows = [
        {"method": name, "share": share}
        | {curve: float(own[curve][:, place].mean()) for curve in CURVES}
        for name, own in found.items()
        for place, share in enumerate(shares)
    ]
    return pandas.DataFrame(rows)


def agreement(examples: list[Example], values: list[Values], picks: Tensor) -> "pandas.DataFrame":
    """Spearman's rank correlation with leave_one_out over ranked positions, mean over records.

    A method that says the same of all positions ranks nothing, and agrees as 0.
    """
    import pandas

    rows = []
    for name in values[0] if "leave_one_out" in values[0] else ():
        if name == "leave_one_out":
            continue
        each = torch.zeros(len(examples))
        for place, (example, own) in enumerate(zip(examples, values, strict=True)):
            one, other = own[name][example.ranked], own["leave_one_out"][example.ranked]
            pair = pandas.DataFrame({"one": one.tolist(), "other": other.tolist()})
            each[place] = pair.corr("spearman").iloc[0, 1]
        each = each.nan_to_num(0.0)
        low, high = _interval(each, picks)
        rows.append({"method": name, "spearman": float(each.mean()), "low": low, "high": high})
    return pandas.DataFrame(rows, columns=["method", "spearman", "low", "high"])


def _compared(
    measured: Found, better: dict[str, bool], kind: str, value: str, picks: Tensor
) -> "pandas.DataFrame":
    """A row for each method and quantity, beside the random control on the same records."""
    import pandas

    rows = []
    for name, own in measured.items():
        for part, more in better.items():
            control = measured[CONTROL][part]
            gain = own[part] - control if more else control - own[part]
            low, high = _interval(own[part], picks)
            least, most = _interval(gain, picks)
            rows.append(
                {"method": name, kind: part, value: float(own[part].mean()), "low": low}
                | {"high": high, "random": float(control.mean()), "gain": float(gain.mean())}
                | {
                    "gain_low": least,
                    "gain_high": most,
                    "beats": bool(least > 0 and len(gain) >= LEAST),
                }
            )
    return pandas.DataFrame(rows)


def _interval(values: Tensor, picks: Tensor) -> tuple[float, float]:
    """95% bootstrap interval of the mean; of a single value there is none."""
    if len(values) < 2:
        return float("nan"), float("nan")
    means = values[picks].mean(1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
    return low, high
