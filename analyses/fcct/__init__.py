"""Which tokens carry what a vision-language model sees to its answer, component by component.

Fine-grained cross-modal causal tracing (FCCT, arXiv 2511.05923): the image is corrupted, and one component
of one layer restored for one group of tokens.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses import analysis
from analyses.fcct.asked import Asked, checked
from analyses.fcct.runs import restored
from analyses.fcct.tables import groups_table, notes, records_table, table_of
from interp.result import Result

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def fcct(
    model: "Model",
    task: Any,
    *,
    corruption: str = "noise",
    sigma: float | None = 1.0,
    components: Sequence[str] | str = ("attn_out", "mlp_out", "resid_post"),
    guard: float = 0.1,
    word: str | None = None,
    first: bool = False,
    seed: int = 0,
    batch: int = 8,
    budget: float = 1e9,
    save: str | None = None,
) -> Result:
    """A row for each group of tokens, component and layer: how much of the answer restoring it recovers.

    `corruption="noise"` adds Gaussian noise of `sigma` to the normalised pixels of the whole image, drawn
    with `seed` for each record; `sigma=None` takes the smallest of a few that brings the mean probability
    below half of the clean one, or, where none does, that has most of the largest fall. "image" shows the
    record's counterfactual image instead. P is the probability of the right answers at the last position;
    `first` lets answers of several tokens stand for their first.

    Groups: early visual (image tokens before the first that shows the object), object visual (patches over
    its box), late visual (the other image tokens after the first object patch), early textual (after the
    image, before the word), textual object (the asked word: the span `word`, without it "object" or
    "shape"), late textual, last token. Boxes are in the records' notes: `box` or `boxes` in pixels, or the
    asked one of `objects`. Records without one are left out, and so are those with P_clean - P_corrupted
    below `guard`; notes count both. For the published setting give questions about present objects.

    Columns: `group`, `component`, `layer`; `rate`, the mean over `records` of each one's recovery rate
    (P_patched - P_corrupted) / (P_clean - P_corrupted), with its 95 % interval `low` to `high`; `pooled`,
    the same as a ratio of means; `effect`, how much probability it is. All layers are there, so that
    `table[(group == "last token") & (component == "attn_out")]` holds the rates that IRI weighs layers by.
    Tables: `records` (`record`, `clean`, `corrupted`, `kept` and `why` not), `groups` (mean number of
    `tokens` of a group and how many `records` have one), `sigmas` (of those tried, with `clean` and
    `corrupted`). Tensors: "attn_out" etc., rates [record, group, layer], NaN for what was left out. Exact.
    """
    asked = checked(
        Asked(
            model,
            task,
            corruption,
            sigma,
            components,
            guard,
            word,
            first,
            seed,
            batch,
            budget,
            save,
        )
    )
    found = restored(asked)
    table, records = table_of(found), records_table(found)
    tables = {"records": records, "groups": groups_table(found)}
    if found.sigmas is not None:
        tables["sigmas"] = found.sigmas
    return Result("fcct", table, tables, found.tensors(), notes(asked, table, found))
