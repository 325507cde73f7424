"""Stages of a search for heads: sets of them are tried one after another, ranked, and put together anew."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from interp.progress import bar
from interp.steering.trials import Heads, Score, Trials

MEASURES = ("accuracy", "probability")
KEPT = 6  # layers that coarse to fine looks into
FEWEST = 3  # best layers that a set of heads is taken from
BY_LAYER, TOGETHER = (4, 6, 8), (16, 24, 32, 64)  # heads of a set, from each layer or from all

Ranked = list[tuple[Heads, Score]]
Candidates = Mapping[int, Sequence[int]]  # heads by layer


def one_by_one(candidates: Candidates) -> list[Heads]:
    return [((layer, head),) for layer, heads in candidates.items() for head in heads]


def tried(trials: Trials, sets: Sequence[Heads], by: str, bar: Any) -> Ranked:
    """Best first; what is equal in one measure is ordered by the other, then by layer and head."""
    found: Ranked = []
    for heads in sets:
        found.append((heads, trials.under(heads)))
        bar.update()
    other = next(name for name in MEASURES if name != by)
    return sorted(found, key=lambda one: (-getattr(one[1], by), -getattr(one[1], other), one[0]))


def told(found: Ranked) -> list[dict[str, Any]]:
    return [{"heads": heads, **asdict(score)} for heads, score in found]


def coarse_to_fine(
    trials: Trials, dev: Trials, candidates: Candidates, by: str, progress: bool | None
) -> tuple[list[tuple[int, int]], dict[str, Any]]:
    """Layers, heads of the best layers, sets of the best heads: the best set, and every stage's scores."""
    whole = [tuple((layer, head) for head in heads) for layer, heads in candidates.items()]
    most = len(whole) + KEPT * max(map(len, whole)) + 4 * (len(BY_LAYER) + len(TOGETHER))
    with bar(most, "heads", progress) as shown:
        plain, on_dev = trials.under(None), dev.under(None)
        layers = tried(trials, whole, by, shown)
        best = [heads[0][0] for heads, _ in layers[:KEPT]]
        single = one_by_one({layer: candidates[layer] for layer in best})
        heads = tried(trials, single, by, shown)
        order = [one[0] for one, _ in heads]
        sets = tried(dev, list(sets_of(best, order)), by, shown)
    chosen, score = sets[0]
    if getattr(score, by) <= getattr(on_dev, by):
        warnings.warn(
            f"the best set of heads does no better on {dev.task.name} than the plain model, whose {by} is "
            f"{getattr(on_dev, by):.4g}.",
            stacklevel=3,
        )
    stages = {"layers": layers, "heads": heads, "sets": sets}
    how: dict[str, Any] = {f"{name} scores": told(each) for name, each in stages.items()}
    how |= {"baseline": [asdict(plain)], "dev baseline": asdict(on_dev)}
    return sorted(chosen, key=order.index), how


def sets_of(layers: Sequence[int], heads: Sequence[tuple[int, int]]) -> Iterator[Heads]:
    """Sets of the best heads, each once; `layers` and `heads` are in order, best first."""
    seen: set[Heads] = set()
    for count in range(min(FEWEST, len(layers)), len(layers) + 1):
        own = [head for head in heads if head[0] in layers[:count]]
        by_layer = [[head for head in own if head[0] == layer] for layer in layers[:count]]
        sets = [[head for each in by_layer for head in each[:size]] for size in BY_LAYER]
        sets += [own[:size] for size in TOGETHER]
        for one in (tuple(sorted(each)) for each in sets):
            if one not in seen:
                seen.add(one)
                yield one
