"""Interventions side by side: what each does to a score, on the same records, beside controls."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.compare.asked import Settings, checked
from analyses.compare.notes import notes
from analyses.compare.runs import ran
from analyses.compare.tables import tables
from interp.result import Result, json_value

if TYPE_CHECKING:
    from interp.evaluation import Scored
    from interp.model import Model
    from interp.task import Task


@analysis(alone="it times each run, and workers beside each other would change what it tells")
def compare(
    model: "Model",
    task: Any,
    *,
    interventions: Any = None,
    controls: Any = (),
    measure: "str | Callable[..., Scored]" = "accuracy",
    rate: str | None = None,
    scoring: Mapping[str, Any] | None = None,
    choose: Mapping[str, Sequence[Any]] | None = None,
    validation: "Task | None" = None,
    whole: "Model | None" = None,
    reference: float | Mapping[str, float] | None = None,
    draws: int = 10_000,
    random_sets: int = 5,
    seed: int = 0,
    batch: int = 16,
) -> Result:
    """Which interventions help on a task, by how much, and whether a simple control does as well.

    `task` is a Task or several by name, {"random": ..., "adversarial": ...}. `interventions` is a name, a
    class, an instance or hooks, a list of these, or a mapping from names to them; without it all that there
    are, as they come, and table `refused` holds those that refuse this model or task, with the reason.
    `controls` are given in the same way, or as functions (model, prompt) -> (prompt, hooks). Two are known by
    name: "yes bias", a constant on the logit of yes, tuned on `validation`; "random heads", which gives each
    method that has `heads` as many others of the same layers, `random_sets` times (table
    `draws`).

    `measure` is "accuracy" (of the next token), "pope", "qa", "chair", "choice", or a function (model, task,
    *, using, batch) -> Scored; `scoring` its settings, such as {"max_new_tokens": 40}; `rate` the one of its
    rates that the table tells ("f1" of "pope"), else its own headline.

    `choose` holds settings to choose from by name, {"PAI": [PAI(alpha=0.2), PAI(alpha=0.5)]}: the best on
    `validation` stands for the name (table `choices`). A validation task that shares a record with what is
    reported is refused. `whole` is the same model without the fault, or `reference` a value for it (or one
    for each task): then `recovered` is the share of what is lost that comes back.

    The table has a row for each task and name: `value` with its 95 % interval `low` to `high`; `difference`
    to plain with `diff_low` and `diff_high`; records that were `helped` and `hurt`; `verdict`. Intervals are
    percentiles of `draws` bootstrap draws of records, the same draws for all, so that differences are paired.
    A verdict needs an interval without 0, and 6 records that changed: fewer can all go one way by chance.
    `seconds` is the wall time of the runs and `times` its ratio to plain: no benchmark. Tables: `rates` (all
    rates of the measure), `against` (each intervention less each control, paired), `records`.
    """
    settings = Settings(
        interventions, controls, measure, rate, scoring or {}, choose or {}, validation, whole, reference,
        draws, random_sets, seed, batch,
    )  # fmt: skip
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        asked = checked(model, task, settings)
        found = ran(asked)
    made = tables(asked, found)
    own = {
        "compared": {entry.name: entry.said for entry in found.entries},
        "told": {"measure": asked.measured, "rate": found.headline, "better": found.better},
        "protocol": json_value(found.protocol),
        "validation digest": None if validation is None else validation.digest,
    }
    said = notes(asked, found, made)
    said += [f"Warned: {one}" for one in dict.fromkeys(str(each.message) for each in heard)]
    return Result("compare", made.pop("table"), made, notes=said, made=own)
