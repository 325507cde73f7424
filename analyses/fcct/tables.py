"""Recovery rates as tables, and what they say."""

from collections.abc import Sequence
from typing import Any

import pandas

from analyses.fcct.asked import Asked
from analyses.fcct.runs import HALF, MOST, Restored
from interp.tracing.averages import averaged, mean_with_interval
from interp.tracing.groups import GROUPS, LAST

LEAST = 30  # records below which an interval of a mean is too narrow
WORTH = 0.05  # a rate below which nothing is said to be recovered


def table_of(found: Restored) -> Any:
    rows = []
    fall = found.clean - found.corrupted
    for component, patched in found.patched.items():
        rates = found.rates(component)
        means = averaged(patched - found.corrupted[:, None, None], fall)
        for at, group in enumerate(GROUPS):
            for layer in range(patched.shape[2]):
                own = rates[:, at, layer]
                mean, low, high = mean_with_interval(own[~own.isnan()])
                rows.append(
                    {"group": group, "component": component, "layer": layer, "rate": mean, "low": low,
                     "high": high, "pooled": float(means["share"][at, layer]),
                     "effect": float(means["effect"][at, layer]),
                     "records": int(means["records"][at, layer])}
                )  # fmt: skip
    return pandas.DataFrame(rows)


def records_table(found: Restored) -> Any:
    return pandas.DataFrame(
        {"record": range(len(found.why)), "clean": found.clean.numpy(), "corrupted": found.corrupted.numpy(),
         "kept": found.kept.numpy(), "why": found.why}
    )  # fmt: skip


def groups_table(found: Restored) -> Any:
    rows = []
    for at, group in enumerate(GROUPS):
        own = found.sizes[:, at]
        own = own[own > 0]
        rows.append((group, float(own.mean()) if len(own) else 0.0, len(own)))
    return pandas.DataFrame(rows, columns=["group", "tokens", "records"])


def notes(asked: Asked, table: Any, found: Restored) -> list[str]:
    kept = int(found.kept.sum())
    said = [_corruption(asked, found), _counted(found, kept)]
    for component in found.patched:
        said += _largest(component, table[table["component"] == component])
    if "resid_post" in found.patched:
        said.append(
            "The stream of the last token in the last layer recovers all of it, as it must, and that of "
            "every other "
            "group nothing there."
        )
    empty = [group for group in GROUPS if not table.loc[table["group"] == group, "records"].any()]
    if empty:
        said.append(
            f"No record has tokens of the group {' or '.join(empty)}: their rates are empty."
        )
    said.append(
        "Groups are restored whole: one of more tokens has more to give back (table groups)."
    )
    if kept < LEAST:
        said.append(f"{kept} records are few: intervals of means come out too narrow.")
    return said


def _corruption(asked: Asked, found: Restored) -> str:
    kept = found.kept
    clean, corrupted = (float(one[kept].mean()) for one in (found.clean, found.corrupted))
    how = (
        "another image"
        if asked.corruption == "image"
        else f"noise of sigma {found.sigma:g} on normalised pixels"
    )
    if found.sigmas is not None:
        tried = found.sigmas["corrupted"]
        if tried.min() < HALF * found.sigmas["clean"].iloc[0]:
            how += f", the smallest of {len(tried)} tried that halves the mean probability,"
        else:
            how += (
                f" (none of {len(tried)} tried halves the mean probability; this is the smallest with "
                f"{MOST:.0%} of the largest fall)"
            )
    fall = f"falls from {clean:.3f} to {corrupted:.3f} in what is kept"
    return f"With {how} the probability of the answer {fall}."


def _counted(found: Restored, kept: int) -> str:
    whys = [why for why in dict.fromkeys(found.why) if why]
    left = "; ".join(f"{found.why.count(why)} {why}" for why in whys)
    return f"{kept} of {len(found.why)} records are traced; left out: {left or 'none'}."


def _largest(component: str, part: Any) -> Sequence[str]:
    """Where most is recovered: at the last token, and in the other groups."""
    said = []
    for what, own in (
        ("at the last token", part[part["group"] == LAST]),
        ("elsewhere", part[part["group"] != LAST]),
    ):
        own = own[own["records"] > 0]
        if not len(own):
            continue
        best = own.loc[own["rate"].idxmax()]
        if best["rate"] < WORTH:
            said.append(f"{what} no layer recovers {WORTH:.0%}")
        else:
            where = (
                f"layer {best['layer']}"
                if what == "at the last token"
                else f"{best['group']}, layer {best['layer']}"
            )
            said.append(f"{what} most in {where} (rate {best['rate']:.2f})")
    return [f"{component}: {'; '.join(said)}."] if said else []
