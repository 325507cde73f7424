"""Values with their intervals, differences to plain and to controls, and what of a fault is mended."""

from collections.abc import Mapping
from typing import Any

import numpy
import pandas

from analyses.compare.asked import PLAIN, WHOLE, Asked
from analyses.compare.runs import Found, Run
from interp.evaluation.scored import Rate, ends, quotient, resampled

Drawn = dict[tuple[str, str], numpy.ndarray]  # by entry and rate, the values of each bootstrap draw
NONE = float("nan")
LEAST = 6  # records that changed; of 5 all may go one way by chance in more than one case of twenty


def tables(asked: Asked, found: Found) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    rates: list[dict[str, Any]] = []
    against: list[dict[str, Any]] = []
    for task, runs in found.runs.items():
        drawn = _drawn(runs, asked.settings.draws, asked.settings.seed)
        rows += [_row(asked, found, task, run, runs, drawn) for run in runs]
        rates += [row for run in runs for row in _rates(task, run, runs[0], drawn)]
        against += _against(task, found.headline, runs, drawn)
    made = {"table": pandas.DataFrame(rows), "rates": pandas.DataFrame(rates)}
    made["records"] = pandas.DataFrame(_records(found))
    more = {"against": against, "choices": found.choices, "draws": _draws(found),
            "refused": found.refused}  # fmt: skip
    return made | {name: pandas.DataFrame(own) for name, own in more.items() if own}


def _drawn(runs: list[Run], draws: int, seed: int) -> Drawn:
    """Every rate of every run over the same draws of records."""
    keys = [(run.entry.name, name) for run in runs for name in run.rates]
    columns = [
        part for run in runs for rate in run.rates.values() for part in (rate.top, rate.bottom)
    ]
    if len(columns[0]) < 2:  # one record says nothing of others
        return {key: numpy.full(1, NONE) for key in keys}
    sums = resampled(numpy.stack(columns, 1), draws, seed)
    return {key: quotient(sums[:, 2 * at], sums[:, 2 * at + 1]) for at, key in enumerate(keys)}


def _row(
    asked: Asked, found: Found, task: str, run: Run, runs: list[Run], drawn: Drawn
) -> dict[str, Any]:
    name, plain = found.headline, runs[0]
    rate = run.rates[name]
    own, before = drawn[run.entry.name, name], drawn[PLAIN, name]
    row = {"task": task, "name": run.entry.name, "kind": run.entry.kind, "n": len(rate.top)}
    row |= _with_ends("value", rate.value, own, "")
    same = run is plain
    off = NONE if same else rate.value - plain.rates[name].value
    row |= _with_ends("difference", off, numpy.full(1, NONE) if same else own - before, "diff_")
    row |= _changed(run, plain, name)
    if "yes_rate" in run.rates:
        row["yes_rate"] = run.rates["yes_rate"].value
    row |= _recovered(asked, task, run, runs, name, drawn)
    if any(len(one.scores) > 1 for one in runs):
        values = [one.rates[name].value for one in run.scores]
        row["sd"] = float(numpy.std(values, ddof=1)) if len(values) > 1 else NONE
    row |= {"seconds": run.seconds, "times": run.seconds / plain.seconds}
    judged = run.entry.kind not in (PLAIN, WHOLE)
    return row | {"verdict": _verdict(row, rate, plain.rates[name]) if judged else ""}


def _with_ends(name: str, value: float, drawn: numpy.ndarray, before: str) -> dict[str, float]:
    low, high = ends(drawn)
    return {name: value, f"{before}low": low, f"{before}high": high}


def _changed(run: Run, plain: Run, name: str) -> dict[str, Any]:
    """Records that are better, and worse, than plain; none where neither is better."""
    rate, before = run.rates[name], plain.rates[name]
    sign = {"higher": 1, "lower": -1}.get(rate.better, 0)
    off = numpy.nan_to_num(sign * (rate.by_record - before.by_record))
    return {"helped": int((off > 0).sum()), "hurt": int((off < 0).sum())}


