"""What a repair found, in sentences."""

from typing import Any

from analyses.repair.asked import Asked
from analyses.repair.effects import Effects, ranked
from analyses.repair.runs import named

LEAST = 30  # records below which an interval of a mean is too narrow
CHANCE = 0.05


def notes(asked: Asked, table: Any, tables: dict[str, Any], effects: Effects) -> list[str]:
    rows = table.set_index("condition")
    said = [_who(asked), _where(asked), _what(asked, rows)]
    said += _controls(asked, rows, tables["draws"])
    said += _movers(asked, tables["movers"])
    said.append(_ranks(asked, effects))
    if asked.total < LEAST:
        said.append(f"{asked.total} records are few: intervals of means come out too narrow.")
    return said + list(dict.fromkeys(asked.remarks))  # each batch may have said it


def _who(asked: Asked) -> str:
    listed = ", ".join(named(head) for head in asked.heads)
    if asked.choosing is None:
        return f"Given heads: {listed}."
    count = sum(len(case.records) for case in asked.learned)
    plain = float(asked.choosing["plain"].iloc[0])
    best = asked.choosing[asked.choosing["chosen"]]
    helps = int((best["accuracy"] > plain).sum())
    whose = "of choose_on=" if asked.choose_on is not None else "at the front of the task"
    return (
        f"Heads {listed} were chosen on {count} records {whose}, which are not reported: of "
        f"{len(asked.choosing)} heads, those with the highest accuracy there when written over alone. "
        f"{helps} of the {len(best)} raise it there (plain {plain:.3f}, best {best['accuracy'].max():.3f})."
    )


def _where(asked: Asked) -> str:
    counts = [int(many) for case in asked.judged for many in (case.target > 0).sum(-1)]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    full = all(float((case.target.sum(-1) - 1).abs().max()) < 1e-6 for case in asked.judged)
    short = "" if full else " Their rows sum to less than 1, as mass= asks."
    what = f"{asked.places} answers" if isinstance(asked.places, str) else ", ".join(asked.places)
    what += f" without {', '.join(asked.avoid)}" if asked.avoid else ""
    tokens = "token" if spread == "1" else "tokens"
    mixed = "" if asked.scale == 1 else f" {asked.scale:g} of it is new and the rest is as it was."
    return f"Their attention goes to {spread} {tokens} a record ({what}).{short}{mixed}"


def _what(asked: Asked, rows: Any) -> str:
    plain, after = rows.loc["plain"], rows.loc["repaired"]
    wrong = round((1 - plain["accuracy"]) * asked.total)
    said = (
        f"Of {asked.total} records {plain['accuracy']:.1%} are right in the plain run and "
        f"{after['accuracy']:.1%} in the repaired one ({100 * after['gain']:+.1f} points, 95 % from "
        f"{100 * after['gain_low']:+.1f} to {100 * after['gain_high']:+.1f}): {int(after['mended'])} of "
        f"{wrong} wrong ones are mended and {int(after['broken'])} right ones broken."
    )
    if wrong == 0:
        return f"{said} There was nothing to mend; what can be seen is only what breaks."
    if after["gain_low"] > 0:
        return said
    if after["gain_high"] < 0:
        return f"{said} It does harm."
    return f"{said} The change is not told from none."


def _controls(asked: Asked, rows: Any, drawn: Any) -> list[str]:
    after, said = rows.loc["repaired"], []
    if len(drawn):
        better = int((drawn["accuracy"] >= after["accuracy"]).sum())
        share = (1 + better) / (1 + len(drawn))
        other = (1 + int((drawn["accuracy"] <= after["accuracy"]).sum())) / (1 + len(drawn))
        if share <= CHANCE:
            verdict = f"the chosen ones do better than random heads (p = {share:.3f})"
        elif other <= CHANCE:
            verdict = f"the chosen ones do WORSE than random heads (p = {other:.3f})"
        else:
            verdict = f"the chosen ones are not told apart from random heads (p = {min(share, other):.2f})"
        if share <= CHANCE and not after["gain_low"] > 0:
            verdict += ", which do harm: that is less harm, and no help that is told from none"
        few = "; fewer than 19 draws cannot tell" if len(drawn) < 19 else ""
        said.append(
            f"{better} of {len(drawn)} draws of {len(asked.heads)} other heads reach the same accuracy or "
            f"more (mean {drawn['accuracy'].mean():.1%}, from {drawn['accuracy'].min():.1%} to "
            f"{drawn['accuracy'].max():.1%}): {verdict}{few}."
        )
    else:
        said.append(
            "No random heads were drawn, so that nothing says whether these heads are special."
        )
    if "elsewhere" in rows.index:
        other = rows.loc["elsewhere"]
        more = ""
        if other["gain"] >= after["gain"] > 0:
            more = (
                " That is no less than with the places asked for: what helps is that the heads do not look "
                "where they did."
            )
        said.append(
            f"Made to look at other tokens, the same heads give {other['accuracy']:.1%} "
            f"({int(other['mended'])} mended, {int(other['broken'])} broken).{more}"
        )
    return said


def _movers(asked: Asked, looks: Any) -> list[str]:
    first = min(layer for layer, _ in asked.heads)
    parts = []
    for (layer, head), own in looks.groupby(["layer", "head"], sort=False):
        rows = own.set_index("answers")["change"]
        after = (
            "" if layer > first else " (before the heads that were changed, so that it cannot move)"
        )
        parts.append(
            f"{layer}.{head} {100 * rows['wrong']:+.1f} points on wrong answers and "
            f"{100 * rows['right']:+.1f} on right ones{after}"
        )
    if not parts:
        return []
    return [
        "Attention at the end of the heads with the largest direct effect (chosen on these records): "
        f"{'; '.join(parts)}."
    ]


def _ranks(asked: Asked, effects: Effects) -> str:
    after, rho, chance = ranked(asked, effects)
    if rho != rho:
        return (
            f"How the change of direct effects goes with importance cannot be said: {len(after)} heads come "
            "after, or nothing moves them, or importance is not known."
        )
    verdict = "" if chance <= CHANCE else ", which is not told from none"
    said = "p < 0.001" if chance < 0.001 else f"p = {chance:.3f}"
    return (
        f"Over the {len(after)} other heads after the first changed layer, the change of a head's direct "
        f"effect goes with its importance by path patching with rho = {rho:+.2f} (Spearman, {said}){verdict}."
    )
