"""From scores of nodes or edges to the parts of a circuit."""

import heapq
from collections.abc import Iterable, Mapping
from typing import Any

from interp.circuits.graph import LOGITS, Edge, Part, edge
from interp.circuits.record import part_of


def top(scores: Mapping[Any, float], count: int, absolute: bool = False) -> frozenset[Part]:
    """The `count` parts with the largest scores, or the largest sizes; of equals, those that run first."""
    ranked = _ranked(scores, absolute)
    _check_count(count, len(ranked))
    return frozenset(part for _, _, part in ranked[:count])


def greedy(scores: Mapping[Any, float], count: int, absolute: bool = False) -> frozenset[Part]:
    """Edges from the logits back: always the best one that leads to what is there already."""
    ranked = _ranked(scores, absolute)
    _check_count(count, len(ranked))
    into: dict[Any, list[Any]] = {}
    for entry in ranked:
        if not isinstance(entry[2], Edge):
            raise ValueError(f"greedy goes along edges, and {entry[2]} is a node; use top.")
        into.setdefault(entry[2].target, []).append(entry)
    waiting = into.pop(LOGITS, [])
    heapq.heapify(waiting)
    chosen: list[Part] = []
    while waiting and len(chosen) < count:
        best = heapq.heappop(waiting)[2]
        chosen.append(best)
        for entry in into.pop(best.source, []):
            heapq.heappush(waiting, entry)
    return frozenset(chosen)


def pruned(edges: Iterable[Any]) -> frozenset[Part]:
    """Without edges of nodes that nothing leads to, or that lead nowhere; the ends are exempt."""
    kept = {edge(one) for one in edges}
    while True:
        sources, targets = {one.source for one in kept}, {one.target for one in kept}
        whole = {
            one
            for one in kept
            if (one.source.kind == "embed" or one.source in targets)
            and (one.target.kind == "logits" or one.target in sources)
        }
        if whole == kept:
            return frozenset(kept)
        kept = whole


def _ranked(scores: Mapping[Any, float], absolute: bool) -> list[tuple[float, Any, Any]]:
    """(-score, place, part), best first."""
    rows = []
    for given, score in scores.items():
        score = float(score)
        if score != score:
            raise ValueError(f"the score of {given} is not a number, so it cannot be ranked.")
        part = part_of(given)
        rows.append((-abs(score) if absolute else -score, part.order, part))
    return sorted(rows, key=lambda row: row[:2])


def _check_count(count: int, most: int) -> None:
    if not 0 <= count <= most:
        raise ValueError(f"count={count}: there are scores of {most} parts.")
