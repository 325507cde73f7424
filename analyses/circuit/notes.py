"""What was found, in sentences."""

from typing import TYPE_CHECKING, Any

import pandas

from analyses.circuit.tables import heads_of

if TYPE_CHECKING:
    from analyses.circuit.asked import Asked

ENOUGH = 5  # rows that a mean stands on
FEW = 30  # records below which intervals of means come out too narrow
FAR = 0.1  # of what the model does: a gap of completeness worth naming
NOTHING_DONE = (
    "On {task} the whole model is not told apart from the model with no head: there is nothing that a "
    "circuit could be faithful to, and the numbers of its circuit say nothing."
)
MINIMAL = 0.01  # the least change that makes a head needed (Wang et al. 2022)


def notes(asked: "Asked", table: Any, more: dict[str, pandas.DataFrame]) -> list[str]:
    if not asked.does_it:
        return [NOTHING_DONE.format(task=asked.finding.name), *asked.found.notes, *asked.notes]
    return [
        *_circuit(asked),
        *thin_means(asked),
        *_judged(asked, more["faithfulness"]),
        *_areas(more["areas"]),
        *_lacking(more),
        *asked.found.notes,
        *asked.notes,
    ]


def _circuit(asked: "Asked") -> list[str]:
    own, every = len(asked.kept), len(asked.heads)
    if not own:
        return [f"No head was found by {asked.settings.method}: the circuit is empty."]
    listed = ", ".join(
        f"{one} ({asked.found.scores[one]:+.2f})" for one in asked.found.ranked if one in asked.kept
    )
    said = [
        f"{asked.finding.name}: {own} of {every} heads ({own / every:.0%}), found by "
        f"{asked.settings.method} on {len(asked.finding)} records: {listed}."
    ]
    for role, heads in asked.classes().items():
        said.append(f"{role}: {heads_of(heads)}.")
    if asked.found.estimated is not None:
        said.append("Scores of eap_ig are estimates; what the circuit does was run.")
    return said


def _judged(asked: "Asked", table: Any) -> list[str]:
    if not asked.kept:
        return []
    row, judged = table.iloc[0], asked.judged
    said = [
        f"On {len(asked.judging)} other records, with every other head replaced ({row['instead']}), the "
        f"circuit does {row['share']:.2f} of what the model does ({row['low']:.2f} to {row['high']:.2f}): "
        f"{asked.settings.metric} {row['circuit']:.2f}, of the whole model {row['model']:.2f}, with no head "
        f"{row['nothing']:.2f}. Random circuits of its size: {row['random']:.2f} on average, "
        f"{judged.as_good} of {len(judged.random)} do as well."
    ]
    others = table.iloc[1:]
    if len(others):
        least, most = others["share"].min(), others["share"].max()
        said.append(
            f"Under other ways of replacing the rest it does {least:.2f} to {most:.2f}: a share of "
            "faithfulness holds for the way it was measured."
        )
    if len(asked.judging) < FEW:
        said.append(f"{len(asked.judging)} records are few: intervals come out too narrow.")
    return said


def thin_means(asked: "Asked") -> list[str]:
    """Whether means stand on enough rows."""
    behind = [count for one in asked.runs.batches for count in one.behind]
    thin = sum(count < ENOUGH for count in behind)
    if not thin:
        return []
    alone = sum(count == 1 for count in behind)
    more = f", {alone} of them over one row, which is no mean" if alone else ""
    return [
        f"Of {len(behind)} records {thin} have means over fewer than {ENOUGH} rows of their length and "
        f"group{more}: give more records, or groups=None."
    ]


def _areas(table: Any) -> list[str]:
    signed, sized = table.iloc[0], table.iloc[1]
    return [
        f"Over all sizes: CPR {signed['cpr']:.3f} (heads that help first; 0.999: as the model at "
        f"every size), CMD {sized['cmd']:.3f} (largest either way first; 0 is best, and 0.749 where "
        "the whole model alone does it)."
    ]


def _lacking(more: dict[str, Any]) -> list[str]:
    if "completeness" not in more:
        return []
    gaps, needed = more["completeness"], more["minimality"]
    whole = abs(float(gaps.loc[gaps["kind"] == "none", "model"].iloc[0]))
    worst = gaps.loc[gaps["gap"].idxmax()]
    said = [
        f"Completeness: without the same heads, circuit and model differ by at most {worst['gap']:.2f} "
        f"({worst['gap'] / whole:.0%} of the whole), without {worst['without'] or 'nothing'}."
    ]
    idle = needed[needed["share"] < MINIMAL]
    if len(idle):
        said.append(
            f"Minimality: {', '.join(idle['part'])} could go (less than {MINIMAL:.0%} of the metric)."
        )
    else:
        said.append(f"Minimality: every head of it moves the metric by {MINIMAL:.0%} or more.")
    return said
