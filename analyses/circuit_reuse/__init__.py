"""Do two tasks share a circuit? The heads of each, what they have in common, and what chance would.

Merullo, Eickhoff and Pavlick 2024 (arXiv 2310.08744), who find that 78 % of the heads of a circuit for
indirect objects are in that for coloured objects, in GPT2-Medium.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.circuit.asked import Asked, Settings
from analyses.circuit_reuse.asked import checked_sizes, tasks_of
from analyses.circuit_reuse.notes import notes
from analyses.circuit_reuse.tables import (
    crossed_table,
    faithfulness_table,
    head_table,
    ioi_table,
    member_table,
    overlap_table,
)
from interp.making import of_task
from interp.progress import bar
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def circuit_reuse(
    model: "Model",
    task: Any = None,
    *,
    records: int | None = None,
    method: str = "sweep",
    size: float | None = None,
    faithful: float = 0.9,
    sizes: Sequence[float] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3),
    instead: str = "mean",
    reference: str = "counterfactual",
    groups: str | None = "template",
    metric: str = "logit_diff",
    held_out: float = 0.5,
    draws: int = 20,
    roles: bool = True,
    steps: int = 5,
    stack: str | None = None,
    batch: int = 32,
    seed: int = 0,
    progress: bool | None = None,
) -> Result:
    """A row for each pair of tasks and each size: how many heads their circuits share.

    `task`: two tasks or more, as a list or a dict of tasks or of names; None: indirect objects and
    coloured objects, and as controls greater-than and induction, in words that the model's tokenizer
    has. `records`: at most so many of each (None: 200 of each of those four, all of what is given).

    Each circuit is found on the first records of its task and judged on the last (`held_out`), as in
    `circuit`, whose settings these are: `method` "sweep", "paths" (the paper's) or "eap_ig".

    `size`: "own" (the circuits as they were found), or a share of all heads, of "paths" at each stage.
    `shared` heads of `first_heads` and `second_heads`; `ratio`, of the smaller circuit (the paper's
    25 of 32); `jaccard`; `expected` and `most`, mean and 95 % quantile of what random sets of these
    sizes share; `p`, the chance that they share as many. Chance knows nothing of layers: heads that every
    task needs (of the first layer, say) are shared by any two circuits, which the controls show. Notes say
    so where a circuit does not reach 0.85 of its task.

    Tables: `heads` (of each task: score with its 95 % interval, rank, `in_circuit`, role), `members` (of
    each pair: heads in both circuits or in one, with their roles in each), `crossed` (what each
    circuit, and what each pair shares, does on each task), `faithfulness` (each circuit on held-out
    records), `ioi_classes` (the published classes, of tasks with their spans).
    """
    settings = Settings(method, size, faithful, instead, reference, groups, metric, held_out, draws, 0,
                        roles, steps, stack, batch, seed)  # fmt: skip
    shares = checked_sizes(sizes)
    tasks = tasks_of(model, task, records)
    asked: dict[str, Asked] = {}
    with bar(3 * len(tasks) + 1, "circuits", progress) as shown:
        for name, own in tasks.items():
            shown.set_description(name)
            asked[name] = Asked.of(model, own, settings)
            shown.update()
            _ = asked[name].judged
            shown.update()
            _ = asked[name].roles
            shown.update()
        table = overlap_table(asked, shares)
        more = {"heads": head_table(asked), "members": member_table(asked),
                "crossed": crossed_table(asked), "faithfulness": faithfulness_table(asked)}  # fmt: skip
        shown.update()
    if (classes := ioi_table(asked)) is not None:
        more["ioi_classes"] = classes
    result = Result("circuit_reuse", table, more, notes=notes(asked, table, more))
    result.made |= of_task(tasks)  # also of those that were not given
    return result
