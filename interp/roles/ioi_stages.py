"""The stages at which classes of the IOI circuit are told, from the answer back."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas
import torch
from torch import Tensor

from interp.batches import batches
from interp.circuits import task_effects
from interp.circuits.paths import PathEffects
from interp.roles.columns import Mask, add_scores, add_share, empty, heads_of, opposes, supports
from interp.roles.knocked import without
from interp.roles.looking import attending, attention, means, more, spans
from interp.roles.random_words import on_random_words
from interp.statistics import standard_error
from interp.structure import Stack
from interp.task import Task
from interp.weights import head_weights, name_copy

if TYPE_CHECKING:
    from interp.model import Model

NAMES = ("IO", "S1", "S2")
LOOKS = {"END": NAMES, "S2": ("S1", "S1+1", "S2"), "S1+1": ("S1", "S1+1")}
COPIED = 32  # records whose names heads may copy: their logits are dear
GROWS = (
    1.5  # of a backup's effect without movers to that with them; the last norm makes some grow too
)
INPUTS = {"v": "values", "k": "keys", "vk": "values and keys"}


@dataclass(frozen=True)
class Rules:
    """What the numbers must reach."""

    least: float
    strongest: float
    attends: float
    copies: float


@dataclass(eq=False)
class Stages:
    """The table as it grows. Each stage returns the heads of its classes, as a mask of rows."""

    model: "Model"
    task: Task
    stack: Stack
    batch: int
    rules: Rules
    notes: list[str] = field(default_factory=list)
    why: dict[str, str] = field(default_factory=dict)  # a class was not asked for
    whole: float = 0.0  # mean logit difference
    copying: bool = True  # whether weights tell what heads copy
    table: pandas.DataFrame = field(init=False)
    logits: PathEffects = field(init=False)
    looked: dict[str, Tensor] = field(default_factory=dict)  # [record, layer, head]

    def __post_init__(self) -> None:
        self.table = empty(self.stack)

    def look(self, seed: int) -> None:
        """Columns that need no path: attention, copied names, random words."""
        for start, ends in LOOKS.items():
            span = "last" if start == "END" else start
            shares = attention(self.model, self.task, self.stack, span, spans(ends), self.batch)
            self.looked |= {f"{start}->{end}": shares[end] for end in ends}
        add_scores(self.table, means(self.looked))
        self._copies()
        scores, note = on_random_words(self.model, self.stack, seed=seed)
        add_scores(self.table, scores)
        self.notes.append(note)

    def movers(self) -> tuple[Mask, Mask]:
        table, rules = self.table, self.rules
        found = self.logits = self._path("logits", "last")
        self.whole = float(found.clean.mean())
        if self.whole <= 0:
            raise ValueError(
                f"the logit difference is {self.whole:.3f} on average, so {self.model.name} does not do this "
                "task, and shares of it say nothing; ask of a model that prefers IO to S."
            )
        self._add("logits", found)
        self.notes.insert(0, _difference(found))
        shares = table["logits"].tolist()
        largest, smallest = max(shares), min(shares)
        helps = supports(table, "logits", max(rules.least, rules.strongest * largest))
        harms = opposes(table, "logits", max(rules.least, -rules.strongest * smallest))
        at_name = table[[f"END->{name}" for name in NAMES]].max(axis=1) >= rules.attends
        at_io = self._looks("END->IO", "END->S1", "END->S2")
        copies, against = (
            (table[name] >= rules.copies) | (not self.copying)
            for name in ("copies", "copies_against")
        )
        return helps & at_io & copies, harms & at_name & against

    def inhibition(self, movers: Mask) -> Mask:
        feeds = self._fed("queries", movers, "name mover", "q", "last", ("S-inhibition",))
        return feeds & self._looks("END->S2", "END->IO", "END->S1")

    def repeats(self, inhibition: Mask, inputs: str) -> tuple[Mask, Mask]:
        """Induction and duplicate-token heads."""
        classes = ("induction", "duplicate token")
        name = f"{INPUTS[inputs]} at S2"
        feeds = self._fed(name, inhibition, "S-inhibition", inputs, "S2", classes)
        after, first = self.table["S2->S1+1"], self.table["S2->S1"]
        least = self.rules.attends
        return feeds & (after >= least) & (after > first), feeds & (first >= least) & (
            first > after
        )

    def previous(self, induction: Mask) -> Mask:
        classes = ("previous token",)
        feeds = self._fed("keys at S1+1", induction, "induction", "k", "S1+1", classes)
        return feeds & self._looks("S1+1->S1", "S1+1->S1+1")

    def backup(self, taken: Mask, movers: Mask) -> Mask:
        """Heads outside those taken whose path to the logits grows without the name movers."""
        table, rules = self.table, self.rules
        heads = heads_of(table, movers)
        if not heads:
            self.why["backup name mover"] = "there is no name mover to knock out"
            for name in ("without movers", "growth"):
                add_share(table, name, None)
            return movers
        found, shares = without(self.model, self.task, heads, self.stack, spans(NAMES), self.batch)
        self._add("without movers", found)
        grown = (self.logits.raw - found.raw) / self.whole
        add_share(table, "growth", found.senders, grown.mean(1), standard_error(grown.T))
        add_scores(table, {f"END->{name} without movers": shares[name] for name in NAMES})
        kept = float(found.clean.mean()) / self.whole
        self.notes.append(f"With name movers at their means, {kept:.0%} of the difference is left.")
        looks = table[[f"END->{name} without movers" for name in NAMES]].max(axis=1)
        grows = (table["growth_low"] > 0) & (table["without movers"] >= GROWS * table["logits"])
        strong = supports(table, "without movers", rules.least)
        return strong & grows & (looks >= rules.attends) & ~taken

    def say(self, name: str, chosen: Mask) -> None:
        """Which heads a class has, or why none."""
        listed = ", ".join(f"{layer}.{head}" for layer, head in heads_of(self.table, chosen))
        if not listed and name in self.why:
            listed = f"not asked for, since {self.why[name]}"
        self.notes.append(f"{name}: {listed or 'no head meets the rule'}.")

    def _fed(
        self, name: str, of: Mask, called: str, parts: str, at: str, classes: Sequence[str]
    ) -> Mask:
        """Heads with a path to these inputs of the heads found before; none where there are none."""
        heads = heads_of(self.table, of)
        receivers = [(layer, head, part) for layer, head in heads if layer > 0 for part in parts]
        if receivers:
            self._add(name, self._path(receivers, at))
        else:
            where = " after the first layer" if heads else ""
            self.why |= dict.fromkeys(classes, f"there is no {called} head{where} to feed")
            add_share(self.table, name, None)
        return supports(self.table, name, self.rules.least)

    def _looks(self, at: str, *others: str) -> Mask:
        """Heads that attend there, and more than to each of the others, told from chance."""
        looks = self.table[at] >= self.rules.attends
        for other in others:
            looks &= more(self.looked[at], self.looked[other]).flatten().numpy()
        return looks

    def _path(self, receivers: Any, position: str) -> PathEffects:
        return task_effects(
            self.model, self.task, receivers, "ioi", position, stack=self.stack.name,
            batch=self.batch, who="ioi_classes",
        )  # fmt: skip

    def _add(self, name: str, found: PathEffects) -> None:
        """What patching takes of the logit difference, as a share of its mean."""
        lost = -found.raw / self.whole
        add_share(self.table, name, found.senders, lost.mean(1), standard_error(lost.T))

    def _copies(self) -> None:
        """Shares of names that heads write, and write against."""
        shape = (2, len(attending(self.stack)), self.stack.heads)
        weights = head_weights(self.model, self.stack.name, attending(self.stack))
        total, count = torch.zeros(shape), 0
        try:
            for part in batches(self.model, self.task[:COPIED], "ioi_classes", self.batch):
                names = torch.stack([part.prompt.where(name) for name in NAMES]).any(0)
                shares: Tensor = torch.stack(name_copy(self.model, weights, part.prompt, names))
                total += int(names.sum()) * shares.cpu()
                count += int(names.sum())
        except ValueError as problem:
            self.copying, total, count = False, torch.full(shape, torch.nan), 1
            self.notes.append(f"What heads copy is not told, and no rule asks for it: {problem}")
        add_scores(self.table, {"copies": total[0] / count, "copies_against": total[1] / count})


def _difference(found: PathEffects) -> str:
    better = float((found.clean > 0).float().mean())
    return (
        f"The logit difference is {float(found.clean.mean()):.2f} on {len(found.clean)} records, "
        f"{float(found.corrupted.mean()):.2f} with three other names; IO is preferred in {better:.0%}."
    )
