"""The results of sweeps as markdown, and what the toolkit promises of them."""

from collections.abc import Iterator, Sequence
from statistics import median

from benchmarks.goals import Goal
from benchmarks.sweep_rows import SweepRow

Rows = dict[tuple[str, str], SweepRow]

HEAD = (
    "| grid | way | cells run | CPU s (spread) | time / interp | floor, s | time / floor | differs by |\n"
    "|---|---|--:|--:|--:|--:|--:|--:|"
)
FASTER = {
    "resid_pre-16": 18, "resid_pre-32": 12, "resid_pre-64": 9, "resid_pre-16x8": 7, "heads-32": 7,
    "ablation-16x32": 2.7,
}  # fmt: skip
BATCHED = {"resid_pre-16": 5, "resid_pre-32": 5}
LIKE = {"llama-resid_pre-16": "resid_pre-16", "llama-resid_pre-32": "resid_pre-32",
        "llama-heads-32": "heads-32"}  # fmt: skip


def rate_of(rows: Sequence[SweepRow]) -> float:
    return median([rate for row in rows for rate in row.rates] or [float("nan")])


def sweep_table(rows: Sequence[SweepRow]) -> str:
    rate = rate_of(rows)
    known = {(row.name, row.case.way): row for row in rows if row.seconds}
    lines = [_line(row, known.get((row.name, "interp")), rate) for row in known.values()]
    return "\n".join([HEAD, *lines])


def _line(row: SweepRow, own: SweepRow | None, rate: float) -> str:
    work, floor = row.case.work, row.floor(rate)
    low, high = min(row.seconds), max(row.seconds)
    differs = "" if row.way.own or row.differs is None else f"{row.differs:.0e}"
    cells = [
        str(work),
        row.way.title,
        f"{row.cells} of {len(work.cells)}",
        f"{row.time:.2f} ({low:.2f}-{high:.2f})",
        f"{row.time / own.time:.2f}" if own else "",
        f"{floor:.2f}",
        f"{row.time / floor:.2f}",
        differs if row.agrees else f"DISAGREES: {row.differs:.0e}",
    ]
    return f"| {' | '.join(cells)} |"


def other_lines(rows: Sequence[SweepRow]) -> str:
    """First calls and memory."""
    lines = []
    for row in rows:
        if row.calls:
            first, other, again = (median(times) for times in zip(*row.calls, strict=True))
            lines.append(
                f"First sweep of a process ({row.case.work}): {first:.2f} s; then one of 10 tokens "
                f"{other:.2f} s; the first again {again:.2f} s. Being the first costs {first - again:.2f} s."
            )
        if row.case.what == "memory":
            found = (
                f"{row.megabytes:.0f} MB"
                if row.megabytes is not None
                else f"refused ({row.refused})"
            )
            lines.append(f"Extra memory of {row.case.work}, budget={row.case.budget:g}: {found}.")
    return "\n\n".join(lines)


def sweep_goals(rows: Sequence[SweepRow], attribution: dict | None) -> list[Goal]:
    """The goals that this run can judge; those of rows that it left out are not listed."""
    known = {(row.name, row.case.way): row for row in rows if row.seconds}
    rate = rate_of(rows)
    found = [*_over(known, FASTER, "lens", rate), *_over(known, BATCHED, "nnsight", rate)]
    for name, other in LIKE.items():
        own, same = _ratio(known, name, "lens"), _ratio(known, other, "lens")
        if own and same:
            what = f"{known[name, 'interp'].case.work}: its ratio over gpt2's"
            note = f"{own:.1f} and {same:.1f}"
            found.append(Goal(what, 0.8, own / same, at_least=True, note=note))
    for row in rows:
        if row.megabytes is not None:
            limit = row.case.budget / 1e6
            what = f"{row.case.work}: extra memory, budget={row.case.budget:g}"
            found.append(Goal(what, limit, row.megabytes, unit=" MB"))
    for name, title in (("eap", "EAP"), ("eap_ig_inputs", "EAP-IG, 5 steps")):
        if attribution is not None:
            cost = attribution[name]
            note = f"{cost['forwards']:.1f}, {cost['low']:.1f} to {cost['high']:.1f}"
            what, unit = f"{title}, gpt2, T=16 x 8 pairs", " forwards"
            found.append(Goal(what, cost["limit"], cost["forwards"], unit=unit, note=note))
    return found


def _ratio(known: Rows, name: str, way: str) -> float | None:
    if (name, way) not in known or (name, "interp") not in known:
        return None
    return known[name, way].time / known[name, "interp"].time


def _over(known: Rows, limits: dict[str, float], way: str, rate: float) -> Iterator[Goal]:
    """How much longer a peer takes, and how much longer than the least that any exact way takes."""
    for name, limit in limits.items():
        value = _ratio(known, name, way)
        if value is None:
            continue
        own, peer = known[name, "interp"], known[name, way]
        note = f"the floor allows {peer.time / own.floor(rate):.1f}x"
        last = _ratio(known, name, f"{way} last")
        note += f"; with logits_to_keep=1 {last:.1f}x" if last else ""
        what = f"{own.case.work}: faster than {peer.way.title}"
        yield Goal(what, limit, value, at_least=True, note=note)
