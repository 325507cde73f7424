"""Tokens that take attention they did not earn, with their drained values, peaks and massive activations."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas

from analyses import analysis
from interp.batches import Batch, as_task, batches
from interp.dormancy import HARMLESS, all_answered, rest_table
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

    The table has a row for each domain, stack and head, means over texts: `alpha_first`, attention to the
    first position over the queries that see it; `sink`, the share of texts where that is above epsilon;
    `hidden`, later sinks a text, and `hidden_mass`, attention on them; `entropy` (nats); `written`, the norm
    of what the head adds to the stream; `drain_first`, |v W_O| of the first position over the mean of the
    others; `visual_sink` and `visual_rest`, attention of the rows after the image on its sinks and on the
    rest of it. Tables: `tokens` (of the first `shown` texts, by layer: `alpha` mean over heads, `heads` that
    make a sink of it, `drain`, `peak`: norm over the largest other norm, `phi`), `massive` (largest
    activations, `over_median`: |x| over the median), `profile` (mean alpha and Sink_k^eps by position, for
    each length), `dims` (channels that were looked at), and `rest`: what silencing a head does to the loss
    in nats (`effect`, 95 % interval over texts `low` to `high`); `confirmed` where that fits its label.
    """
    rules = Rules(epsilon, _threshold(hidden), least_rows, least_received)
    for name, value in (("epsilon", epsilon), ("dormant", dormant), ("quiet", quiet)):
        if not isinstance(value, (int, float)) or not 0 < value < 1:
            raise ValueError(f"{name}={value!r} is a share, between 0 and 1.")
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
            own = find_sink_dims(model, prompts, stack=tower.name, tau=tau, given=dims)
            found.tables["dims"] += _dims_rows(own, tower.name)
        for domain, part in grouped.items():
            for one in part:
                found.read(domain, one, tower, own, visual_from)
    table: Any = pandas.DataFrame(found.head_rows())
    found.tables["profile"] = found.profile_rows()
    tables = {name: pandas.DataFrame(rows) for name, rows in found.tables.items() if rows}
    rest = _rest(model, grouped, found, (dormant, quiet), ablate)
    tables |= {} if rest is None else {"rest": rest}
    notes += found.notes
    notes += _notes(table, tables, rules)
    lengths = [one.prompt.length for part in grouped.values() for one in part]
    notes.append(
        f"Texts have {min(lengths)} to {max(lengths)} positions; shares fall with length, so compare them at "
        "one length (table profile)."
    )
    if rules.hidden != "relative" and 2 / min(lengths) > float(rules.hidden):
        notes.append(
            f"In {min(lengths)} tokens uniform attention is near {1 / min(lengths):.2f}: {rules.hidden:g} "
            "marks much as later sinks; hidden='relative' asks for 5 times uniform."
        )
    return Result("sinks", table, tables, notes=notes)


def _rest(
    model: Model,
    grouped: dict[str, list[Batch]],
    found: Found,
    limits: tuple[float, float],
    ablate: str,
) -> Any:
    """Resting heads of the stack that writes; without losses where the model has none to be read."""
    main = next(iter(model.stacks))
    if not model.stacks[main].causal or main not in found.layers:
        return None
    means = {domain: found.means(domain, main) for domain in grouped}
    if not all("written" in one for one in means.values()):
        return None
    if ablate != "none" and (
        model.kind not in ("text", "vlm") or not model.hf.get_output_embeddings()
    ):
        found.note(
            f"{type(model.hf).__name__} does not go on from its prompt: no head was silenced."
        )
        ablate = "none"
    mixed = [name for name, part in grouped.items() if not all_answered(part)
             and any(record.answers for one in part for record in one.records)]  # fmt: skip
    if mixed and ablate != "none":
        found.note(
            f"Not all records of {', '.join(mixed)} have answers: the loss is of their texts."
        )
    return rest_table(model, grouped, main, found.layers[main], means, limits, ablate)


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
    for (domain, stack), part in table.groupby(["domain", "stack"], sort=False):
        over = part[part["alpha_first"] > rules.epsilon]
        drained = int((over["drain_first"] < DRAINED).sum()) if "drain_first" in part else 0
        notes.append(
            f"{domain}, {stack} stack: {len(over)} of {len(part)} heads give the first position more than "
            f"{rules.epsilon:g} of their attention; in {drained} of them its value is drained (below half of "
            f"the others'). Later sinks: {part['hidden'].mean():.2f} a head and text, with "
            f"{part['hidden_mass'].mean():.1%} of the attention."
        )
    if "dims" in tables:
        for stack, part in tables["dims"].groupby("stack", sort=False):
            listed = ", ".join(str(channel) for channel in part.loc[part["found"], "channel"])
            none = "none; no channel of the first token reaches tau"
            notes.append(f"Sink dimensions of the {stack} stack: {listed or none}.")
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
    asleep = rest[(rest["label"] != "active") & rest["effect"].notna()]
    if len(asleep):
        harmless = int(asleep["confirmed"].sum())
        notes.append(
            f"Silencing one resting head at a time: {harmless} of {len(asleep)} times the loss rises by less "
            f"than {HARMLESS:g} nats (upper end of a 95 % interval)."
        )
    return notes
