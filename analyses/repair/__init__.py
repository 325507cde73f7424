"""Are a model's errors mended when a few heads are told where to look?

The intervention of Merullo, Eickhoff & Pavlick 2024 (arXiv 2310.08744): heads that should look at the
wrong answers, so that heads after them leave those alone, are made to look there.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.repair.asked import SIZE, Asked, checked
from analyses.repair.choosing import chosen
from analyses.repair.effects import direct, looks
from analyses.repair.notes import notes
from analyses.repair.runs import conditions
from analyses.repair.tables import draws_table, heads_table, main_table, records_table, tensors
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def repair(
    model: "Model",
    task: Any,
    *,
    heads: Sequence[Any] | None = None,
    places: str | Sequence[str] = "wrong",
    avoid: str | Sequence[str] | None = None,
    mass: float | None = None,
    position: Any = "last",
    choose_on: Any = None,
    size: int = SIZE,
    draws: int = 20,
    scale: float = 1.0,
    metric: str = "logit_diff",
    batch: int = 16,
    seed: int = 0,
    stack: str | None = None,
) -> Result:
    """A row for each condition: how many records are answered right when heads look where they are told.

    The attention pattern of the `heads`, in the row of `position` (where the answer follows), is written
    over after the softmax: equal shares of 1 on the `places` (or `mass` on each), 0 elsewhere. The rest of
    the model runs as it does. `scale` mixes: scale * new + (1 - scale) * old.

    `places="wrong"`: where the first token of a wrong answer stands; in spans that spell the wrong answer
    where the record has such (those of solved examples, "shot ..", are left out), else anywhere in the
    prompt. "right": the same for right answers, as a control. Or a list of spans (every token of each),
    less those of the spans `avoid`: places=["noun 0", "noun 1", "noun 2"], avoid="noun" are the objects of
    the wrong colours.

    `heads`: (layer, head) or "2.3". None: each head alone is written over on records that are not reported
    (those of `choose_on`, a task, or the first half of this one), and the `size` with the highest
    accuracy there (ties by the metric) are taken. They need not be the heads of a circuit.

    Rows: "plain", "repaired" (all heads), each head alone (where there are several), "elsewhere" (the same
    heads look at as many other tokens, drawn by `seed`, between the first place and the position), and
    "random" (the mean over `draws` sets of as many other heads). `accuracy`: the likeliest of all tokens is
    the first of a right answer, with Wilson's 95 % interval; `options`: the likeliest among right and wrong
    answers is. `gain` is accuracy less the plain one, paired by record, with a 95 % interval (Agresti and
    Min 2005, which has a width where no record changes). Of "random",
    ends of accuracy and gain are the worst and the best draw. `mended`: wrong in the plain run and right in
    this; `broken`: the other way. Answers of several tokens count by their first.

    Tables: `heads` (a row for each head of the model: `importance`, its share by path patching to the
    logits on counterfactuals; `before`, `after`, the direct effect on the logit difference, both by the
    plain run's last norm, and its `change`), `movers` (attention at the end, to right and wrong answers, of
    up to three heads with the largest direct effects), `draws`, `records`, and `choosing` where heads were
    chosen. Tensors `right` and `metric`, [condition, record]: rows of the table without "random", then the
    draws.

    Published, of GPT2-Medium on Colored Objects: accuracy 49.6 % plain, 93.7 % with heads 12.3, 13.4, 13.13
    and 19.1 together (78.1 % with 19.1 alone, 81.5 % with the other three), and no new mistakes.
    """
    asked = checked(Asked(
        model, task, heads, places, avoid, mass, position, choose_on, size, draws, scale, metric, batch,
        seed, stack,
    ))  # fmt: skip
    asked = chosen(asked)
    found = conditions(asked)
    effects = direct(asked)
    table = main_table(asked, found)
    tables = {
        "heads": heads_table(asked, effects),
        "movers": looks(asked, effects),
        "draws": draws_table(found),
        "records": records_table(asked, found),
    }
    if asked.choosing is not None:
        tables["choosing"] = asked.choosing
    return Result("repair", table, tables, tensors(found), notes(asked, table, tables, effects))
