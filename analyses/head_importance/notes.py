"""What the numbers say, in sentences."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from analyses.head_importance.measures import ABLATIONS

if TYPE_CHECKING:
    from analyses.head_importance.asked import Asked

FIRST = 5  # heads to name
BY_CHANCE = 0.05  # of intervals at 95 %
FEW = 8  # records of a length below which a record weighs in its own mean
WAVERS = 0.5  # a mean below this share of the mean size: ups and downs that cancel
SMALL = 0.25  # of what a head is worth: less than that is no direct path to speak of


def notes(asked: "Asked", table: Any, tables: dict[str, Any], known: Sequence[str]) -> list[str]:
    exact = [name for name in ("mean", "resample", "zero") if name in known]
    said = [_plain(asked)]
    if exact:
        said += _matter(table, exact[0])
        said += _reference(asked, known)
    if len(exact) > 1 and "zero" in exact:
        said += _disagreement(table, tables["correlation"], exact[0])
    said += _estimates(table, tables, known, asked.settings.normalise)
    if "direct" in known:
        said += _direct(asked, table, tables["direct"], exact)
    if "vhd" in known:
        said.append(_seen(asked, table, tables["records"]))
    return said


def _plain(asked: "Asked") -> str:
    metric = asked.plain
    positive = f"; it is above 0 in {int((metric > 0).sum())}"
    return (
        f"With nothing changed {asked.settings.metric} is {float(metric.mean()):.2f} on average over "
        f"{len(metric)} records{positive if asked.settings.metric == 'logit_diff' else ''}."
    )


def _matter(table: Any, name: str) -> list[str]:
    """Heads whose interval holds no 0, and those that matter in single records without one."""
    if table[f"{name}_low"].isna().all():
        return [
            f"One record has no interval: whether a head matters is not told from chance ({name})."
        ]
    helps, harms = table[table[f"{name}_low"] > 0], table[table[f"{name}_high"] < 0]
    first = (
        f"By {name} ablation {len(helps)} of {len(table)} heads hold the metric up and {len(harms)} hold it "
        f"down: 95 % intervals without 0, of which chance alone would make about "
        f"{BY_CHANCE * len(table):.1f}."
    )
    if len(helps):
        first += f" Most: {_listed(helps.nlargest(FIRST, name), name)}."
    if len(harms):
        first += f" Against: {_listed(harms.nsmallest(FIRST, name), name)}."
    unsure = table.drop([*helps.index, *harms.index])
    size = unsure[f"{name}_size"]
    wavers = unsure[name].abs() < WAVERS * size
    large = unsure[wavers & (size > float(table[f"{name}_size"].quantile(0.8)))]
    if not len(large):
        return [first]
    named = ", ".join(
        f"{_name(row)} ({row[name]:+.2f}, size {row[f'{name}_size']:.2f})"
        for _, row in large.nlargest(FIRST, f"{name}_size").iterrows()
    )
    return [
        first,
        f"Up in some records and down in others, so that the mean tells little: {named}.",
    ]


def _reference(asked: "Asked", known: Sequence[str]) -> list[str]:
    said = []
    whose = "the task's own records" if asked.settings.reference is None else "reference="
    if "mean" in known:
        by = (
            "of one length, by position"
            if asked.settings.per_position
            else "of all lengths and positions"
        )
        sizes = sorted(len(group) for group in asked.references.values() if len(group) > 1)
        own = ""
        if (
            asked.settings.per_position
            and asked.settings.reference is None
            and sizes
            and sizes[0] < FEW
        ):
            own = (
                f", in groups of {sizes[0]} to {sizes[-1]} with the record itself among them, which makes "
                "effects smaller where groups are small"
            )
        said.append(f"Means are over {whose}, {by}{own}.")
    left: dict[int, list[str]] = {}
    for name in (name for name in known if name in ABLATIONS):
        count = int(asked.records[name].flatten(1).isnan().all(1).sum())
        left.setdefault(count, []).append(name)
    said += [
        f"{count} records have no other of their length in {whose}: {' and '.join(names)} are over the other "
        f"{len(asked.plain) - count}."
        for count, names in left.items()
        if count
    ]
    return said


def _disagreement(table: Any, ranks: Any, other: str) -> list[str]:
    """Heads that zero ablation judges otherwise, with the intervals apart."""
    above = table["zero_low"] > table[f"{other}_high"]
    below = table["zero_high"] < table[f"{other}_low"]
    share = float(table["zero_size"].sum() / max(float(table[f"{other}_size"].sum()), 1e-12))
    said = (
        f"Zero ablation ranks heads like {other} ablation with Spearman {_rank(ranks, 'zero', other):.2f} "
        f"(sizes), and its effects are {share:.1f} times as large in all"
    )
    apart = table[above | below]
    if not len(apart):
        return [f"{said}; in no head are the two intervals apart."]
    worst = apart.loc[(apart["zero"] - apart[other]).abs().nlargest(3).index]
    named = ", ".join(
        f"{_name(row)} (zero {row['zero']:+.2f}, {other} {row[other]:+.2f})"
        for _, row in worst.iterrows()
    )
    return [
        f"{said}; in {len(apart)} heads the intervals are apart, most in {named}. Zero also takes away what "
        f"a head writes on every record, which {other} ablation leaves."
    ]


def _estimates(
    table: Any, tables: dict[str, Any], known: Sequence[str], normalised: bool
) -> list[str]:
    names = [name for name in ("gradient", "mask") if name in known]
    exact = next((name for name in ABLATIONS if name in known), None)
    if not names:
        return []
    are = f"{' and '.join(names)} {'is an estimate' if len(names) == 1 else 'are estimates'} to first order"
    if exact is None:
        return [f"{are}; no exact ablation was asked to judge by."]
    best = set(table[f"{exact}_size"].nlargest(FIRST).index)
    found = []
    for name in names:
        shared = len(best & set(table[name].nlargest(FIRST).index))
        rank = _rank(tables["correlation"], name, exact)
        found.append(
            f"{name} {rank:.2f} ({shared} of its {len(best)} largest are among the exact ones)"
        )
    said = [
        f"{are}. Spearman with the sizes of {exact} ablation, which is exact: {', '.join(found)}."
    ]
    if "gradient" in names and not normalised:
        said.append(
            "gradient counts its last layer by example and the others by token, as its code does: compare "
            "heads within a layer, or ask with normalise=True."
        )
    return said


def _direct(asked: "Asked", table: Any, parts: Any, exact: Sequence[str]) -> list[str]:
    by = parts.groupby("component", sort=False)["value"].sum()
    listed = [
        f"{name} {value:+.2f}"
        for name, value in by.items()
        if name not in ("sum", "metric") and abs(value) >= 5e-3
    ]
    said = [
        f"Direct effects add up to the metric, {by['sum']:.2f}: {', '.join(listed)}. The largest gap between "
        f"sum and metric in a record is {asked.gap:.0e}."
    ]
    if not exact:
        return said
    top = table.loc[table[exact[0]].abs().nlargest(FIRST).index]
    far = top[top["direct"].abs() < SMALL * top[exact[0]].abs()]
    if len(far):
        named = ", ".join(
            f"{_name(row)} (direct {row['direct']:+.2f}, {exact[0]} {row[exact[0]]:+.2f})"
            for _, row in far.iterrows()
        )
        said.append(
            f"Of the {len(top)} heads that matter most by {exact[0]} ablation, these add less than "
            f"{SMALL:.0%} of it directly, and work through later layers: {named}."
        )
    return said


def _seen(asked: "Asked", table: Any, records: Any) -> str:
    cut = int(((table["vhd"] > 0) & (table["vhd_kept"] == 0)).sum())
    layers = ", ".join(f"{value:.2f}" for value in table.groupby("layer")["vhd"].mean())
    first = table.nlargest(FIRST, "vhd_kept")
    return (
        f"A missing image moves most: {_listed(first, 'vhd_kept', '.2f')} (vhd_kept; mean vhd by layer "
        f"{layers}). T-VHD, {asked.top} of {asked.stack.heads} heads of each layer: "
        f"{records['t_vhd'].mean():.2f} on average. {cut} heads are outliers on every record."
    )


def _rank(ranks: Any, one: str, other: str) -> float:
    pairs = ranks.set_index(["measure", "other"])["sizes"]
    return float(pairs[one, other] if (one, other) in pairs.index else pairs[other, one])


def _listed(rows: Any, name: str, form: str = "+.2f") -> str:
    return ", ".join(f"{_name(row)} ({row[name]:{form}})" for _, row in rows.iterrows())


def _name(row: Any) -> str:
    return f"{int(row['layer'])}.{int(row['head'])}"
