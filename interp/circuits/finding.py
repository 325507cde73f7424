"""Finding a circuit of heads: three methods, one shape of answer.

    found = Search("sweep").find(model, task)
    found.circuit, found.scores

"sweep" knocks out each head alone, exactly; "paths" patches paths in stages, exactly; "eap_ig" estimates
edges by gradients and builds a circuit of them. Whether a circuit does the task is another question,
asked on other records: `interp.circuits.faithfulness`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from interp.circuits.estimated import Estimated, estimated
from interp.circuits.graph import Graph, Node
from interp.circuits.judging import faithfulness
from interp.circuits.knocked_out import knocked_out
from interp.circuits.nodes import NodeRuns
from interp.circuits.record import Circuit
from interp.circuits.replaced import Instead
from interp.circuits.staged import StageEffects, in_stages
from interp.registry import unknown
from interp.statistics import NORMAL
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

METHODS = ("sweep", "paths", "eap_ig")
EXACT = ("sweep", "paths")
LEAST = 0.001  # the least share of a knocked-out head that counts: below it is rounding
SIZES = {"paths": 0.02, "eap_ig": 0.05}  # of heads at each stage (Merullo et al. 2024); of edges


@dataclass(frozen=True, eq=False)
class FoundCircuit:
    """Heads with what one method says of them, and the circuit that it makes of them.

    `scores` rank them by size: shares of what is between the whole model and none of it (sweep), or
    between clean and corrupted (paths, the largest of the stages), above 0 where the head helps; a
    share of the sizes of the circuit's edges that leave heads, without a sign (eap_ig).
    """

    method: str
    circuit: Circuit
    scores: dict[Node, float]
    errors: dict[Node, float] = field(default_factory=dict)  # standard errors, where there are any
    stages: tuple[StageEffects, ...] = ()
    estimated: Estimated | None = None
    notes: tuple[str, ...] = ()

    @functools.cached_property
    def ranked(self) -> tuple[Node, ...]:
        return ranked(self.scores)

    def top(self, count: int) -> frozenset[Node]:
        """The first `count` heads of the ranking."""
        return frozenset(self.ranked[:count])

    def at(self, share: float) -> frozenset[Node]:
        """The heads in the circuit at a size: a share of all heads (of paths: at each stage)."""
        count = max(1, round(share * len(self.scores)))
        if not self.stages:
            return self.top(count)
        return frozenset(one for stage in self.stages for one in stage.largest(count))

    def stage_of(self, head: Node) -> str:
        """The first stage that took it, "" if none did."""
        return next((one.stage.name for one in self.stages if head in one.heads), "")


def ranked(scores: Mapping[Node, float]) -> tuple[Node, ...]:
    """The largest first, either way; of equals, those that run first."""
    return tuple(sorted(scores, key=lambda one: (-abs(scores[one]), one.order)))


@dataclass(frozen=True)
class Search:
    """How to find a circuit.

    `size`: a share below 1, or a whole number, of all heads; of "paths", at each stage; of "eap_ig", of
    edges. None: 2 % a stage (paths), 5 % of the edges (eap_ig); of "sweep", the
    fewest heads (those whose interval holds no 0 first, the largest first) that are `faithful` on the
    records that they were found on, less those without which the rest still is: dropped one at a time,
    the one that costs least first.
    """

    method: str = "sweep"
    size: float | None = None
    faithful: float = 0.9
    instead: Instead = Instead("mean")
    metric: str = "logit_diff"
    steps: int = 5
    batch: int = 16
    stack: str | None = None
    progress: bool | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise LookupError(unknown("method", self.method, list(METHODS)))
        if not _number(self.faithful) or not 0 < self.faithful <= 1:
            raise ValueError(
                f"faithful={self.faithful!r}: a share of what the model does, up to 1."
            )
        if self.size is not None and not (
            _number(self.size) and self.size > 0 and (self.size < 1 or self.size == int(self.size))
        ):
            raise ValueError(
                f"size={self.size!r}: a share below 1 (0.1), or a whole number (12): of heads, of heads at "
                "each stage ('paths'), of edges ('eap_ig')."
            )

    def find(self, model: "Model", task: Task) -> FoundCircuit:
        """The circuit of a task, by this search's method."""
        finders: dict[str, Callable[..., FoundCircuit]] = {
            "sweep": _by_sweep, "paths": _by_paths, "eap_ig": _by_estimate
        }  # fmt: skip
        return finders[self.method](self, model, task)

    def runs(self, model: "Model", task: Task) -> NodeRuns:
        """Runs in which heads outside of a circuit are replaced, on these records."""
        return NodeRuns(
            model, task, self.instead, metric=self.metric, batch=self.batch, stack=self.stack
        )

    def circuit(
        self, graph: Graph, heads: Sequence[Node] | frozenset[Node], task: Task, **found: Any
    ) -> Circuit:
        """These heads as a circuit that says how it was found."""
        return Circuit.of(graph, heads, task=task.name, found={"method": self.method, **found})


