"""Looked for once and used often: the heads that an intervention should act on, and sink dimensions.

    found = find_heads(model, task, PASTA(highlight="key"), method="coarse to fine", save="heads.jsonl")
    found.save("heads.json")
    model.generate(prompt, using=PASTA(highlight="key", heads="heads.json"))

`each` and `tasks` cost as many passes over a task as there are heads, layers x heads x records forwards;
`coarse to fine` costs layers + 6 x heads passes and up to 28 for the sets that it chooses from.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from interp.asking import choose_layers, choose_stack
from interp.batches import as_task
from interp.progress import bar
from interp.prompt import Prompt
from interp.registry import unknown
from interp.sink_dims import find_sink_dims
from interp.sites import QUERY_HEAD_SITES, whole_number
from interp.steering.found import Found
from interp.steering.needs import writing_stack
from interp.steering.stages import MEASURES, Ranked, coarse_to_fine, one_by_one, told, tried
from interp.steering.trials import Score, Trials, check_headed
from interp.task import Task

if TYPE_CHECKING:
    from interp.model import Model

METHODS = ("each", "tasks", "coarse to fine")


def find_heads(
    model: "Model",
    task: Any,
    intervention: Any,
    *,
    method: str = "each",
    by: str = "accuracy",
    top: int | None = None,
    dev: Task | None = None,
    batch: int = 64,
    save: str | Path | None = None,
    progress: bool | None = None,
) -> Found:
    """The heads on which the intervention helps at a task, best first, as a finding to be saved.

    Candidates are the heads that the intervention acts on as it is: all of its layers, or its own.
    Measured is what the model says next, as `interp.score` does; `by` names what counts, the other breaks
    ties. One head at a time, then

    * "each" keeps those that are better than the plain model (ACT), or the `top` best;
    * "tasks" keeps those that are among the `top` best of every one of several tasks (PASTA);
    * "coarse to fine" tries whole layers, then each head of the best six, then sets of the best heads, and
      keeps the set that is best on `dev` (AutoPASTA), which is `task` itself where none is given.

    `save` is a JSONL file of finished measurements, so that a search that was killed goes on.
    """
    tasks = _checked(task, intervention, method, by, top, dev)
    save = None if save is None else Path(save).expanduser()
    trials = [Trials(model, each, intervention, batch, save) for each in tasks]
    candidates = _candidates(model, intervention, trials[0].prompt)
    how: dict[str, Any] = {"method": method, "by": by, "intervention": repr(intervention)}
    how |= {"task": [each.name for each in tasks], "digest": [each.digest for each in tasks]}
    how |= {"records": [len(each) for each in tasks]}
    if method == "coarse to fine":
        on = trials[0] if dev is None else Trials(model, dev, intervention, batch, save)
        how |= {"dev": on.task.name, "dev digest": on.task.digest, "dev records": len(on.task)}
        found, stages = coarse_to_fine(trials[0], on, candidates, by, progress)
        return Found.on(model, "heads", found, **how, **stages)
    single = one_by_one(candidates)
    with bar(len(tasks) * len(single), "heads", progress) as shown:
        plain = [each.under(None) for each in trials]
        tables = [tried(each, single, by, shown) for each in trials]
    how |= {"top": top, "baseline": [asdict(one) for one in plain]}
    how |= {"scores": [told(each) for each in tables]}
    lists = [_kept(each, base, by, top) for each, base in zip(tables, plain, strict=True)]
    found = [one for one in lists[0] if all(one in other for other in lists[1:])]
    _check_some(found, tables, plain, by)
    return Found.on(model, "heads", found, **how)


def _kept(found: Ranked, plain: Score, by: str, top: int | None) -> list[tuple[int, int]]:
    """The `top` best, or those better than the plain model."""
    better = [one for one in found if getattr(one[1], by) > getattr(plain, by)]
    return [heads[0] for heads, _ in (better if top is None else found[:top])]


def sink_dims(
    model: "Model",
    texts: Any,
    *,
    count: int = 2,
    tau: float | None = None,
    batch: int = 16,
) -> Found:
    """The `count` channels that are largest at the first token, averaged over texts and middle layers.

    `texts` are a task, of which 30 records will do, prompts, or texts; for VAR(dims=...). Refused where
    none of the channels reaches `tau`: such a model has no sinks that they would tell.
    """
    stack = writing_stack(model, "sink_dims")
    found = find_sink_dims(
        model, _prompts(model, texts, batch), stack=stack.name, count=count, tau=tau
    )
    sizes = dict(zip(found.candidates, (round(size, 4) for size in found.sizes), strict=True))
    if not found.dims:
        raise ValueError(
            f"{model.name} has no sink dimensions in these texts: the largest channels of the first token "
            f"reach {sizes}, in units of its rms, and a sink's reach {found.tau:.4g} (tau)."
        )
    how = {"sizes": list(sizes.items()), "tau": found.tau, "layers": found.layers}
    return Found.on(model, "sink dims", found.dims, **how)


def _prompts(model: "Model", given: Any, batch: int) -> Iterable[Prompt]:
    if isinstance(given, Prompt):
        return [given]
    if isinstance(given, (list, tuple)) and given and all(isinstance(x, Prompt) for x in given):
        return given
    task = as_task(given, "sink_dims")
    return (task[start : start + batch].encode(model) for start in range(0, len(task), batch))


def _checked(
    task: Any, intervention: Any, method: str, by: str, top: Any, dev: Any
) -> Sequence[Task]:
    check_headed(intervention)
    for name, value, known in (("method", method, METHODS), ("by", by, MEASURES)):
        if value not in known:
            raise LookupError(unknown(name, value, list(known)))
    if top is not None and whole_number(top, "top=") < 1:
        raise ValueError(f"top={top}: how many of the best heads, at least 1.")
    tasks = list(task.values()) if isinstance(task, Mapping) else task
    tasks = [tasks] if isinstance(tasks, Task) else tasks
    if not isinstance(tasks, (list, tuple)) or not all(isinstance(each, Task) for each in tasks):
        raise TypeError(
            f"find_heads takes a Task, or for 'tasks' several, not {type(task).__name__}."
        )
    if method == "tasks" and (len(tasks) < 2 or top is None):
        raise ValueError(
            "method='tasks' keeps heads that are among the best of every task: give several tasks, and "
            "top= (the paper's is 400 of 1024)."
        )
    if method != "tasks" and len(tasks) != 1:
        raise ValueError(
            f"method={method!r} looks at one task; method='tasks', top=... at several."
        )
    if method != "coarse to fine" and dev is not None:
        raise ValueError(
            "dev= is what 'coarse to fine' chooses by; the other methods use the task alone."
        )
    if method == "coarse to fine" and top is not None:
        raise ValueError("'coarse to fine' chooses how many heads by itself; leave top= out.")
    return tasks


def _candidates(model: "Model", intervention: Any, prompt: Prompt) -> dict[int, tuple[int, ...]]:
    """Heads by layer that the intervention acts on as it is."""
    found: dict[int, set[int]] = {}
    with torch.no_grad():
        hooks = intervention.plan(model, prompt)[1]
    for hook in hooks:
        if hook.site in QUERY_HEAD_SITES:
            stack = choose_stack(model.stacks, hook.stack, model.name)
            heads = range(stack.heads) if hook.heads is None else hook.heads
            for layer in choose_layers(stack, hook.layers, hook.site):
                found.setdefault(layer, set()).update(heads)
    if not found:
        raise ValueError(
            f"{intervention!r} acts on no heads of this task's prompts; are its settings inert?"
        )
    return {layer: tuple(sorted(heads)) for layer, heads in sorted(found.items())}


def _check_some(
    found: Sequence[Any], tables: Sequence[Ranked], plain: Sequence[Score], by: str
) -> None:
    """A finding without heads would be one that changes nothing."""
    if found:
        return
    if len(tables) > 1:
        raise ValueError("no head is among the best of every task: ask for more of them, top=...")
    ((layer, head),), score = tables[0][0]
    raise ValueError(
        f"no head alone does better than the plain model, whose {by} is {getattr(plain[0], by):.4g}: the "
        f"best, {layer}.{head}, has {getattr(score, by):.4g}. Ask for the best all the same, top=..., count "
        "by='probability', or try other settings."
    )
