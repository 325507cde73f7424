"""Tokens that take attention they did not earn, with their drained values, peaks and massive activations."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from analyses import analysis
from interp.batches import as_task, batches
from interp.dormancy import HARMLESS, rest_table
from interp.model import Model
from interp.prompt import Prompt
from interp.result import Result
from interp.sink_dims import SinkDims, find_sink_dims
from interp.sink_reading import Found, Rules
from interp.structure import Stack
from interp.task import Task

DRAINED = 0.5  # a value below half of the others' is called drained in the notes


@analysis
def sinks(
    model: Model,
    task: Any,
    *,
    stack: str | None = None,
    epsilon: float = 0.3,
    hidden: float | str = 0.1,
    least_rows: int = 4,
    least_received: float = 2.0,
    dims: Sequence[int] | None = None,
    tau: float | None = None,
    visual_from: int = 2,
    dormant: float = 0.8,
    quiet: float = 0.1,
    ablate: str = "candidates",
    shown: int = 8,
    batch: int = 16,
) -> Result:
    """Which tokens are attention sinks, in every head of every stack, and which heads rest on them.

    `task` is a Task, texts or a Prompt, or several by domain name, {"prose": ..., "code": ...}.
    `epsilon` is Gu's threshold for the first position; `hidden` ACT's for later ones, or "relative" (5/N),
    where at least `least_rows` queries see them and give them `least_received` in all (1 and 0: ACT's rule).
    `dims` are sink dimensions of the residual stream; without them they are looked for (`tau` as in
    interp.sink_dims). Visual sinks are image tokens whose phi reaches tau in layers from `visual_from`.
    `ablate` silences the heads that rest somewhere ("candidates"), "all" heads or "none".
    """
    rules = Rules(epsilon, _threshold(hidden), least_rows, least_received)
    if ablate not in ("candidates", "all", "none"):
        raise ValueError(f"ablate={ablate!r}: one of candidates, all, none.")
    grouped = {
        name: list(batches(model, part, "sinks", batch)) for name, part in _domains(task).items()
    }
    found, notes = Found(model, rules, shown), []
    for tower in _towers(model, stack, notes):
        own = None
        if tower.name == "text" or tower.causal:
            prompts = [one.prompt for part in grouped.values() for one in part]
            own = _dims(model, prompts, tower, dims, tau)
            found.tables["dims"] += _dims_rows(own, tower.name)
        for domain, part in grouped.items():
            for one in part:
                found.read(domain, one, tower, own, visual_from)
    table = pandas.DataFrame(found.head_rows()).sort_values(["domain", "stack", "layer", "head"])
    tables = {name: pandas.DataFrame(rows) for name, rows in found.tables.items() if rows}
    main = next(iter(model.stacks))
    if model.stacks[main].causal and main in found.layers:
        means = {domain: found.means(domain, main) for domain in grouped}
        if all("written" in one for one in means.values()):
            limits = (dormant, quiet)
            layers = found.layers[main]
            tables["rest"] = rest_table(model, grouped, main, layers, means, limits, ablate)
    notes += _notes(table, tables, rules)
    shortest = min(one.prompt.length for part in grouped.values() for one in part)
    if rules.hidden != "relative" and 2 / shortest > float(rules.hidden):
        notes.append(
            f"Texts are as short as {shortest} tokens: uniform attention is near {1 / shortest:.2f}, and "
            f"{rules.hidden:g} marks much as later sinks; hidden='relative' asks for 5 times uniform."
        )
    return Result("sinks", table.reset_index(drop=True), tables, notes=notes)


def _threshold(hidden: float | str) -> float | str:
    if hidden == "relative" or (isinstance(hidden, (int, float)) and 0 < hidden < 1):
        return hidden
    raise ValueError(f"hidden={hidden!r} is a share of attention between 0 and 1, or 'relative'.")


def _domains(task: Any) -> dict[str, Any]:
    """The texts by domain; a single task is one domain under its name."""
    if isinstance(task, Mapping):
        if not task:
            raise ValueError("sinks needs at least one domain, and none are given.")
        return {str(name): part for name, part in task.items()}
    if isinstance(task, Prompt):
        return {"prompt": task}
    if isinstance(task, (list, tuple)) and task and all(isinstance(part, Task) for part in task):
        names = [part.name for part in task]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two domains share a name, {names}; name them: {{'one': ..., 'other': ...}}."
            )
        return dict(zip(names, task, strict=True))
    own = as_task(task, "sinks")
    return {own.name: own}


def _towers(model: Model, stack: str | None, notes: list[str]) -> list[Stack]:
    """The stacks to look at: the named one, or all with a sequence of their own."""
    if stack is not None:
        if stack not in model.stacks:
            raise LookupError(f"{model.name} has no {stack!r} stack: {', '.join(model.stacks)}.")
        if "cross" in stack:
            raise ValueError("a sink is a position of one sequence; cross attention has two.")
        return [model.stacks[stack]]
    towers = [tower for name, tower in model.stacks.items() if "cross" not in name]
    if len(towers) < len(model.stacks):
        notes.append("Cross attention is left out: its queries and keys are different sequences.")
    return towers


def _dims(
    model: Model, prompts: list[Prompt], tower: Stack, dims: Sequence[int] | None, tau: float | None
) -> SinkDims:
    """The given sink dimensions, or what is found in the prompts."""
    found = find_sink_dims(model, prompts, stack=tower.name, tau=tau)
    if dims is None:
        return found
    return SinkDims(tuple(dims), found.candidates, found.sizes, found.tau, found.layers)


def _dims_rows(own: SinkDims, stack: str) -> list[dict[str, Any]]:
    return [
        {
            "stack": stack,
            "channel": channel,
            "phi": size,
            "tau": own.tau,
            "found": channel in own.dims,
        }
        for channel, size in zip(own.candidates, own.sizes, strict=True)
    ]


def _notes(table: Any, tables: dict[str, Any], rules: Rules) -> list[str]:
    notes = []
    for (domain, stack), part in table.groupby(["domain", "stack"]):
        over = part[part["alpha_first"] > rules.epsilon]
        drained = int((over["drain_first"] < DRAINED).sum()) if "drain_first" in part else 0
        notes.append(
            f"{domain}, {stack} stack: {len(over)} of {len(part)} heads give the first position more than "
            f"{rules.epsilon:g} of their attention; in {drained} of them its value is drained (below half of "
            f"the others'). Later sinks: {part['hidden'].mean():.2f} a head and text, with "
            f"{part['hidden_mass'].mean():.1%} of the attention."
        )
    if "dims" in tables:
        own = tables["dims"][tables["dims"]["found"]]
        listed = ", ".join(str(channel) for channel in own["channel"])
        notes.append(f"Sink dimensions: {listed}." if listed else
                     "Sink dimensions: none; no channel of the first token reaches tau.")  # fmt: skip
    if "massive" in tables:
        own = tables["massive"]
        channels = sorted(set(own.loc[own["massive"], "channel"]))
        notes.append(f"Massive activations in channels {channels}." if channels else
                     "No massive activations.")  # fmt: skip
    if "rest" in tables:
        notes += _rest_notes(tables["rest"])
    return notes


def _rest_notes(rest: Any) -> list[str]:
    labels_of = rest.groupby(["layer", "head"])["label"].agg(set)
    both = [
        f"{layer}.{head}"
        for (layer, head), own in labels_of.items()
        if "active" in own and len(own) > 1
    ]
    notes = (
        [f"Heads that rest in one domain and not in another: {', '.join(both)}."] if both else []
    )
    if "confirmed" in rest:
        asleep = rest[(rest["label"] != "active") & rest["effect"].notna()]
        harmless = int(asleep["confirmed"].sum())
        notes.append(
            f"Silencing one resting head at a time: {harmless} of {len(asleep)} times the loss rises by less "
            f"than {HARMLESS:g} nats (upper end of a 95 % interval)."
        )
    return notes
