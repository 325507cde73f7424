"""What was found, in sentences."""

from typing import TYPE_CHECKING, Any

import pandas

if TYPE_CHECKING:
    from analyses.attribution.asked import Asked

FAR = 0.5  # of the mean exact effect: estimates further off tell, at best, which nodes to patch
SMALL = 0.1  # of the clean metric: a corruption that changes less leaves little to attribute

Row = dict[str, Any]


def notes(asked: "Asked", table: Any, tables: dict[str, pandas.DataFrame]) -> list[str]:
    found = _ends(asked)
    if "agreement" in tables:
        found += _nearest(tables["agreement"]) + _wrong(table)
    else:
        found.append(
            "No exact sweep was made (exact=False): how far these estimates are off is not known."
        )
    if asked.refused:
        found.append(f"No edges: {asked.refused}")
    if "edges" in tables:
        found += _edges(asked, tables)
    return found


def _ends(asked: "Asked") -> list[str]:
    rows, stack = asked.read_off, asked.stack
    clean, corrupted = (
        sum(row[name] for row in rows) / len(rows) for name in ("clean", "corrupted")
    )
    said = [
        f"{len(rows)} records: {asked.settings.metric} is {clean:.2f} on clean prompts and {corrupted:.2f} "
        "on corrupted ones. Effects are of putting a corrupted value into the clean run (noising), "
        "metric(patched) - metric(clean); edges are scored by the loss, the opposite sign."
    ]
    if abs(clean - corrupted) < SMALL * abs(clean):
        said.append(
            "The corruption hardly changes the metric, so that there is little to attribute."
        )
    if stack.kv_heads < stack.heads:
        said.append(
            f"{stack.kv_heads} KV heads serve {stack.heads} query heads: keys and values are nodes and "
            "inputs of KV heads."
        )
    return said


def _nearest(table: Any) -> list[str]:
    said = []
    for component, part in table.groupby("component", sort=False):
        rows: list[Row] = part.dropna(subset="relative").to_dict("records")
        if not rows:
            continue
        best, worst = (pick(rows, key=lambda row: round(row["relative"], 6)) for pick in (min, max))
        ranks = (
            "" if pandas.isna(best["spearman"]) else f", rank correlation {best['spearman']:.2f}"
        )
        line = (
            f"{component}: nearest to exact patching is {best['method']}, off by {best['relative']:.0%} of "
            f"the mean exact effect ({best['error']:.3f}{ranks})"
        )
        if worst["method"] != best["method"]:
            line += f"; furthest is {worst['method']}, off by {worst['relative']:.0%}"
        said.append(f"{line}.")
        if best["relative"] > FAR:
            said.append(
                f"Of {component} nodes no estimate is within {FAR:.0%} of a mean effect: take them as a "
                "ranking, and patch what matters."
            )
    return said


def _wrong(table: Any) -> list[str]:
    """How many of the nodes that matter an estimate has with the wrong sign."""
    said = []
    for method, part in table.groupby("method", sort=False):
        large = part[part["exact"].abs() >= part["exact"].abs().quantile(0.9)]
        wrong: list[Row] = large[large["effect"] * large["exact"] < 0].to_dict("records")
        if wrong:
            worst = max(wrong, key=lambda row: abs(row["exact"]))
            head = "" if pandas.isna(worst["head"]) else f".{worst['head']}"
            said.append(
                f"{method} has the wrong sign for {len(wrong)} of the {len(large)} nodes with the largest "
                f"exact effects: {worst['component']} {worst['layer']}{head}, estimated "
                f"{worst['effect']:.3f}, is {worst['exact']:.3f}."
            )
    return said


def _edges(asked: "Asked", tables: dict[str, Any]) -> list[str]:
    said = []
    rows: list[Row] = tables["sums"].to_dict("records")
    for row in rows:
        part = tables["edges"][tables["edges"]["method"] == row["method"]].head(3)
        largest = ", ".join(
            f"{one['source']} -> {one['destination']} ({one['score']:.3f})"
            for one in part.to_dict("records")
        )
        said.append(
            f"{row['method']}: the edges out of the input sum to {row['out_of_input']:.2f}, and corrupting "
            f"it raises the loss by {row['change']:.2f}. Largest edges: {largest}."
        )
    said.append(
        "Edge scores are estimates; running a circuit of edges tells what they do together."
    )
    # The same model has the same reasons in every batch.
    return said + next(iter(asked.edges.values()))[0].notes
