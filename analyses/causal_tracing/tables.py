"""Effects of tracing as tables by role, by position and by record, and what they say."""

from collections.abc import Sequence
from typing import Any

import pandas
import torch
from torch import Tensor

from analyses.causal_tracing.asked import SINGLE, Asked
from analyses.causal_tracing.runs import Traced
from interp.tracing.averages import averaged
from interp.tracing.roles import AFTER, END, FIRST, FURTHER, LAST, MIDDLE, ROLES, roles

NOTHING = 1e-6  # a total effect below it, of the metric: nothing was lost
CERTAIN = 0.05  # a corrupted probability below which further harm cannot be seen
SUBJECT, LATER = (FIRST, MIDDLE, LAST), (AFTER, FURTHER, END)
WORTH = 0.01  # a share of the total effect that is worth naming
LEAST = 30  # records below which an interval of a mean is too narrow


def roles_table(asked: Asked, found: Sequence[Traced]) -> Any:
    total = torch.cat([part.clean - part.corrupted for part in found])
    scale = float(torch.cat([part.clean for part in found]).abs().mean())
    rows = []
    for key in found[0].effects:
        direction, kind, severed = key
        by_role = torch.cat([_by_role(part, part.effects[key]) for part in found])
        own = averaged(by_role, total, scale)
        for at, role in enumerate(ROLES):
            for layer in range(by_role.shape[2]):
                if not int(own["records"][at, layer]):
                    continue
                rows.append(
                    {"direction": direction, "kind": kind, "severed": severed,
                     "window": asked.wide_of(kind), "layer": layer, "role": role}
                    | {"effect": float(own["effect"][at, layer]),
                       "low": float(own["effect_low"][at, layer]),
                       "high": float(own["effect_high"][at, layer]),
                       "share": float(own["share"][at, layer]),
                       "records": int(own["records"][at, layer])}
                )  # fmt: skip
    return pandas.DataFrame(rows)


def _by_role(part: Traced, effect: Tensor) -> Tensor:
    """[record, role, layer]; NaN where a record has no token of a role."""
    found = torch.full((len(effect), len(ROLES), effect.shape[1]), torch.nan)
    for row, mask in enumerate(part.case.subject):
        named = roles(mask)
        for at, role in enumerate(ROLES):
            own = [place for place, name in enumerate(named) if name == role]
            if own:
                found[row, at] = effect[row, :, own].mean(-1)
    return found


def positions_table(found: Sequence[Traced]) -> Any:
    tables = []
    for part in found:
        copies = len(part.case.clean) // len(part.case.records)
        for row, (number, mask) in enumerate(
            zip(part.case.numbers, part.case.subject, strict=True)
        ):
            tokens, named = part.case.clean.tokens[row * copies], roles(mask)
            for (direction, kind, severed), effect in part.effects.items():
                layers, length = effect.shape[1:]
                tables.append(
                    pandas.DataFrame(
                        {"record": number, "direction": direction, "kind": kind, "severed": severed,
                         "layer": torch.arange(layers).repeat_interleave(length).numpy(),
                         "position": list(range(length)) * layers, "token": tokens * layers,
                         "role": named * layers, "effect": effect[row].flatten().numpy()}
                    )
                )  # fmt: skip
    order = ["record", "direction", "kind", "severed", "layer", "position"]
    return pandas.concat(tables).sort_values(order, ignore_index=True, kind="stable")


def records_table(found: Sequence[Traced]) -> Any:
    columns = {"record": [number for part in found for number in part.case.numbers]}
    for name in ("clean", "corrupted", "still"):
        columns[name] = torch.cat([getattr(part, name) for part in found]).tolist()
    table = pandas.DataFrame(columns).sort_values("record", ignore_index=True)
    table.insert(3, "total", table["clean"] - table["corrupted"])
    return table


def notes(asked: Asked, table: Any, records: Any) -> list[str]:
    said = []
    if asked.known:
        dropped = asked.given - len(records)
        said.append(
            f"{dropped} of {asked.given} records were dropped: the model does not answer them right."
            if dropped
            else f"All {asked.given} records are answered right, and were kept."
        )
    said += [*asked.remarks, *_total(asked, records)]
    if abs(float(records["total"].mean())) > NOTHING * max(
        1.0, float(records["clean"].abs().mean())
    ):
        said += _peaks(asked, table)
    windows = [kind for kind in asked.kinds if asked.wide_of(kind) > 1]
    if windows:
        said.append(
            f"{' and '.join(windows)}: each layer stands for a window of {asked.wide} (w = {asked.wide}). "
            "Windows "
            "show joint effects and inflate them against single layers: compare at one w alone."
        )
    elif asked.wide == 1 and set(asked.kinds) & {"mlp_out", "attn_out"}:
        said.append("w = 1: MLP and attention outputs are restored one layer at a time.")
    if 1 < len(records) < LEAST:
        said.append(f"{len(records)} records are few: intervals of means come out too narrow.")
    return said


