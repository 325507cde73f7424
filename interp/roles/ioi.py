"""Head classes of the circuit for indirect object identification (Wang et al. 2022, arXiv 2211.00593).

Each class is found from the answer back: a path to what was found before, and a look at the named
place. Effects are exact path patching with the operator "ioi" and prompts of three unrelated names.
"""

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pandas

from interp.asking import choose_stack
from interp.batches import as_task
from interp.registry import unknown
from interp.roles.ioi_stages import INPUTS, NAMES, Rules, Stages
from interp.structure import Stack
from interp.task import Record, Task

if TYPE_CHECKING:
    from interp.model import Model

CLASSES = (
    "name mover",
    "negative name mover",
    "S-inhibition",
    "induction",
    "duplicate token",
    "previous token",
    "backup name mover",
)


def ioi_classes(
    model: "Model",
    task: Any,
    *,
    least: float = 0.01,
    strongest: float = 0.25,
    attends: float = 0.1,
    copies: float = 0.5,
    inputs: str = "v",
    stack: str | None = None,
    batch: int = 16,
    seed: int = 0,
) -> pandas.DataFrame:
    """A row for each head: its classes ("" for none), and the numbers that the rules looked at.

    The task has the spans IO, S1 and S2 ("S1+1" is the word after S1, END the last position) and
    counterfactuals of three unrelated names: `Task.load("ioi", counterfactual="names")`. Effects are
    shares of the mean logit difference that patching the path takes away, above 0 where the head
    supports the answer. A rule asks for a share of `least` whose 95 % interval over records leaves out
    0, and for attention of `attends` to the named place, more (told from chance) than to what competes;
    for movers also that `copies` of the names are copied (negative ones: written against), and that the
    effect is `strongest` times the strongest head's at least, since theirs are the largest effects.

        name mover           path to the logits; END -> IO more than S; copies
        negative name mover  the same path raises the difference; END -> a name; writes against it
        S-inhibition         path to the name movers' queries at END; END -> S2 more than other names
        induction            path to S-inhibition's values at S2; S2 -> S1+1 more than S1
        duplicate token      the same path; S2 -> S1 more than S1+1
        previous token       path to the induction heads' keys at S1+1; S1+1 -> S1 more than itself
        backup name mover    path to the logits when name movers are at their means, half as much again as
                             with them; then END -> a name

    Copied names are those of the first 32 records. `inputs="vk"` lets S-inhibition's keys receive too.
    `previous`, `duplicate`, `induction` and `own` are scores on random words said twice; no rule asks
    for them. `table.attrs["notes"]` names each class' heads, or says why it has none.
    """
    if inputs not in INPUTS:
        raise LookupError(unknown("inputs of S-inhibition heads", inputs, list(INPUTS)))
    if batch < 1:
        raise ValueError(f"batch={batch}: give at least 1.")
    tower, task = _checked(model, task, stack)
    stages = Stages(model, task, tower, batch, Rules(least, strongest, attends, copies))
    stages.look(seed)
    movers, negative = stages.movers()
    inhibition = stages.inhibition(movers)
    induction, duplicate = stages.repeats(inhibition, inputs)
    previous = stages.previous(induction)
    backup = stages.backup(movers | negative, movers)
    found = (movers, negative, inhibition, induction, duplicate, previous, backup)
    table = stages.table
    table.insert(2, "class", [_named(row) for row in zip(*found, strict=True)])
    for name, chosen in zip(CLASSES, found, strict=True):
        stages.say(name, chosen)
    table.attrs["notes"] = stages.notes
    return table


def _named(row: tuple[bool, ...]) -> str:
    return ", ".join(name for name, chosen in zip(CLASSES, row, strict=True) if chosen)


def _checked(model: "Model", task: Any, stack: str | None) -> tuple[Stack, Task]:
    """The stack, and the task with the span "S1+1"."""
    if model.kind not in ("text", "vlm"):
        raise ValueError(
            f"{model.name} does not go on from a text (its kind is {model.kind!r}); classes of IOI are told "
            "in a model that writes the next word."
        )
    task = as_task(task, "ioi_classes")
    for number, record in enumerate(task):
        missing = [name for name in NAMES if name not in record.spans]
        if missing:
            raise LookupError(
                f"record {number} has no span {', '.join(missing)}; its spans are "
                f"{', '.join(record.spans) or 'none'}. Classes of IOI need IO, S1 and S2, as in "
                "interp.Task.load('ioi', counterfactual='names')."
            )
        again = {record.text("IO"), record.text("S1")} & _words(record.counterfactual or "")
        if again:
            raise ValueError(
                f"the counterfactual of record {number} says {', '.join(sorted(again))} again: "
                f"{record.counterfactual!r}. Classes of IOI are told against three other names, as in "
                "interp.Task.load('ioi', counterfactual='names')."
            )
    records = tuple(_with_next(record) for record in task)
    return choose_stack(model.stacks, stack, model.name), replace(task, records=records)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _with_next(record: Record) -> Record:
    """The record with a span "S1+1": the word, or the mark, after S1."""
    if "S1+1" in record.spans:
        return record
    found = re.compile(r"\s*(\w+|[^\w\s])").match(record.prompt, record.spans["S1"][1])
    if found is None:
        raise ValueError(f"nothing comes after S1 in {record.prompt!r}.")
    return replace(record, spans={**record.spans, "S1+1": found.span(1)})
