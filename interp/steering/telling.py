"""A report in sentences: what each intervention changed, or that it changed nothing."""

from itertools import groupby
from typing import TYPE_CHECKING, Any

from interp.steering.measuring import unit

if TYPE_CHECKING:
    from interp.steering.report import Report

Row = dict[str, Any]  # of the report's tables


def sentences(report: "Report") -> list[str]:
    """One for each intervention, with what it counted, and one for each two that met."""
    table: list[Row] = report.table.to_dict("records")
    counts: list[Row] = report.counts.to_dict("records")
    said = []
    for name in report.names:
        counted: dict[str, float] = {}
        for row in counts:
            if row["intervention"] == name:
                counted[row["name"]] = counted.get(row["name"], 0) + row["number"]
        own = [row for row in table if row["intervention"] == name]
        said.append(_one(name, own, [f"{what} {number:g}" for what, number in counted.items()]))
    met: list[Row] = report.conflicts.to_dict("records")
    for pair, rows in groupby(met, lambda row: (row["first"], row["second"], row["what"])):
        said.append(_both(*pair, list(rows)))
    return said


def _one(name: str, own: list[Row], counted: list[str]) -> str:
    if not own:
        return f"{name}: nothing has run yet."
    forwards = int(sum(row["forwards"] for row in own))
    ended = [
        *counted,
        *([f"{forwards} forward{'s' if forwards > 1 else ''} of its own"] if forwards else []),
        f"{1000 * sum(row['seconds'] for row in own):.3g} ms",
    ]
    plan = [row for row in own if row["site"] == "prompt"]
    hooks = [row for row in own if row["site"] != "prompt"]
    sites = [list(rows) for _, rows in groupby(hooks, lambda row: row["site"])]
    changes = [_changed(rows) for rows in sites if _sum(rows, "changed")]
    if _sum(plan, "changed"):
        changes.insert(0, f"{_share(plan)} prompts changed")
    if changes:
        return f"{name}: {'; '.join([*changes, *ended])}."
    left = ", ".join(f"{_share(rows)} rows of {rows[0]['site']}" for rows in sites)
    left = left or "its plan has no hooks and leaves the prompt"
    return f"{name} changed nothing: {'; '.join([left, *ended])}."


def _changed(rows: list[Row]) -> str:
    site = rows[0]["site"]
    moved = sum(row["moved"] * row["changed"] for row in rows) / _sum(rows, "changed")
    layers = sum(row["changed"] > 0 for row in rows)
    where = "" if site == "logits" else f", in {layers} of {len(rows)} layers"
    how = f"{moved:.2g} of their {unit(site)} moved"
    if unit(site) == "size":
        how = f"by {moved:.2g} of their size"
    return f"{_share(rows)} rows of {site} changed{where}, {how}"


def _both(one: str, other: str, what: str, rows: list[Row]) -> str:
    layers = sorted({int(row["layer"]) for row in rows if what != "logits"})
    where = f" in layers {layers} of the {rows[0]['stack']} stack" if layers else ""
    return f"{one} and {other} both changed {_sum(rows, 'rows')} rows of {what}{where}."


def _sum(rows: list[Row], column: str) -> int:
    return int(sum(row[column] for row in rows))


def _share(rows: list[Row]) -> str:
    return f"{_sum(rows, 'changed')} of {_sum(rows, 'rows')}"
