"""What stands in for a part that is not in a circuit: nothing, a mean, another row's value, or the
paired counterfactual's."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.asking import choose_stack
from interp.batches import as_task, batches
from interp.circuits.places import check_prompts
from interp.pairs import answers_metric, pairs
from interp.prompt import Prompt
from interp.readouts import Readout
from interp.registry import unknown
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model

TAKES = ("patch", "mean", "resample", "zero")
Values = dict[tuple[str, int], Tensor]  # (site, layer) -> [row, position, ...]


@dataclass(eq=False)
class Replaced:
    """Rows of one length: their prompt, what they are judged by, and what stands in at each part."""

    prompt: Prompt
    metric: Readout | Callable[..., Tensor]
    numbers: tuple[int, ...]  # of the records in their task
    values: Values
    corrupted: Prompt | None = None  # where the values are those of a counterfactual
    behind: tuple[int, ...] = ()  # of means: over how many rows each row's is


@dataclass(frozen=True)
class Instead:
    """`take`: "patch" (the counterfactual's), "mean" or "resample" (over the reference), "zero".

    `reference`: "counterfactual" or "prompt" (of the task's own records), or another task's prompts.
    Means are taken at each position over rows of the same length, and of the same `groups`: the name
    of a record's note ("template") or a function of records. Another row is drawn likewise.
    """

    take: str = "patch"
    reference: str | Task = "counterfactual"
    groups: str | Callable[[Record], Hashable] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.take not in TAKES:
            raise LookupError(unknown("take", self.take, list(TAKES)))
        if isinstance(self.reference, str) and self.reference not in ("counterfactual", "prompt"):
            raise LookupError(unknown("reference", self.reference, ["counterfactual", "prompt"]))

    def of(
        self,
        model: "Model",
        task: Any,
        who: str,
        metric: Any = "logit_diff",
        batch: int = 16,
        stack: str | None = None,
    ) -> list[Replaced]:
        """The task in batches, each with its values."""
        task = as_task(task, who)
        if self.take == "patch":
            return [
                Replaced(one.clean, _metric(model, one.clean, one.records, metric), one.numbers,
                         written(model, one.corrupted, stack), one.corrupted)
                for one in pairs(model, task, who, batch)
            ]  # fmt: skip
        stock = None if self.take == "zero" else self._stock(model, task, who, batch, stack)
        chance = torch.Generator().manual_seed(self.seed)
        found = []
        for one in batches(model, task, who, batch):
            values, behind = written(model, one.prompt, stack), ()
            if stock is None:
                values = {key: torch.zeros_like(value) for key, value in values.items()}
            else:
                rows = zip(one.records, one.numbers, strict=True)
                picked = [self._pick(stock, one.prompt.length, *row, chance) for row in rows]
                values = {key: torch.stack([row[key] for row in picked]) for key in values}
                if stock.means:
                    length = one.prompt.length
                    behind = tuple(len(stock.rows[self._key(each, length)]) for each in one.records)
            judge = _metric(model, one.prompt, one.records, metric)
            found.append(Replaced(one.prompt, judge, one.numbers, values, behind=behind))
        return found

    def _key(self, record: Record, length: int) -> Hashable:
        if self.groups is None:
            return length
        if callable(self.groups):
            return length, self.groups(record)
        if self.groups not in record.notes:
            raise LookupError(unknown("note", self.groups, sorted(record.notes)))
        return length, record.notes[self.groups]

    def _stock(
        self, model: "Model", task: Task, who: str, batch: int, stack: str | None
    ) -> "_Stock":
        """What the reference's rows hold, by group."""
        own = isinstance(self.reference, str)
        reference = reference_of(task, self.reference)
        stock = _Stock(self.take == "mean", own)
        for one in batches(model, reference, who, batch):
            values = written(model, one.prompt, stack)
            for row, (record, number) in enumerate(zip(one.records, one.numbers, strict=True)):
                key = self._key(record, one.prompt.length)
                stock.add(key, number, {name: value[row] for name, value in values.items()})
        return stock

    def _pick(
        self, stock: "_Stock", length: int, record: Record, number: int, chance: torch.Generator
    ) -> Values:
        key = self._key(record, length)
        if key not in stock.rows:
            raise ValueError(
                f"no row of the reference is of the length and group ({key}) of {record.prompt!r}; give a "
                "reference= that has one, or leave groups= out."
            )
        if stock.means:
            return stock.mean(key)
        others = [row for row in stock.rows[key] if not (stock.own and row == number)]
        if not others:
            raise ValueError(
                f"nothing to resample from: no other row is of the length and group ({key}) of "
                f"{record.prompt!r}."
            )
        return stock.kept[key, others[int(torch.randint(len(others), (), generator=chance))]]


@dataclass(eq=False)
class _Stock:
    """Rows of the reference by group: each of them, or their sums."""

    means: bool
    own: bool  # the rows have the numbers of the task's
    rows: dict[Hashable, list[int]] = field(default_factory=dict)
    kept: dict[Any, Values] = field(default_factory=dict)

    def add(self, key: Hashable, number: int, values: Values) -> None:
        self.rows.setdefault(key, []).append(number)
        if not self.means:
            self.kept[key, number] = values
        elif key not in self.kept:
            self.kept[key] = {name: value.clone() for name, value in values.items()}
        else:
            for name, value in values.items():
                self.kept[key][name] += value

    def mean(self, key: Hashable) -> Values:
        return {name: value / len(self.rows[key]) for name, value in self.kept[key].items()}


def written(model: "Model", prompt: Prompt, stack: str | None = None) -> Values:
    """What the embedding, heads (as z) and MLPs write in a run of the prompt."""
    tower = choose_stack(model.stacks, stack, model.name)
    check_prompts(model, prompt)
    first = min(tower.layers)
    sites = {
        "resid_pre": [first],
        "z": [at for at, layer in tower.layers.items() if layer.attention is not None],
        "mlp_out": [at for at, layer in tower.layers.items() if layer.mlp is not None],
    }
    found: Values = {}
    with torch.no_grad():
        trace = model.trace(prompt, *(site for site, at in sites.items() if at), stack=tower.name)
    for site, layers in sites.items():
        found |= {(site, at): trace[site, at, tower.name] for at in layers}
    if found["resid_pre", first].shape[:2] != prompt.mask.shape:
        raise ValueError(
            f"the {tower.name} stack does not have the prompt's positions; circuits are of the stack that "
            "reads the prompt."
        )
    return found


def read(metric: Any, logits: Tensor, prompt: Prompt) -> Tensor:
    """[row] of a readout, or of any function of logits."""
    values = metric(logits, prompt) if isinstance(metric, Readout) else metric(logits)
    if values.shape != (len(prompt),):
        raise ValueError(
            f"the metric gave {tuple(values.shape)} for {len(prompt)} rows; it must be one number a row."
        )
    return values.float()


def reference_of(task: Task, given: str | Task) -> Task:
    """The prompts that means are taken over: the task's own, its counterfactuals, or another task's."""
    if isinstance(given, Task):
        return given
    if given == "prompt":
        return task
    return Task(f"counterfactuals of {task.name}", tuple(_others(task)))


def _others(records: Sequence[Record]) -> Iterator[Record]:
    for record in records:
        if record.counterfactual is None and record.counterfactual_image is None:
            raise ValueError(
                f"a record has no counterfactual: {record.prompt!r}; give reference='prompt', or a Task "
                "whose prompts are the reference."
            )
        image = record.counterfactual_image or record.image
        text = record.prompt if record.counterfactual is None else record.counterfactual
        yield replace(record, prompt=text, image=image, spans={})


def _metric(model: "Model", prompt: Prompt, records: Sequence[Record], metric: Any) -> Any:
    if not isinstance(metric, str):
        return metric.bind(model, prompt) if isinstance(metric, Readout) else metric
    return answers_metric(model, prompt, records, metric)
