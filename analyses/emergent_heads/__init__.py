"""Heads that come to do a task between two checkpoints of a model, and whether the gain is theirs.

"Thinking Sparks" (arXiv 2509.25758), by exact patching in place of its estimates, which can be asked for.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.emergent_heads.asked import (
    SHARE,
    STEPS,
    Settings,
    check_tasks,
    checkpoints,
    checks,
    halves,
)
from analyses.emergent_heads.judging import Judged, emergent, judged
from analyses.emergent_heads.measures import Measured, measured
from analyses.emergent_heads.notes import notes
from analyses.emergent_heads.tables import (
    checkpoints_table,
    draws_table,
    membership,
    parts_table,
    status_table,
    tests_table,
)
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def emergent_heads(
    model: "Model",
    task: Any,
    *,
    before: Any = None,
    method: str = "sweep",
    least: float = 0.1,
    direction: str = "both",
    metric: str = "logit_diff",
    first: bool = False,
    edges: int | None = None,
    share: float = SHARE,
    steps: int = STEPS,
    draws: int = 20,
    scales: Sequence[float] | float = (0.5, 1.3),
    seed: int = 0,
    stack: str | None = None,
    batch: int = 16,
) -> Result:
    """A row for each head and task: what it does before and after, and whether it emerged between.

    `model` is the last checkpoint, `before` an earlier one or several in their order: a Model, a shipped
    name or a folder; those given by name are opened one after the other. `task`: a Task with
    counterfactuals, or several. A seeded half of a task's records finds heads, the other half judges them.

    `method="sweep"` is exact: a head's importance is its mean effect on the metric as its z is patched at
    all positions, over the LAST checkpoint's change of the metric from corrupted to clean; one scale for
    all checkpoints, so that one that cannot do the task yet has no circuit. `direction`: "noise" (corrupted
    into clean: what is needed; blind for heads that back each other up), "denoise" (clean into corrupted:
    what suffices), or "both" (of the two, the larger mean). A head is in a checkpoint's circuit where the
    whole 95 % interval of its importance over records is `least` or more in size.
    `method="eap_ig"` is an estimate: EAP-IG in `steps` for a greedy circuit of `edges` edges (or a `share`
    of all), less the edges below `least` of the last checkpoint's change; a head is in where such an
    edge leaves it, with the edges' mean sizes as importance. Then `metric` may be "kl" as in the paper
    (its tau = 0.1 is in nats, so least = 0.1 / the last checkpoint's `change`), and the tests report
    logit_diff.

    Status: "emergent" (in the last circuit and not in the first), "retained" (both), "lost", "neither".
    `before` and `after`: importance in the first and last checkpoint, with intervals; `first`: the first
    checkpoint that has it; `frequency`: the share of checkpoints that do; `effect`:
    (I_last - I_earlier) / (I_last + I_earlier + 1e-6) of mean sizes that sum to 1 over heads, averaged
    over the earlier checkpoints; `before_own`: importance in the first checkpoint over that one's own
    change; `grew`: an emergent head whose `before_own` is `least` or more already (told of a sweep only).

    Tables: `membership` (each checkpoint's importance of each head), `checkpoints` (held-out accuracy of
    the next token with Wilson's 95 % interval, metric, heads in the circuit, `change` of the metric that
    importances are over), `tests` (the last checkpoint with the z of emergent or of retained heads
    zeroed at all positions, of the heads that emerged for another task, of `draws` seeded random sets of as
    many heads that did not emerge, and with emergent heads times each of `scales`; `removed`: the share of
    the gain in accuracy that is gone), `draws` (each set), `parts` (emergent heads silenced one alone,
    and those of a layer together: heads that back each other up show only so).
    """
    settings = Settings(
        method, least, direction, metric, first, edges, share, steps, draws, _floats(scales), seed,
        stack, batch,
    )  # fmt: skip
    checks(settings)
    tasks = {name: halves(name, one, seed) for name, one in check_tasks(task).items()}
    found: list[Measured] = []
    scale: dict[str, float] = {}  # of each task, the last checkpoint's change
    digests: dict[str, str] = {}
    for label, digest, one in checkpoints(model, before, stack):  # the last one comes first
        digests[label] = digest
        for name, (finding, judging) in tasks.items():
            found.append(measured(one, label, name, finding, judging, settings, scale.get(name)))
            scale.setdefault(name, found[-1].change)
        del one  # so that it is let go of before the next one is opened
    last = found[0].checkpoint
    order = [*dict.fromkeys(part.checkpoint for part in found if part.checkpoint != last), last]
    members = membership(found, order, settings)
    table = status_table(members, found, order)
    emerged = {name: emergent(table[table["task"] == name]) for name in tasks}
    tests: list[Judged] = []
    for name, (_, judging) in tasks.items():
        tests += judged(model, name, judging, table[table["task"] == name], emerged, settings)
    tables = {
        "membership": members,
        "checkpoints": checkpoints_table(found, members, order),
        "tests": tests_table(tests, found, order),
        "draws": draws_table(tests),
        "parts": parts_table(tests),
    }
    said = notes(table, tables, settings, order)
    made = {"checkpoints": {name: digests[name] for name in order}}
    return Result("emergent_heads", table, tables, notes=said, made=made)


def _floats(scales: Sequence[float] | float) -> tuple[float, ...]:
    listed = [scales] if isinstance(scales, (int, float)) else list(scales)
    return tuple(float(one) for one in listed)
