"""Tables of a circuit: its heads, its sizes, what it lacks and what it could do without."""

from typing import TYPE_CHECKING, Any

import pandas
import torch

from interp.circuits.curves import SIZES
from interp.circuits.edges import EdgeRuns
from interp.circuits.graph import Node
from interp.circuits.held_out import random_heads
from interp.circuits.judging import completeness, curve, faithfulness, minimality
from interp.circuits.record import Circuit
from interp.statistics import NORMAL

if TYPE_CHECKING:
    from analyses.circuit.asked import Asked

STEPS = 12  # points of the curve beyond twice the circuit's size
CONTROLS = 5  # random circuits at each point of the curve
EDGES = 200  # rows of the table of edges


def head_table(asked: "Asked") -> pandas.DataFrame:
    """A row for each head, in the order that they run."""
    found, kept = asked.found, asked.kept
    ranks = {one: rank for rank, one in enumerate(found.ranked, start=1)}
    rows: list[dict[str, Any]] = []
    for one in asked.heads:
        row = {"layer": one.layer, "head": one.head, "score": found.scores[one]}
        if found.errors:
            error = NORMAL * found.errors.get(one, float("nan"))
            row |= {"score_low": row["score"] - error, "score_high": row["score"] + error}
        row |= {"rank": ranks[one], "in_circuit": one in kept}
        rows.append(row | ({"stage": found.stage_of(one)} if found.stages else {}))
    table = pandas.DataFrame(rows).assign(estimate=found.estimated is not None)
    if asked.roles is None:
        return table
    own = [name for name in asked.roles if name not in table or name in ("layer", "head")]
    return table.merge(asked.roles[own], on=["layer", "head"], how="left")


def size_table(asked: "Asked") -> pandas.DataFrame:
    """Faithfulness of the first ranked heads, beside random ones, on held-out records."""
    every, own = len(asked.heads), len(asked.kept)
    near = range(0, min(every, 2 * max(own, 2)) + 1)
    counts = sorted(
        {*near, *(round(each) for each in torch.linspace(near[-1], every, STEPS).tolist())}
    )
    chance = torch.Generator().manual_seed(asked.settings.seed)
    rows = []
    for count in counts:
        found = faithfulness(asked.runs, asked.found.top(count))
        drawn = [random_heads(asked.runs, count, chance) for _ in range(CONTROLS)]
        random = [faithfulness(asked.runs, each).share for each in drawn]
        rows.append(
            {"count": count, "size": count / every, "metric": found.circuit, "share": found.share,
             "low": found.share - NORMAL * found.error, "high": found.share + NORMAL * found.error,
             "random": sum(random) / CONTROLS}
        )  # fmt: skip
    return pandas.DataFrame(rows)


def tables(asked: "Asked") -> dict[str, pandas.DataFrame]:
    """Areas over sizes, completeness and minimality."""
    found, settings = asked.found, asked.settings
    scores = {str(one): score for one, score in found.scores.items()}
    signed, sized = (curve(asked.runs, scores, SIZES, absolute=one) for one in (False, True))
    areas = [
        {"ranked": name, "parts": "heads", "cpr": one.areas.cpr, "cmd": one.areas.cmd}
        for name, one in (("score", signed), ("size of score", sized))
    ]
    result = {"areas": pandas.DataFrame(areas)}
    if not asked.kept:
        return result
    circuit, classes = _nodes(asked), asked.classes()
    without = {str(one): [each for each in own if each != one]
               for own in classes.values() for one in own}  # fmt: skip
    result["completeness"] = completeness(
        asked.runs, circuit, classes, draws=10, greedy_steps=settings.greedy, seed=settings.seed
    )
    result["minimality"] = minimality(asked.runs, circuit, without)
    return result


def _nodes(asked: "Asked") -> Circuit:
    return asked.search.circuit(asked.runs.graph, asked.kept, asked.finding)


def stage_table(asked: "Asked") -> pandas.DataFrame:
    """What each head does by way of each stage's receivers."""
    rows = []
    for stage in asked.found.stages:
        receivers = ", ".join(f"{layer}.{head} {part}" for layer, head, part in stage.receivers)
        for head, share, error in stage.rows():
            rows.append(
                {"stage": stage.stage.name, "layer": head.layer, "head": head.head, "share": share,
                 "low": share - NORMAL * error, "high": share + NORMAL * error,
                 "taken": head in stage.heads, "receivers": receivers or "logits"}
            )  # fmt: skip
    return pandas.DataFrame(rows)


def edge_curve(asked: "Asked") -> dict[str, pandas.DataFrame]:
    """Edges by their estimates, and circuits of them run on held-out records with the rest corrupted."""
    estimate = asked.found.estimated
    assert estimate is not None
    kept = estimate.circuit.parts
    ranked = sorted(estimate.scores, key=lambda one: -abs(estimate.scores[one]))[:EDGES]
    edges = [
        {"source": str(one.source), "target": str(one.target), "part": one.part,
         "score": estimate.scores[one], "in_circuit": one in kept}
        for one in ranked
    ]  # fmt: skip
    found = {"edges": pandas.DataFrame(edges).assign(estimate=True)}
    try:
        runs = EdgeRuns(asked.model, asked.judging, "patch", asked.settings.metric,
                        stack=asked.settings.stack)  # fmt: skip
    except ValueError as problem:
        asked.notes.append(f"Circuits of edges were not run: {problem}")
        return found
    scores = {str(one): score for one, score in estimate.scores.items()}
    own = faithfulness(runs, estimate.circuit)
    judged = curve(runs, scores, SIZES, absolute=True, build="greedy", prune=True)
    asked.notes.append(
        f"The circuit of {len(kept)} of {len(estimate.scores)} edges does {own.share:.2f} of the task on "
        f"held-out records with all other edges corrupted; over all sizes CPR {judged.areas.cpr:.3f} and "
        f"CMD {judged.areas.cmd:.3f}."
    )
    return found | {"edge_sizes": judged.table}


def heads_of(given: Any) -> str:
    """Names of heads in the order that they run."""
    return ", ".join(str(one) for one in sorted(Node("head", one.layer, one.head) for one in given))