def _total(asked: Asked, records: Any) -> list[str]:
    clean, corrupted = records["clean"].mean(), records["corrupted"].mean()
    total, still = clean - corrupted, records["still"].mean()
    if abs(total) <= NOTHING * max(1.0, abs(clean)):
        return [
            f"The corrupted runs are as right as the clean ones ({asked.metric} {clean:.3f}): nothing was "
            "lost, so "
            "nothing can be restored, and there are no shares. Corrupt more, or another span."
        ]
    said = [
        f"{asked.metric} is {clean:.3f} on clean prompts and {corrupted:.3f} on corrupted ones: a total "
        "effect of "
        f"{total:+.3f} over {len(records)} records (ATE)."
    ]
    if still > 0.5:
        said.append(
            f"The corruption hardly changes the answer: in {still:.0%} of the corrupted runs the likeliest "
            "token is "
            "still right. Effects are then small and their shares unsure."
        )
    if total < 0:
        said.append(
            "Corrupted prompts are answered better than clean ones: shares count backwards."
        )
    if asked.metric == "probability" and corrupted < CERTAIN:
        said.append(
            "Corrupted probabilities are near 0, where states that speak against the answer cannot be seen; "
            "metric='logit_diff' shows them."
        )
    return said


def _peaks(asked: Asked, table: Any) -> list[str]:
    said = []
    for (direction, kind, severed), part in table.groupby(
        ["direction", "kind", "severed"], sort=False
    ):
        way = "" if asked.direction != "both" else f", direction {direction}"
        if severed:
            whole = table[(table["direction"] == direction) & (table["kind"] == kind)]
            said.append(_held(part, whole[whole["severed"] == ""], severed, way))
        elif kind in SINGLE:
            said.append(_handed_on(part, kind, way))
        else:
            said.append(_largest(part, kind, way))
    return said


def _largest(part: Any, kind: str, way: str) -> str:
    """The peaks at the subject and after it: ROME's early and late sites."""
    found = []
    for where, own in (("of the subject", SUBJECT), ("after it", LATER)):
        rows = part[part["role"].isin(own)]
        if len(rows):
            best = rows.loc[rows["effect"].idxmax()]
            found.append(
                f"{where} the {best['role']} in layer {best['layer']} ({best['effect']:+.3f}, "
                f"{best['share']:.0%} of the total effect)"
            )
    return f"{kind}{way}, largest mean effects: {'; '.join(found)}."


def _handed_on(part: Any, kind: str, way: str) -> str:
    """A stream restored whole brings back everything at its end: what tells is how far and from where."""
    half = part[part["share"] >= 0.5].groupby("role")["layer"].apply(list).to_dict()
    must = " (all of it in the last one, as it must)" if kind == "resid_post" else ""
    return (
        f"{kind}{way}: half of the total effect or more hangs on the {LAST} alone in "
        f"{_layers(half.get(LAST, []))}, on the {END} alone in {_layers(half.get(END, []))}{must}."
    )


def _layers(found: list[int]) -> str:
    """Runs of layers by their ends."""
    if not found:
        return "no layer"
    starts = [layer for layer in found if layer - 1 not in found]
    ends = [layer for layer in found if layer + 1 not in found]
    runs = [
        f"{start}" if start == end else f"{start} to {end}"
        for start, end in zip(starts, ends, strict=True)
    ]
    return f"layer{'s' if len(found) > 1 else ''} {', '.join(runs)}"


def _held(part: Any, whole: Any, severed: str, way: str) -> str:
    both = part[part["role"] == LAST].merge(whole, on=["layer", "role"], suffixes=("", "_whole"))
    most = both.loc[(both["share_whole"] - both["share"]).idxmax()]
    held = f"resid_post{way} with later {severed} at its token held"
    if most["share_whole"] - most["share"] < WORTH:
        return f"{held}: the {LAST} loses less than {WORTH:.0%} of the total effect in any layer."
    return (
        f"{held}: the {LAST} loses most in layer {most['layer']}, where {most['share']:.0%} of the total "
        f"effect hangs on it instead of {most['share_whole']:.0%}."
    )
