"""What of a changed prompt's effect goes through each site, layer, head and place: patching, both ways.

Activation patching (interchange interventions; Vig et al. 2020, Wang et al. 2022, arXiv 2211.00593), with
the choices that Heimersheim & Nanda 2024 (arXiv 2404.15255) and Zhang & Nanda 2024 (arXiv 2309.16042) ask
to be made openly.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.activation_patching.asked import Asked, checked
from analyses.activation_patching.runs import patched
from analyses.activation_patching.tables import notes, table_of
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def activation_patching(
    model: "Model",
    task: Any,
    *,
    sites: Sequence[str] | str = ("resid_pre", "attn_out", "mlp_out", "z"),
    over: str | None = None,
    direction: str = "both",
    metric: str = "logit_diff",
    first: bool = False,
    spans: Sequence[str] | None = None,
    positions: Sequence[int] | None = None,
    layers: Sequence[int] | None = None,
    window: int = 1,
    head_places: bool = True,
    stack: str | None = None,
    batch: int = 16,
    budget: float = 1e9,
    save: str | None = None,
) -> Result:
    """A row for each direction, site, layer, head and place: what patching it alone does to the answer.

    Every record needs a counterfactual of its own length. `direction="denoise"` puts values of the clean
    run into the corrupted one (what suffices for the answer), "noise" those of the corrupted run into the
    clean one (what the answer needs), "both" one after the other. The metric is of the clean answers in
    both: "logit_diff" (against the wrong ones), "logit", "probability" or "log_probability"; `first` lets
    answers of several tokens stand for their first.

    `over="position"` patches token by token; it needs records of one length whose spans lie alike.
    "span" patches all tokens of a span together: `spans=` names, without it those of the task, "image",
    "last", and "rest", whatever is in none of them. Without `over` it is "position" where that can be, and
    "span" elsewhere. Sites with heads (z, q, k, v, pattern) are patched head by head at all places
    together, and, with `head_places`, at each place too. `positions` and `layers` restrict; `window`
    layers around each are patched together.

    Columns: `direction`, `site`, `layer`, `head` (empty for sites without), `place` ("all", a span, or a
    position as a number) and `records` that have it. `effect` is how much the metric moves, a mean over
    records, and `share` how far on the way from the one run to the other: denoise (patched - corrupted)
    / (clean - corrupted), noise (patched - clean) / (corrupted - clean), each a ratio of means, never
    clipped. `.._low` to `.._high` are 95 % intervals over records. `mean_of_ratios` is the mean of single
    records' shares, which those with next to no way make unsteady.
    Tables: `records` (`record`, `clean`, `corrupted`), `places` (`place`, `records`, `tokens` of a span, and
    as `example` what the first record has there). Tensors: how the metric of each record moves,
    "denoise resid_pre" [record, layer, place], "denoise z" [record, layer, head] and "denoise z places"
    [record, layer, head, place]; NaN where a record has no such place. All of it exact.
    """
    asked = checked(Asked(
        model, task, sites, over, direction, metric, first, spans, positions, layers, window, head_places,
        stack, batch, budget, save,
    ))  # fmt: skip
    found = patched(asked)
    table = table_of(asked, found)
    tables = {"records": found.records_table(), "places": found.places_table()}
    return Result("activation_patching", table, tables, found.tensors(), notes(asked, table, found))