def _verdict(row: Mapping[str, Any], rate: Rate, before: Rate, other: str = "plain") -> str:
    """What the interval of the difference says, where enough records changed."""
    low, high = row["diff_low"], row["diff_high"]
    changed = (rate.top != before.top) | (rate.bottom != before.bottom)
    if not (low > 0 or high < 0) or changed.sum() < LEAST:
        return f"not told from {other}"
    if rate.better not in ("higher", "lower"):
        return "higher" if low > 0 else "lower"
    return "helps" if (low > 0) == (rate.better == "higher") else "hurts"


def _recovered(
    asked: Asked, task: str, run: Run, runs: list[Run], name: str, drawn: Drawn
) -> dict[str, float]:
    """The share of the way from the broken model to the whole one; NaN where there is no way to go."""
    reference = asked.settings.reference
    whole = next((one for one in runs if one.entry.kind == WHOLE), None)
    if whole is None and reference is None:
        return {}
    plain = runs[0].rates[name].value
    if whole is not None:
        goal, goals = whole.rates[name].value, drawn[WHOLE, name]
    else:
        goal = float(reference[task] if isinstance(reference, Mapping) else reference)
        goals = numpy.full_like(drawn[PLAIN, name], goal)
    low, high = ends(goals - drawn[PLAIN, name])
    if run.entry.kind in (PLAIN, WHOLE) or not (low > 0 or high < 0):
        return dict.fromkeys(("recovered", "recovered_low", "recovered_high"), NONE)
    share = quotient(run.rates[name].value - plain, goal - plain)
    shares = quotient(drawn[run.entry.name, name] - drawn[PLAIN, name], goals - drawn[PLAIN, name])
    return _with_ends("recovered", float(share), shares, "recovered_")


def _rates(task: str, run: Run, plain: Run, drawn: Drawn) -> list[dict[str, Any]]:
    rows = []
    for name, rate in run.rates.items():
        own, before = drawn[run.entry.name, name], drawn[PLAIN, name]
        same = run is plain
        row = {"task": task, "name": run.entry.name, "rate": name, "better": rate.better}
        row |= _with_ends("value", rate.value, own, "")
        off = NONE if same else rate.value - plain.rates[name].value
        row |= _with_ends("difference", off, numpy.full(1, NONE) if same else own - before, "diff_")
        rows.append(row)
    return rows


def _against(task: str, name: str, runs: list[Run], drawn: Drawn) -> list[dict[str, Any]]:
    """Each intervention less each control."""
    rows = []
    for run in (one for one in runs if one.entry.kind == "intervention"):
        for control in (one for one in runs if one.entry.kind == "control"):
            off = run.rates[name].value - control.rates[name].value
            apart = drawn[run.entry.name, name] - drawn[control.entry.name, name]
            row = {"task": task, "name": run.entry.name, "control": control.entry.name}
            row |= _with_ends("difference", off, apart, "diff_")
            verdict = _verdict(row, run.rates[name], control.rates[name], "it")
            rows.append(row | {"verdict": verdict})
    return rows


def _draws(found: Found) -> list[dict[str, Any]]:
    """Each draw of the controls that are drawn."""
    return [
        {"task": task, "name": run.entry.name, "draw": number, "heads": str(getattr(item, "heads", "")),
         "value": scored.rates[found.headline].value}
        for task, runs in found.runs.items()
        for run in runs
        if len(run.scores) > 1
        for number, (item, scored) in enumerate(zip(run.entry.items, run.scores, strict=True))
    ]  # fmt: skip


def _records(found: Found) -> list[dict[str, Any]]:
    """What was said to each record, and what it scored; of draws the first one's words."""
    rows = []
    for task, runs in found.runs.items():
        for run in runs:
            values = run.rates[found.headline].by_record
            table = run.scores[0].table
            said = table["said"] if "said" in table else [""] * len(table)
            rows += [
                {"task": task, "record": number, "name": run.entry.name, "score": float(value),
                 "said": str(text)}
                for number, (value, text) in enumerate(zip(values, said, strict=True))
            ]  # fmt: skip
    return rows
