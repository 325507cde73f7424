"""Effects of patches as one tidy table, and what they say."""

from collections.abc import Sequence
from typing import Any

import pandas
from torch import Tensor

from analyses.activation_patching.asked import Asked, by_head
from analyses.activation_patching.runs import ALL, Grids
from interp.tracing.averages import averaged

NOTHING = 1e-6  # of a mean metric: nothing between the two runs
BY_CHANCE = 0.05  # of intervals that hold no 0 although nothing is there
NAMED, WORTH = 3, 0.01  # places to name, and the least share of one
SOME, MUCH = 0.1, 0.3  # shares that are next to nothing in one direction, and a lot in the other
LEAST = 30  # records below which an interval of a mean is too narrow
COLUMNS = (
    "effect", "effect_low", "effect_high", "share", "share_low", "share_high", "mean_of_ratios", "records",
)  # fmt: skip


def table_of(asked: Asked, found: Grids) -> Any:
    towards = found.clean - found.corrupted
    scale = max(1.0, float(found.clean.abs().mean()))
    if abs(float(towards.mean())) <= NOTHING * scale:
        raise ValueError(
            "the counterfactuals do not change the metric's mean, so that no share of the change can be "
            "told; "
            "give counterfactuals that change the answer, or another metric=."
        )
    tables = [
        _flat(
            asked, found, key, averaged(effect, towards if key[0] == "denoise" else -towards, scale)
        )
        for key, effect in found.effects.items()
    ]
    table = pandas.concat(tables, ignore_index=True)
    table["head"] = table["head"].astype("Int64")
    return table


def _flat(asked: Asked, found: Grids, key: tuple[str, str, bool], means: dict[str, Tensor]) -> Any:
    """Each cell a row, in the order of the axes."""
    direction, site, placed = key
    shape = means["effect"].shape
    axes: list[Sequence[Any]] = [found.layers]
    axes.append(range(shape[1]) if by_head(site) else [None])
    axes.append(found.places if placed else [ALL])
    index = pandas.MultiIndex.from_product(axes, names=["layer", "head", "place"])
    columns = {name: means[name].expand(shape).flatten().numpy() for name in COLUMNS}
    table = pandas.DataFrame(columns, index=index).reset_index()
    table["head"] = table["head"].astype("Int64")
    table.insert(0, "direction", direction)
    table.insert(1, "site", site)
    return table[["direction", "site", "layer", "head", "place", *COLUMNS]]


def notes(asked: Asked, table: Any, found: Grids) -> list[str]:
    clean, corrupted = float(found.clean.mean()), float(found.corrupted.mean())
    count, less = len(found.clean), int((found.corrupted < found.clean).sum())
    said = [
        f"{asked.metric} is {clean:.2f} on the clean prompts and {corrupted:.2f} on the corrupted ones; "
        "corrupted is "
        f"less in {less} of {count} records."
    ]
    if asked.metric == "logit_diff" and corrupted > 0:
        said.append(
            "The counterfactuals do not turn the answer on average: the corrupted prompts still favour the "
            "clean one."
        )
    said.append(_places_note(asked, found))
    for (direction, site), part in table.groupby(["direction", "site"], sort=False):
        said.append(_largest(str(direction), str(site), part))
    if asked.direction == "both":
        said += _between(table)
    if asked.window > 1:
        said.append(
            f"Each layer stands for a window of {asked.window}: windows show joint effects and inflate them "
            "against single layers."
        )
    said.append(_sure(table, count))
    if 1 < count < LEAST:
        said.append(f"{count} records are few: intervals of means come out too narrow.")
    return said


def _sure(table: Any, count: int) -> str:
    if count < 2:
        return "One record has no interval: what matters is not told from chance."
    moved = table[table["effect_high"] - table["effect_low"] > NOTHING]
    sure = int(((moved["effect_low"] > 0) | (moved["effect_high"] < 0)).sum())
    return (
        f"{len(moved)} of {len(table)} patches move the metric at all; {sure} of them have a 95 % interval "
        "without 0, "
        f"and about {BY_CHANCE * len(moved):.0f} would by chance if none did anything."
    )


def _places_note(asked: Asked, found: Grids) -> str:
    if asked.over == "position":
        return f"Places are {len(found.places)} token positions: all records have one length and one layout."
    why = f" because {asked.why}" if asked.why else ""
    return (
        f"Places are spans, whose tokens are patched together{why}: a span of more tokens has more to say, "
        "and "
        "what two spans share is in both."
    )


def _largest(direction: str, site: str, part: Any) -> str:
    """Where most is: of a site with heads by head over all places, of others in the best layer of a place."""
    if by_head(site):
        part = part[part["place"] == ALL]
    part = part.sort_values("share", ascending=False)
    best = part[part["share"] >= WORTH]
    best = (best if by_head(site) else best.drop_duplicates("place")).head(NAMED)
    worst = part[part["share"] <= -WORTH].tail(1)
    does = "alone bring back most" if direction == "denoise" else "are missed most"
    said = f"{direction}, {site}: {does} {_named(best)}" if len(best) else (
        f"{direction}, {site}: no single patch moves the metric by {WORTH:.0%} of the way")  # fmt: skip
    return said + (f"; against the answer {_named(worst)}." if len(worst) else ".")


def _named(rows: Any) -> str:
    return ", ".join(
        f"{row['layer']}.{row['head']} ({row['share']:+.2f})"
        if row["place"] == ALL
        else f"layer {row['layer']} at {row['place']!r} ({row['share']:+.2f})"
        for _, row in rows.iterrows()
    )


def _between(table: Any) -> list[str]:
    """Where the directions disagree: stand-ins show in one, links of a chain in the other."""
    keys = ["site", "layer", "head", "place"]
    both = table[table["direction"] == "denoise"].merge(
        table[table["direction"] == "noise"], on=keys, suffixes=("_denoise", "_noise")
    )
    said = []
    for much, little, means in (
        ("denoise", "noise", "others stand in for them when they are missing"),
        ("noise", "denoise", "they need others beside them"),
    ):
        apart = both[(both[f"share_{much}"] > MUCH) & (both[f"share_{little}"] < SOME)]
        if len(apart):
            row = apart.loc[apart[f"share_{much}"].idxmax()]
            head = "" if pandas.isna(row["head"]) else f", head {row['head']}"
            said.append(
                f"{len(apart)} of {len(both)} patches have a share above {MUCH} when {much[:-1]}ing and "
                f"below {SOME} when "
                f"{little[:-1]}ing ({means}), such as {row['site']} of layer {row['layer']}{head} at "
                f"{row['place']!r} "
                f"({row[f'share_{much}']:+.2f} and {row[f'share_{little}']:+.2f})."
            )
    return said