def _by_sweep(search: Search, model: "Model", task: Task) -> FoundCircuit:
    runs = search.runs(model, task)
    effects = knocked_out(runs, progress=search.progress)
    scores = effects.share
    errors = dict(zip(effects.nodes, effects.share_error.tolist(), strict=True))
    order = ranked(scores)
    if search.size is not None:
        kept, notes = frozenset(order[: _count(search.size, len(scores))]), ()
    else:
        sure = [one for one in order if abs(scores[one]) > max(LEAST, NORMAL * errors[one])]
        kept, notes = _enough(search, runs, sure, [one for one in order if one not in sure])
    circuit = search.circuit(runs.graph, kept, task, count=len(kept))
    return FoundCircuit("sweep", circuit, scores, errors, notes=notes)


def _enough(
    search: Search, runs: NodeRuns, sure: list[Node], rest: list[Node]
) -> tuple[frozenset[Node], tuple[str, ...]]:
    """The heads that the sweep takes: of those whose effect is told from chance, then of the others."""
    order = [*sure, *rest]
    count, reached = fewest(runs, order, search.faithful)
    kept = needed(runs, order[:count], search.faithful)
    notes = []
    if reached < search.faithful:
        notes.append(
            f"No number of heads reaches {search.faithful:.2f} on the records that they were found on; the "
            f"{count} that do best give {reached:.2f}."
        )
    if spare := [one for one in order[:count] if one in sure and one not in kept]:
        notes.append(
            f"Left out although knocking them out alone matters, since the others reach "
            f"{search.faithful:.2f} without them: {', '.join(map(str, spare))}. On other records the choice "
            "may fall otherwise."
        )
    if unsure := sorted(kept - frozenset(sure)):
        notes.append(
            f"Knocked out alone, {', '.join(map(str, unsure))} cannot be told from chance: the others do not "
            "do the task without them, or they stand in for each other."
        )
    return kept, tuple(notes)


def fewest(runs: NodeRuns, ranked: Sequence[Node], faithful: float) -> tuple[int, float]:
    """The fewest heads, in order, whose circuit does the share `faithful` of the task; and the share.

    Where none does, as many as do best.
    """
    best = (0, 0.0)
    for count in range(1, len(ranked) + 1):
        share = faithfulness(runs, ranked[:count]).share
        if share >= faithful:
            return count, share
        best = max(best, (count, share), key=lambda one: one[1])
    return best


def needed(runs: NodeRuns, heads: Sequence[Node], faithful: float) -> frozenset[Node]:
    """Without heads that the rest is `faithful` without: those that cost least first, until none can go."""

    def without(one: Node) -> float:
        return faithfulness(runs, kept - {one}).share

    kept, before = frozenset(heads), -1
    if faithfulness(runs, kept).share < faithful:
        return kept
    while len(kept) != before:
        before = len(kept)
        shares = {one: without(one) for one in sorted(kept)}
        for one in sorted(shares, key=lambda one: -shares[one]):
            if shares[one] >= faithful and without(one) >= faithful:
                kept -= {one}
    return kept


def _by_paths(search: Search, model: "Model", task: Task) -> FoundCircuit:
    share = SIZES["paths"] if search.size is None else search.size
    graph = Graph.of(model, search.stack)
    count = _count(share, sum(graph.heads))
    stages = in_stages(
        model, task, count=count, metric=search.metric, stack=search.stack, batch=search.batch
    )
    scores: dict[Node, float] = {}
    errors: dict[Node, float] = {}
    for stage in stages:
        for head, value, error in stage.rows():
            if abs(value) >= abs(scores.get(head, 0.0)):
                scores[head], errors[head] = value, error
    heads = frozenset(one for stage in stages for one in stage.heads)
    notes = tuple(f"Stage {one.stage.name}: {one.why}" for one in stages if one.why)
    circuit = search.circuit(graph, heads, task, count=count)
    return FoundCircuit("paths", circuit, scores, errors, tuple(stages), notes=notes)


def _by_estimate(search: Search, model: "Model", task: Task) -> FoundCircuit:
    share = SIZES["eap_ig"] if search.size is None else search.size
    whole = share >= 1
    found = estimated(
        model, task, int(share) if whole else None, 1.0 if whole else share, steps=search.steps,
        metric=search.metric, stack=search.stack, batch=search.batch,
    )  # fmt: skip
    graph = Graph.of(model, search.stack)
    every = sorted(one for one in graph.nodes if one.kind == "head")
    heads = found.shares
    scores = {one: float(heads.get((one.layer, one.head), 0.0)) for one in every}
    circuit = search.circuit(graph, [one for one in every if scores[one] > 0], task, share=share)
    return FoundCircuit("eap_ig", circuit, scores, estimated=found)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _count(size: float, heads: int) -> int:
    """A number of heads from a share, or from itself."""
    count = int(size) if size >= 1 else max(1, round(size * heads))
    if count > heads:
        raise ValueError(f"size={size}: the model has {heads} heads.")
    return count
