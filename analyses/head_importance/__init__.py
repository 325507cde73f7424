"""Which heads an answer rests on, by exact ablations, by gradients, by what they write and what they see.

Ablations and gradients after Michel et al. 2019, direct logit attribution (Elhage et al. 2021, Wang et al.
2022), vision-aware head divergence (He et al. 2025, arXiv 2412.13949).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from analyses import analysis
from analyses.head_importance.asked import Asked, Settings, as_records
from analyses.head_importance.measures import ABLATIONS, MEASURES, SIGNED
from analyses.head_importance.notes import notes
from interp.asking import choose_stack
from interp.pairs import METRICS
from interp.progress import counted
from interp.registry import unknown
from interp.result import Result
from interp.statistics import NORMAL, standard_error

if TYPE_CHECKING:
    from interp.model import Model


@analysis
def head_importance(
    model: "Model",
    task: Any,
    *,
    measures: Sequence[str] | str | None = None,
    metric: str = "logit_diff",
    first: bool = False,
    reference: Any = None,
    per_position: bool = True,
    normalise: bool = False,
    top: int | None = None,
    stack: str | None = None,
    batch: int = 16,
    budget: float = 1e9,
    seed: int = 0,
) -> Result:
    """A row for each head of a stack: what the answers of a task owe to it, by several measures.

    `metric` of the answers, at the last position (a classifier's labels): "logit_diff" (mean logit of the
    right less that of the wrong ones), "logit", "probability" or "log_probability"; `first` lets answers
    of several tokens stand for their first. `measures=None` takes all, and leaves out with a note what
    cannot be had of this model or task; what is named and cannot be had is refused.

    Exact: by how much the metric falls, a mean over records, with its 95 % interval (`.._low` to
    `.._high`) and the mean of its absolute value (`.._size`). `zero`: the head's z is 0. `mean`: it is its
    mean over the reference. `resample`: it is that of another record of the reference, drawn with `seed`.
    The reference is the task's own records, or `reference=`, a task or texts. Means are by position, over
    records of one length, so that a record without a second of its length is left out;
    `per_position=False` takes one mean over all positions and lengths. Always one head at all positions.

    Estimates, by gradients (Michel et al. 2019): `gradient`, |sum over z of z d metric/dz| of each token,
    over the number of tokens (in the last layer, of examples), as their code has it; `mask`, their
    formula, |d metric / d gate| of each example. `normalise` divides both by their L2 norm in the layer.

    `direct` (and `direct_size`): what the head adds to the metric by itself, with the last norm's scale
    held; the others count what later layers make of it too. `vhd`: |z with the image less z without it|
    at the last position (`vhd_kept`: 0 where it and z without the image both stand out in the layer), of
    vision-language models.

    Tables: `correlation` (Spearman between measures over heads: `sizes` of what they are on single records,
    whatever the sign; `means` of those that have one), `direct` (`component`, `layer`, `value`: all that
    adds up to the metric, heads of a layer together), `records` (the metric of each with nothing changed,
    and `t_vhd`: the `top` largest VHD of each layer together, one of eight heads without `top`). Tensors:
    measures that are of single records, [record, layer, head], NaN for what was left out.
    """
    chosen = _chosen(measures)
    if metric not in METRICS:
        raise LookupError(unknown("metric", metric, list(METRICS)))
    for name, value in (("batch", batch), ("top", 1 if top is None else top)):
        if value < 1:
            raise ValueError(f"{name}={value}: give at least 1.")
    tower = choose_stack(model.stacks, stack, model.name)
    if model.kind not in ("text", "vlm", "vision") or "cross" in tower.name:
        raise ValueError(
            f"{model.name} is of kind {model.kind!r} (stack {tower.name!r}); head_importance is about heads "
            "that attend within a stack of a decoder-only or vision-language model, or an image classifier."
        )
    settings = Settings(metric, first, reference, per_position, normalise, top, batch, seed, budget)
    asked = Asked(model, tower, as_records(task), settings)
    plain = asked.plain  # what cannot be read at all is told before anything is left out
    for name in counted(chosen, "measures"):
        try:
            MEASURES[name](asked)
        except (ValueError, LookupError) as problem:
            if measures is not None:
                raise
            asked.notes.append(f"{name} was left out: {problem}")
    return _result(asked, plain, chosen)


def _chosen(measures: Sequence[str] | str | None) -> list[str]:
    if measures is None:
        return list(MEASURES)
    listed = [measures] if isinstance(measures, str) else list(measures)
    for name in listed:
        if name not in MEASURES:
            raise LookupError(unknown("measure", name, list(MEASURES)))
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"measures={listed}: name each once, and one at least.")
    return listed


def _result(asked: Asked, plain: Tensor, chosen: Sequence[str]) -> Result:
    import pandas

    heads = range(asked.stack.heads)
    index = [(asked.stack.name, layer, head) for layer in asked.layers for head in heads]
    table: Any = pandas.DataFrame(index, columns=["stack", "layer", "head"])
    for name in [*chosen, *(["vhd_kept"] if "vhd" in asked.records else [])]:
        for column, values in _columns(asked, name).items():
            table[column] = values.double().flatten().numpy()
    known = [name for name in chosen if name in table]
    if not known:
        raise ValueError("no measure could be had: " + " ".join(asked.notes))
    records = {"record": range(len(plain)), "metric": plain.numpy()}
    records |= {} if asked.t_vhd is None else {"t_vhd": asked.t_vhd.numpy()}
    tables = {"correlation": correlation(table, known)} if len(known) > 1 else {}
    tables |= asked.tables | {"records": pandas.DataFrame(records)}
    said = [*notes(asked, table, tables, known), *asked.notes]
    return Result("head_importance", table, tables, dict(asked.records), said)


def _columns(asked: Asked, name: str) -> dict[str, Tensor]:
    """Means over records, [layer, head], with intervals of ablations; without records left out."""
    if name in asked.columns:
        return {name: asked.columns[name]}
    if name not in asked.records:
        return {}
    values = asked.records[name].double()
    values = values[~values.flatten(1).isnan().all(1)]
    mean = values.mean(0)
    found = {name: mean}
    if name in ABLATIONS:
        error = standard_error(values)
        found |= {f"{name}_low": mean - NORMAL * error, f"{name}_high": mean + NORMAL * error}
    return found | ({f"{name}_size": values.abs().mean(0)} if name in SIGNED else {})


def correlation(table: Any, measures: Sequence[str]) -> Any:
    """Spearman over heads, for each pair of measures."""
    import pandas

    size = {name: f"{name}_size" if name in SIGNED else name for name in measures}
    sizes = table[list(size.values())].corr(method="spearman")
    means = table[[name for name in measures if name in SIGNED]].corr(method="spearman")
    rows = []
    for at, one in enumerate(measures):
        for other in measures[at + 1 :]:
            both = one in SIGNED and other in SIGNED
            signed = float(means.loc[one, other]) if both else float("nan")
            rows.append((one, other, float(sizes.loc[size[one], size[other]]), signed))
    return pandas.DataFrame(rows, columns=["measure", "other", "sizes", "means"])
