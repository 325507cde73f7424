"""What is asked, the circuit that was found, and the runs that judge it."""

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas

from interp.batches import as_task, check_no_name
from interp.circuits.finding import FoundCircuit, Search
from interp.circuits.graph import Node
from interp.circuits.held_out import Judged, judged, parts, stands_in
from interp.circuits.judging import faithfulness
from interp.circuits.nodes import NodeRuns
from interp.circuits.replaced import TAKES
from interp.pairs import METRICS
from interp.registry import unknown
from interp.roles import ioi_classes, roles
from interp.statistics import NORMAL, standard_error
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

# Ways of replacing the rest that a circuit is judged under besides the one that was asked for.
OTHERS = (("mean", "counterfactual"), ("mean", "prompt"), ("patch", "counterfactual"),
          ("resample", "counterfactual"), ("zero", "counterfactual"))  # fmt: skip

OWN = {"zero": "0", "patch": "each record's own counterfactual"}  # they ask no reference
TOLD = 60  # records at most that roles are told on
IOI = {"IO", "S1", "S2"}  # spans that the published classes are told by


@dataclass(frozen=True)
class Settings:
    method: str
    size: float | None
    faithful: float
    instead: str
    reference: Any
    groups: str | None
    metric: str
    held_out: float
    draws: int
    greedy: int
    roles: bool
    steps: int
    stack: str | None
    batch: int
    seed: int

    def __post_init__(self) -> None:
        for noun, given, known in (
            ("instead", self.instead, TAKES),
            ("metric", self.metric, METRICS),
        ):
            if given not in known:
                raise LookupError(unknown(noun, given, list(known)))
        if self.instead in OWN and self.reference != "counterfactual":
            raise ValueError(
                f"reference= goes with instead='mean' or 'resample': {self.instead!r} puts "
                f"{OWN[self.instead]} in a head's place."
            )
        for name, value, least in (("batch", self.batch, 1), ("draws", self.draws, 1), ("seed", self.seed, 0),
                                   ("greedy", self.greedy, 0), ("steps", self.steps, 1)):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"{name}={value!r}: a whole number, {least} or more.")

    def search(self, task: Task) -> Search:
        stand_in = stands_in(task, self.instead, self.reference, self.groups)
        return Search(self.method, self.size, self.faithful, stand_in, self.metric, self.steps,
                      self.batch, self.stack)  # fmt: skip


@dataclass(eq=False)
class Asked:
    """One task: the circuit found on its first records, and runs on the others."""

    model: "Model"
    settings: Settings
    whole: Task
    finding: Task
    judging: Task
    search: Search
    found: FoundCircuit
    runs: NodeRuns
    notes: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, model: "Model", task: Any, settings: Settings) -> "Asked":
        check_no_name(task, "circuit")
        whole = as_task(task, "circuit")
        search = settings.search(whole)
        finding, judging = parts(whole, settings.held_out)
        runs = search.runs(model, judging)
        return cls(
            model, settings, whole, finding, judging, search, search.find(model, finding), runs
        )

    @property
    def heads(self) -> list[Node]:
        """All of the model's, as they run."""
        return sorted(self.found.scores)

    @property
    def kept(self) -> frozenset[Node]:
        return frozenset(Node("head", *one) for one in self.found.circuit.heads)

    @functools.cached_property
    def judged(self) -> Judged:
        return judged(self.runs, self.kept, self.settings.draws, self.settings.seed)

    @property
    def does_it(self) -> bool:
        """Whether the heads are told to do anything for the task at all."""
        way = self.runs.values(self.runs.parts) - self.runs.values(())
        return float(way.mean().abs()) > NORMAL * float(standard_error(way))

    @functools.cached_property
    def roles(self) -> "pandas.DataFrame | None":
        """A row for each head of the circuit; None where the task or model does not tell, with a note."""
        if not self.settings.roles or not self.kept or not self.does_it:
            return None
        try:
            chosen = [(one.layer, one.head) for one in sorted(self.kept)]
            known = list(self.found.stages) or None
            return roles(self.model, self.finding[:TOLD], chosen, found=known,
                         stack=self.settings.stack, batch=self.settings.batch)  # fmt: skip
        except (ValueError, LookupError) as problem:
            self.notes.append(f"Roles were left out: {problem}")
            return None

    @functools.cached_property
    def classed(self) -> "pandas.DataFrame | None":
        """The published classes of indirect objects, of all heads; None of other tasks."""
        if not self.settings.roles or IOI - self.finding[0].spans.keys():
            return None
        try:
            return ioi_classes(self.model, self.finding, stack=self.settings.stack,
                               batch=self.settings.batch)  # fmt: skip
        except (ValueError, LookupError) as problem:
            self.notes.append(f"IOI classes were left out: {problem}")
            return None

    @property
    def class_notes(self) -> list[str]:
        return [] if self.classed is None else list(self.classed.attrs.get("notes", ()))

    def classes(self) -> dict[str, list[Node]]:
        """The circuit's heads by role."""
        if self.roles is None:
            return {}
        found: dict[str, list[Node]] = {}
        for row in self.roles.to_dict("records"):
            found.setdefault(row["role"] or "no role", []).append(
                Node("head", row["layer"], row["head"])
            )
        return found

    def faithfulness(self) -> "pandas.DataFrame":
        """The circuit under each way of replacing the rest; the first row is the one asked for."""
        asked_for = self.settings.instead, self.settings.reference
        rows = [self._row(*asked_for, self.runs, self.judged)]
        for take, reference in OTHERS:
            if (take, reference) == asked_for:
                continue
            try:
                instead = stands_in(self.whole, take, reference, self.settings.groups)
                runs = NodeRuns(self.model, self.judging, instead, metric=self.settings.metric,
                                batch=self.settings.batch, stack=self.settings.stack)  # fmt: skip
                rows.append(self._row(take, reference, runs, None))
            except ValueError as problem:
                # The usual reason of resampling, without the record.
                alone = "some record has no other of its length and group to be replaced by."
                why = alone if take == "resample" else problem
                self.notes.append(f"Judging with {take} of the {reference} was left out: {why}")
        return pandas.DataFrame(rows)

    def _row(
        self, take: str, reference: Any, runs: NodeRuns, judged: Judged | None
    ) -> dict[str, Any]:
        found = judged.found if judged else faithfulness(runs, self.kept)
        row = {
            "instead": take,
            "reference": "" if take == "zero" else getattr(reference, "name", reference),
            "circuit": found.circuit, "model": found.whole, "nothing": found.empty,
            "share": found.share,
            "low": found.share - NORMAL * found.error, "high": found.share + NORMAL * found.error,
            "each": found.each,
        }  # fmt: skip
        if judged:
            row |= {"random": sum(judged.random) / len(judged.random),
                    "random_most": max(judged.random)}  # fmt: skip
        return row
