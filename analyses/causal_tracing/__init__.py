"""Where a model keeps what it knows: the subject is corrupted, and one state after the other restored.

Causal tracing (Meng et al. 2022, arXiv 2202.05262), with the choices that Zhang & Nanda 2024 (arXiv
2309.16042) ask to be made openly: how the prompt is corrupted, what is read, which way is patched.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.causal_tracing.asked import NOISE, SAMPLES, Asked, checked
from analyses.causal_tracing.runs import cases, traced
from analyses.causal_tracing.tables import notes, positions_table, records_table, roles_table
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def causal_tracing(
    model: "Model",
    task: Any,
    *,
    kinds: Sequence[str] | str = ("resid_post", "mlp_out", "attn_out"),
    window: int | None = None,
    samples: int = SAMPLES,
    noise: float = NOISE,
    corruption: str = "noise",
    direction: str = "denoise",
    severed: Sequence[str] | str | None = None,
    known: bool = True,
    subject: str = "subject",
    metric: str = "probability",
    first: bool = False,
    seed: int = 1,
    batch: int = 4,
    budget: float = 1e9,
    save: str | None = None,
) -> Result:
    """A row for each kind of state, layer and role of a token: what restoring it there brings back.

    `corruption="noise"`: Gaussian noise is added to the embeddings of all tokens of the span `subject`,
    where the first layer receives them: `noise` times the standard deviation of the embeddings over all
    subject tokens of the task, in `samples` copies whose metrics are averaged; the same `seed` draws the
    same noise for every restoration and every record. "tokens": the record's counterfactual, a prompt of
    equal length, takes the place of the noised one (`samples` and `noise` are not used).
    `direction="denoise"`: states of the clean run are put into the corrupted one (ROME's; what suffices);
    "noise": the corrupted run's into the clean one (what is needed); or "both".

    `kinds`: "resid_pre" and "resid_post" are one state each; "mlp_out" and "attn_out" the outputs of a
    `window` of layers around the one named, as ROME has them. Without `window` it is ROME's 10 of 48
    layers, as many of this model's: at least 1, where a layer stands for itself. `severed="mlp_out"` or
    "attn_out" (or both, one after the other) adds rows of kind resid_post in which, besides, that part's
    outputs at that token are held as they are without the restoration, in all later layers.

    `known` keeps the records whose likeliest next token is right. `metric` is of the right answers:
    "probability", "logit_diff", "logit" or "log_probability"; `first` lets answers of several tokens
    stand for their first. `batch` records of one length run together (times `samples`), and `save` is a
    folder from which a killed run goes on.

    Columns: `direction`, `kind`, `severed` ("" or what was), `window`, `layer`, `role`. `effect` is the
    mean indirect effect (AIE): the restored metric less the corrupted one, or, of direction "noise", the
    clean one less the damaged one; with a 95 % interval over records, `low` to `high`. Several tokens of
    one role count as their mean. `share` is the mean effect over the mean total effect (clean less
    corrupted), empty where nothing was lost; `records` how many have a token of that role.
    Tables: `records` (`record` in the task, `clean`, `corrupted`, `total`, and `still`, the share of
    corrupted copies whose likeliest token is still right), `positions` (`effect` of each record, position
    and layer, with `token` and `role`). Exact: every effect is what a forward with hooks would give.
    """
    asked = checked(Asked(
        model, task, kinds, window, samples, noise, corruption, direction, severed, known, subject, metric,
        first, seed, batch, budget, save,
    ))  # fmt: skip
    found = [traced(asked, case, number) for number, case in enumerate(cases(asked))]
    records = records_table(found)
    table = roles_table(asked, found)
    tables = {"records": records, "positions": positions_table(found)}
    return Result("causal_tracing", table, tables, notes=notes(asked, table, records))
