"""From effects to circuits of heads, their statuses over checkpoints, and what the tests come to."""

import math
from collections.abc import Sequence
from typing import Any

import pandas
import torch
from torch import Tensor

from analyses.emergent_heads.asked import Settings
from analyses.emergent_heads.judging import ONLY, SILENCED, Judged, listed
from analyses.emergent_heads.measures import Measured
from interp.statistics import NORMAL, standard_error, wilson

TINY = 1e-6  # keeps the effect of a head that does nothing at 0
STATUSES = {
    (False, True): "emergent", (True, True): "retained",
    (True, False): "lost", (False, False): "neither",
}  # fmt: skip


def membership(found: Sequence[Measured], order: Sequence[str], asked: Settings) -> Any:
    """A row for each task, checkpoint and head: its importance, and whether it is in the circuit."""
    last = {part.task: part.change for part in found if part.checkpoint == order[-1]}
    rows = []
    for part in sorted(found, key=lambda one: order.index(one.checkpoint)):
        shares = part.shares
        for (layer, head), values in part.effects.items():
            mean, low, high = mean_interval(values / last[part.task])
            own, own_low, own_high = mean_interval(values / (part.change or math.nan))
            inside = (
                _reaches(low, high, asked.least)
                if part.inside is None
                else (layer, head) in part.inside
            )
            of_own = None if part.inside is not None else _reaches(own_low, own_high, asked.least)
            rows.append(
                {"task": part.task, "checkpoint": part.checkpoint, "layer": layer, "head": head,
                 "importance": mean, "low": low, "high": high, "normalised": shares[layer, head],
                 "of_own": own, "own_low": own_low, "own_high": own_high, "much_of_own": of_own,
                 "in_circuit": inside, "estimate": part.inside is not None}
            )  # fmt: skip
    return pandas.DataFrame(rows)


def _reaches(low: float, high: float, least: float) -> bool:
    """Whether a whole interval is `least` or more in size."""
    return low >= least or high <= -least


def status_table(members: Any, found: Sequence[Measured], order: Sequence[str]) -> Any:
    """A row for each task and head."""
    rows = []
    for (task, layer, head), own in members.groupby(["task", "layer", "head"], sort=False):
        own = own.set_index("checkpoint").loc[list(order)]
        start, end = own.iloc[0], own.iloc[-1]
        inside = own["in_circuit"].astype(bool)
        rows.append(
            {"task": task, "layer": int(layer), "head": int(head),
             "status": STATUSES[bool(inside.iloc[0]), bool(inside.iloc[-1])],
             "before": start["importance"], "before_low": start["low"], "before_high": start["high"],
             "after": end["importance"], "after_low": end["low"], "after_high": end["high"],
             "before_own": start["of_own"],
             "in_before": bool(inside.iloc[0]), "in_after": bool(inside.iloc[-1]),
             "first": next((name for name, there in inside.items() if there), None),
             "frequency": float(inside.mean()), "effect": _effect(own["normalised"].tolist()),
             "grew": _grew(inside, start["much_of_own"])}
        )  # fmt: skip
    return pandas.DataFrame(rows)


def _grew(inside: Any, of_own: bool | None) -> bool | None:
    """Of an emergent head: whether it did as large a share of the little that the first one could do."""
    return None if of_own is None else bool(inside.iloc[-1] and not inside.iloc[0] and of_own)


def _effect(shares: list[float]) -> float:
    """How much more of all importance is the head's at the end; mean over the earlier checkpoints."""
    *earlier, last = shares
    return sum((last - one) / (last + one + TINY) for one in earlier) / len(earlier)


def checkpoints_table(found: Sequence[Measured], members: Any, order: Sequence[str]) -> Any:
    sizes = members.groupby(["task", "checkpoint"])["in_circuit"].sum()
    rows = []
    for part in sorted(found, key=lambda one: order.index(one.checkpoint)):
        low, high = wilson(int(part.held_out.right.sum()), len(part.held_out.right))
        metric, metric_low, metric_high = mean_interval(part.held_out.metric)
        rows.append(
            {"task": part.task, "checkpoint": part.checkpoint,
             "accuracy": float(part.held_out.right.mean()), "low": low, "high": high,
             "metric": metric, "metric_low": metric_low, "metric_high": metric_high,
             "heads": int(sizes[part.task, part.checkpoint]), "change": part.change,
             "records": len(part.held_out.right)}
        )  # fmt: skip
    return pandas.DataFrame(rows).sort_values("task", kind="stable", ignore_index=True)


