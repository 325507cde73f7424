"""What each head does to the answer by way of chosen receivers alone: path patching.

Two operators are published and differ (arXiv 2310.08744, arXiv 2211.00593); see `interp.circuits.paths`.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas

from analyses import analysis
from interp.asking import choose_stack
from interp.circuits.asked import Receiver, check_receivers, check_senders
from interp.circuits.paths import OPERATORS, PathEffects
from interp.circuits.staged import task_effects
from interp.pairs import METRICS
from interp.registry import unknown
from interp.result import Result
from interp.statistics import NORMAL, standard_error

if TYPE_CHECKING:
    from interp.model import Model
    from interp.structure import Stack

BY_CHANCE = 0.05  # of intervals that hold no 0 although nothing is there
FIRST = 5  # heads to name
NOTHING = 1e-5  # of the metric's size: rounding
WORTH = 0.01  # the least share of one that is named
LEAST = 30  # records below which an interval of a mean is too narrow


@analysis
def path_patching(
    model: "Model",
    task: Any,
    *,
    receivers: str | Sequence[Any] = "logits",
    operator: str = "circuit_reuse",
    position: Any = "last",
    freeze_mlps: bool = False,
    metric: str = "logit_diff",
    first: bool = False,
    stack: str | None = None,
    batch: int = 16,
) -> Result:
    """A row for each head before the last receiver: what corrupting its path to the receivers changes.

    Every record needs a counterfactual of its own length. `receivers`: "logits" (the final residual
    stream, which leaves each head its direct path and that through MLPs), or [(layer, head, "q"), ...]
    with "q", "k" or "v". `position`, where heads are corrupted: "last", another span of the task ("S2"), an
    index, several of them, or "all". `operator`: "circuit_reuse" holds all other heads as they are in the
    clean run at that position, and changes receivers there; "ioi" holds them, and changes receivers, at
    every position. `freeze_mlps` holds the MLPs likewise. Several heads go through one forward of `batch`
    rows each, or fewer.

    Exact, in one direction: parts of the corrupted run in the clean one. `raw` is how much the metric of
    the clean answers moves (below 0: the path supports the answer), `share` how far on the way from the
    clean to the corrupted mean, a ratio of means: 0 nothing, 1 all of it, below 0 a path that works
    against the answer. `.._low` and `.._high` are 95 % intervals over records.

    Tables: `records` (`clean` and `corrupted` metric of each). Tensor `patched`: the metric with each
    row's head patched, [row of the table, record].
    """
    tower = _check(model, stack, operator, metric, batch)
    received = check_receivers(tower, receivers)
    check_senders(tower, None, received)
    found = task_effects(
        model, task, receivers, operator, position, freeze_mlps, metric, first, tower.name, batch,
        "path_patching",
    )  # fmt: skip
    table = _table(found)
    records = pandas.DataFrame(
        {"record": range(len(found.clean)), "clean": found.clean, "corrupted": found.corrupted}
    )
    notes = _notes(table, found, metric, tower, received)
    return Result("path_patching", table, {"records": records}, {"patched": found.patched}, notes)


def _check(model: "Model", stack: str | None, operator: str, metric: str, batch: int) -> "Stack":
    """What can be refused before anything runs."""
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least 1.")
    for noun, given, known in (("operator", operator, OPERATORS), ("metric", metric, METRICS)):
        if given not in known:
            raise LookupError(unknown(noun, given, list(known)))
    return choose_stack(model.stacks, stack, model.name)


def _table(found: PathEffects) -> Any:
    way = found.corrupted - found.clean
    if float(way.mean().abs()) <= 1e-6 * max(1.0, float(found.clean.abs().mean())):
        raise ValueError(
            "the counterfactuals do not change the metric's mean, so that no share of the change can be "
            "told; give counterfactuals that change the answer, or another metric=."
        )
    rows, shares, errors = [], found.share, found.share_error
    for number, sender in enumerate(found.senders):
        raw = found.raw[number]
        row = {"layer": sender.layer, "head": sender.head}
        for name, mean, error in (
            ("share", float(shares[number]), float(errors[number])),
            ("raw", float(raw.mean()), float(standard_error(raw))),
        ):
            ends = (mean - NORMAL * error, mean + NORMAL * error)
            row |= {name: mean, f"{name}_low": ends[0], f"{name}_high": ends[1]}
        rows.append(row)
    return pandas.DataFrame(rows)


def _notes(
    table: Any,
    found: PathEffects,
    metric: str,
    stack: "Stack",
    receivers: list[Receiver],
) -> list[str]:
    less = int((found.corrupted < found.clean).sum())
    count = len(found.clean)
    said = [
        f"{metric} is {float(found.clean.mean()):.2f} on the clean prompts and "
        f"{float(found.corrupted.mean()):.2f} on the corrupted ones; corrupted is less in {less} of {count} "
        "records."
    ]
    helps, harms = table[table["share_low"] > 0], table[table["share_high"] < 0]
    small = sum(int((part["share"].abs() < WORTH).sum()) for part in (helps, harms))
    expected = BY_CHANCE * len(table)
    if receivers and float(found.raw.abs().max()) < NOTHING * max(
        1.0, float(found.clean.abs().mean())
    ):
        said.append(
            "No head moves the metric by way of these receivers by more than rounding: nothing leads from "
            "them, at this position, to what is read (of queries in the last layer, only the last position's "
            "count), or from the senders to them. Ask with another position=, or of other receivers."
        )
    elif count < 2:
        said.append("One record has no interval: which heads matter is not told from chance.")
    else:
        said.append(
            f"{len(helps)} of {len(table)} heads support the answer on this path and {len(harms)} work "
            f"against it (95 % intervals without 0; of heads that do nothing, about {expected:.1f} of "
            f"{len(table)} would have one by chance); {small} of those by less than {WORTH:.0%}."
            f"{_named('Most', helps.nlargest(FIRST, 'share'))}"
            f"{_named('Against', harms.nsmallest(FIRST, 'share'))}"
        )
    if 1 < count < LEAST:
        said.append(f"{count} records are few: intervals of means come out too narrow.")
    total = float(table["share"].sum())
    said.append(
        f"The shares add up to {total:.2f}; they need not to 1, since each head is patched by itself."
    )
    said += _about_receivers(stack, receivers)
    return said


def _about_receivers(stack: "Stack", receivers: list[Receiver]) -> list[str]:
    said = []
    layers = sorted({layer for layer, _, _ in receivers})
    if stack.kv_heads < stack.heads and any(part != "q" for _, _, part in receivers):
        shared = stack.heads // stack.kv_heads
        said.append(
            f"Keys and values are shared by {shared} heads each here: what arrives at a receiver's key or "
            "value reaches the heads that share it, too."
        )
    if len(layers) > 1:
        said.append(
            f"Receivers stand in layers {layers}: heads of layer {layers[0]} and above reach only those "
            "after them."
        )
    return said


def _named(title: str, rows: Any) -> str:
    rows = rows[rows["share"].abs() >= WORTH]
    if not len(rows):
        return ""
    listed = ", ".join(
        f"{int(row['layer'])}.{int(row['head'])} ({row['share']:+.2f})"
        for _, row in rows.iterrows()
    )
    return f" {title}: {listed}."
