"""The results as markdown."""

from collections.abc import Iterator, Sequence

from benchmarks.children import Row
from benchmarks.goals import Goal, idle_title
from benchmarks.ways import WAYS

HEAD = (
    "| shape | way | CPU s (spread) | time / SDPA | time / interp | attention / interp "
    "| MB | MB / SDPA | MB / interp | differs by |\n|---|---|--:|--:|--:|--:|--:|--:|--:|---|"
)
SHORT = {
    "received": "r", "entropy": "e", "distance": "d", "waad": "w", "fai": "f", "sink": "s", "logits": "l"
}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    by_shape: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_shape.setdefault(str(row.case.shape), {})[row.case.way] = row
    lines = [line for at in by_shape.values() for line in _lines(at)]
    return "\n".join([HEAD, *lines])


def _lines(at: dict[str, Row]) -> Iterator[str]:
    floor, own = at.get("sdpa"), at.get("interp")
    for way in sorted(at, key=list(WAYS).index):
        row = at[way]
        spread = f" ({min(row.seconds):.2f}-{max(row.seconds):.2f})" if row.seconds[1:] else ""
        cells = [
            str(row.case.shape),
            WAYS[way].title,
            f"{row.time:.2f}{spread}",
            _ratio(row.time, floor and floor.time),
            _ratio(row.time, own and own.time),
            _attention(row, own, at.get("none")),
            f"{row.memory:.0f}",
            _ratio(row.memory, floor and floor.memory),
            _ratio(row.memory, own and own.memory),
            _difference(row),
        ]
        yield f"| {' | '.join(cells)} |"


def _ratio(value: float, base: float | None) -> str:
    return f"{value / base:.2f}" if base else ""


def _attention(row: Row, own: Row | None, rest: Row | None) -> str:
    """Time of attention and statistics alone: without what the rest of the model takes."""
    if own is None or rest is None or row is rest or own.time <= rest.time:
        return ""
    return f"{(row.time - rest.time) / (own.time - rest.time):.1f}"


def _difference(row: Row) -> str:
    if row.case.way == "interp":
        return ""
    listed = ", ".join(f"{SHORT[name]} {value:.0e}" for name, value in row.differs.items())
    return listed if row.agrees else f"DISAGREES: {listed}"


def idle_table(records: Sequence[dict]) -> str:
    lines = [
        "| idle | median ratio, +- two standard errors | middle half | fastest / fastest | pairs |",
        "|---|--:|--:|--:|--:|",
    ]
    for record in records:
        if record["what"] == "call":
            continue
        same = "" if record["same"] else " (OUTPUT DIFFERS)"
        lines.append(
            f"| {idle_title(record)}{same} | {record['ratio']:.4f} +- {record['error']:.4f} "
            f"| {record['low']:.3f}-{record['high']:.3f} | {record['fastest']:.4f} "
            f"| {record['pairs']} |"
        )
    for record in records:
        if record["what"] == "call":
            added = f"{record['microseconds']:.1f} microseconds"
            lines.append(f"\nThe idle seam adds {added} to an attention call.")
    return "\n".join(lines)


def goal_table(goals: Sequence[Goal]) -> str:
    return "\n".join(["| goal | limit | measured | |", "|---|--:|--:|---|", *map(str, goals)])