def tests_table(tests: Sequence[Judged], found: Sequence[Measured], order: Sequence[str]) -> Any:
    """A row for each task and condition; random sets of heads together in one."""
    begun = {part.task: part.held_out for part in found if part.checkpoint == order[0]}
    rows = []
    for task in dict.fromkeys(one.task for one in tests):
        own = [one for one in tests if one.task == task and not one.condition.startswith(ONLY)]
        plain, start = own[0].answers, begun[task]
        gain = float(plain.right.mean() - start.right.mean())
        sure = _told(plain.right - start.right)
        for condition in dict.fromkeys(one.condition for one in own):
            parts = [one for one in own if one.condition == condition]
            right = torch.stack([one.answers.right for one in parts])
            metric = torch.stack([one.answers.metric for one in parts])
            rows.append(
                {"task": task, "condition": condition, "heads": len(parts[0].heads), "sets": len(parts)}
                | _accuracies(right) | _metrics(metric)
                | {"removed": (float(plain.right.mean()) - float(right.mean())) / gain
                   if sure else float("nan")}
            )  # fmt: skip
        rows.append(
            {"task": task, "condition": order[0], "heads": 0, "sets": 1}
            | _accuracies(start.right[None]) | _metrics(start.metric[None])
            | {"removed": 1.0 if sure else float("nan")}
        )  # fmt: skip
    return pandas.DataFrame(rows)


def _accuracies(right: Tensor) -> dict[str, float]:
    """[set, record]. Of one set Wilson's interval over records; of several, 95 % of the sets."""
    if len(right) == 1:
        low, high = wilson(int(right.sum()), right.shape[1])
    else:
        low, high = _quantiles(right.mean(1))
    return {"accuracy": float(right.mean()), "low": low, "high": high}


def _metrics(metric: Tensor) -> dict[str, float]:
    if len(metric) == 1:
        mean, low, high = mean_interval(metric[0])
    else:
        mean, (low, high) = float(metric.mean()), _quantiles(metric.mean(1))
    return {"metric": mean, "metric_low": low, "metric_high": high}


def _quantiles(values: Tensor) -> tuple[float, float]:
    low, high = torch.quantile(values.double(), torch.tensor([0.025, 0.975]).double()).tolist()
    return low, high


def draws_table(tests: Sequence[Judged]) -> Any:
    """A row for each random set, and whether it hurts the accuracy as much as the emergent heads."""
    columns = ("task", "draw", "heads", "accuracy", "metric", "as_much")
    rows = []
    for task in dict.fromkeys(one.task for one in tests):
        own = [one for one in tests if one.task == task]
        goal = [one for one in own if one.condition == SILENCED]
        for one in own:
            if one.draw is None:
                continue
            accuracy = float(one.answers.right.mean())
            rows.append(
                {"task": task, "draw": one.draw, "heads": listed(one.heads), "accuracy": accuracy,
                 "metric": float(one.answers.metric.mean()),
                 "as_much": accuracy <= float(goal[0].answers.right.mean())}
            )  # fmt: skip
    return pandas.DataFrame(rows, columns=list(columns))


def parts_table(tests: Sequence[Judged]) -> Any:
    """Emergent heads silenced one alone, and those of a layer together."""
    columns = (
        "task",
        "heads",
        "count",
        "accuracy",
        "low",
        "high",
        "metric",
        "metric_low",
        "metric_high",
    )
    rows = [
        {"task": one.task, "heads": listed(one.heads), "count": len(one.heads)}
        | _accuracies(one.answers.right[None])
        | _metrics(one.answers.metric[None])
        for one in tests
        if one.condition.startswith(ONLY)
    ]
    return pandas.DataFrame(rows, columns=list(columns))


def mean_interval(values: Tensor) -> tuple[float, float, float]:
    """A mean and its 95 % interval; not a number at the ends where there is one value."""
    mean, error = float(values.mean()), float(standard_error(values))
    return mean, mean - NORMAL * error, mean + NORMAL * error


def _told(change: Tensor) -> bool:
    """Whether paired differences have a mean above or below 0, at 95 %."""
    mean, low, high = mean_interval(change)
    return mean != 0 and not (low <= 0 <= high)
