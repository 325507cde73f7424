"""Which heads do a task, and how well they do it alone: a circuit found, and judged on other records.

Wang et al. 2022 (arXiv 2211.00593), Merullo et al. 2024 (arXiv 2310.08744), Hanna et al. 2024 (arXiv
2403.17806), Mueller et al. 2025 (arXiv 2504.13151).
"""

from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.circuit.asked import Asked, Settings
from analyses.circuit.notes import notes
from analyses.circuit.tables import edge_curve, head_table, size_table, stage_table, tables
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def circuit(
    model: "Model",
    task: Any,
    *,
    method: str = "sweep",
    size: float | None = None,
    faithful: float = 0.9,
    instead: str = "mean",
    reference: Any = "counterfactual",
    groups: str | None = "template",
    metric: str = "logit_diff",
    held_out: float = 0.5,
    draws: int = 20,
    greedy: int = 0,
    roles: bool = True,
    steps: int = 5,
    stack: str | None = None,
    batch: int = 32,
    seed: int = 0,
) -> Result:
    """A row for each head: what it is worth to the task, whether it is in the circuit, and its role.

    The circuit is found on the first records, and judged on the last (`held_out`, a share): no number of
    the judging was seen by the search. `method`: "sweep" knocks out each head alone (exact), takes
    them, largest first, until they do the share `faithful`, and drops those that the rest does without (so
    that the circuit need not be the first of the ranking); "paths" patches paths in stages (exact), 2 %
    of the heads at each; "eap_ig" (an estimate) builds it of 5 % of the edges, from the logits back. These
    two go by counterfactuals, whatever is `instead`. `size` sets how many, a share below 1 or a whole
    number: of heads, of heads at each stage, of edges.

    Heads outside are replaced: `instead` "mean" or "resample" (over the `reference`: "counterfactual",
    "prompt" or a task; by position, and by the note `groups` where records have it), "patch" (each
    record's counterfactual) or "zero". MLPs and embedding are kept. `metric` of the answers:
    "logit_diff", "logit", "probability", "log_probability".

    `score` (and its 95 % interval over records, where exact): by sweep, the share of the metric that is
    lost without the head; by paths, the share of the way to the corrupted metric, at the stage where it
    is largest (`stage`, the first one that took the head); above 0 the head helps. Of eap_ig: the share
    of the sizes of the circuit's edges. `role` and where it looks: `interp.roles`.

    Tables: `faithfulness`, the circuit on held-out records under each way of replacing the rest (`share`
    0: as if nothing was kept, 1: as the model; `each`: mean of records' own shares; `random`, mean and
    `random_most`, of `draws` random circuits of as many heads); `sizes`, the same for the first 1, 2, ...
    ranked heads; `areas`, CPR and CMD; `completeness` and `minimality` (K: the head's role); `greedy` adds
    so many steps of a search for the subset that makes the completeness gap large. `stages` of "paths",
    `edges` and `edge_sizes` of "eap_ig".
    """
    settings = Settings(method, size, faithful, instead, reference, groups, metric, held_out, draws,
                        greedy, roles, steps, stack, batch, seed)  # fmt: skip
    asked = Asked.of(model, task, settings)
    table = head_table(asked)
    more = {"faithfulness": asked.faithfulness(), "sizes": size_table(asked), **tables(asked)}
    if asked.found.stages:
        more["stages"] = stage_table(asked)
    if asked.found.estimated is not None:
        more |= edge_curve(asked)
    return Result("circuit", table, more, notes=notes(asked, table, more))
