"""What a comparison says, in sentences."""

from typing import Any

from analyses.compare.asked import PLAIN, WHOLE, Asked
from analyses.compare.items import YES_BIAS
from analyses.compare.runs import Found

FEW = 30  # records below which little can be told
AGAINST = {"helps": "better", "not told from it": "not to be told apart", "hurts": "worse",
           "higher": "higher", "lower": "lower"}  # fmt: skip
SHIFT = 0.05  # of the share of yes, from where it is told
LONG = 0.05  # share of answers at the limit, from where it is told


def notes(asked: Asked, found: Found, made: dict[str, Any]) -> list[str]:
    table, said = made["table"], []
    for task in found.runs:
        own = table[table["task"] == task].set_index("name")
        said.append(_plain(task, own, found, asked))
        said += _by_verdict(task, own)
        said += _mended(task, own, asked)
        said += _yes(task, own)
        said += _controls(task, made)
        said += _beside(task, own, made["rates"])
    said += _chosen(found)
    said += [f"{one['name']} is not compared: {one['why']}" for one in found.refused]
    said += _limits(made)
    tests = int(table["difference"].notna().sum())
    said.append(
        f"Intervals are of {asked.settings.draws} paired bootstrap draws of records; {tests} differences are "
        "told, each at 95 %, so that by chance alone one in twenty would leave its interval."
    )
    if int(table["n"].min()) < FEW:
        said.append(f"{table['n'].min()} records are few: intervals come out too narrow.")
    said.append("Seconds are the wall time of these runs, once each: no benchmark.")
    return said


def _plain(task: str, own: Any, found: Found, asked: Asked) -> str:
    row = own.loc[PLAIN]
    which = f", {found.better} being better" if found.better else ""
    rate = _words(found.headline)
    what = rate if rate == asked.measured else f"{asked.measured}, {rate}"
    return (
        f"{task}: {what} of {row['n']} records is "
        f"{_number(row['value'], row['low'], row['high'])} with nothing changed{which}."
    )


def _by_verdict(task: str, own: Any) -> list[str]:
    """Interventions and controls by what they do."""
    said = []
    for kind in ("intervention", "control"):
        part = own[own["kind"] == kind]
        for verdict in ("helps", "higher", "lower", "hurts"):
            rows = part[part["verdict"] == verdict].sort_values(
                "difference", key=abs, ascending=False
            )
            said += [
                f"{task}: {_called(name, kind)} {_does(verdict)} by "
                f"{_number(row['difference'], row['diff_low'], row['diff_high'], sign=True)}; "
                f"{row['helped']} records better, {row['hurt']} worse."
                for name, row in rows.iterrows()
            ]
        rest = part[part["verdict"] == "not told from plain"]
        if len(rest):
            told = ", ".join(f"{name} ({row['difference']:+.3f})" for name, row in rest.iterrows())
            same = rest[(rest["difference"] == 0) & (rest["helped"] + rest["hurt"] == 0)].index
            also = f"; {', '.join(map(str, same))} changed no score at all" if len(same) else ""
            noun = "controls not" if kind == "control" else "not"
            said.append(f"{task}: {noun} to be told from plain: {told}{also}.")
    return said


def _does(verdict: str) -> str:
    return verdict if verdict in ("helps", "hurts") else f"makes it {verdict}"


def _called(name: Any, kind: str) -> str:
    return f"the control {name!r}" if kind == "control" else str(name)


def _mended(task: str, own: Any, asked: Asked) -> list[str]:
    if "recovered" not in own:
        return []
    compared = own[~own["kind"].isin((PLAIN, WHOLE))]
    known = compared[compared["recovered"].notna()]
    goal = f"the whole model has {own.loc[WHOLE, 'value']:.3f}" if WHOLE in own.index else (
        f"the reference is {_reference(asked, task):.3f}"
    )  # fmt: skip
    if not len(known):
        return [
            f"{task}: {goal}, which is not to be told from plain: nothing is lost to be recovered."
        ]
    mends = known[known["verdict"] == "helps"].sort_values("recovered", ascending=False)
    told = ", ".join(
        f"{name} {_number(row['recovered'], row['recovered_low'], row['recovered_high'])}"
        for name, row in mends.iterrows()
    )
    return [
        f"{task}: {goal}; shares of what is lost that come back: "
        f"{told or 'none that is to be told from plain'}."
    ]


def _reference(asked: Asked, task: str) -> float:
    given: Any = asked.settings.reference
    return float(given[task] if hasattr(given, "keys") else given)


def _yes(task: str, own: Any) -> list[str]:
    """Those that move the share of yes: they may help by that alone."""
    if "yes_rate" not in own:
        return []
    before = own.loc[PLAIN, "yes_rate"]
    moved = own[((own["yes_rate"] - before).abs() >= SHIFT) & ~own["kind"].isin((PLAIN, WHOLE))]
    if not len(moved):
        return []
    told = ", ".join(f"{name} {row['yes_rate']:.2f}" for name, row in moved.iterrows())
    hint = "" if YES_BIAS in own.index else f" (the control {YES_BIAS!r} says what that alone does)"
    return [f"{task}: yes is said in {before:.2f} of the answers; with {told}{hint}."]


def _controls(task: str, made: dict[str, Any]) -> list[str]:
    """Interventions that help, against each control."""
    if "against" not in made:
        return []
    table, against = made["table"], made["against"]
    helping = table[(table["task"] == task) & (table["verdict"] == "helps")]["name"]
    own = against[(against["task"] == task) & against["name"].isin(list(helping))]
    said = []
    for control, rows in own.groupby("control", sort=False):
        parts = []
        for verdict, told in AGAINST.items():
            part = rows[rows["verdict"] == verdict]
            listed = ", ".join(f"{row['name']} ({_off(row)})" for _, row in part.iterrows())
            parts += [f"{told}: {listed}"] if listed else []
        said.append(f"{task}, against the control {control!r}: {'; '.join(parts)}.")
    return said


def _off(row: Any) -> str:
    low, high = row["diff_low"], row["diff_high"]
    return _number(row["difference"], low, high, sign=True).replace(" (", ", ").rstrip(")")


def _beside(task: str, own: Any, rates: Any) -> list[str]:
    """What captions lose where they invent less: fewer objects named, fewer words."""
    names = list(own[own["verdict"].isin(("helps", "hurts"))].index)
    values = rates[rates["task"] == task].pivot(index="name", columns="rate", values="value")
    if not names or not {"recall", "words"} <= set(values):
        return []
    told = [
        f"{name} {values.loc[name, 'recall']:.2f} and {values.loc[name, 'words']:.0f}"
        for name in [PLAIN, *names]
    ]
    return [f"{task}: recall of objects, and words a caption: {'; '.join(told)}."]


def _chosen(found: Found) -> list[str]:
    """What was chosen, and on what."""
    chosen = [one for one in found.choices if one["chosen"]]
    return [
        f"{one['name']}: {one['setting']} was chosen on {one['n']} validation records, which are not among "
        f"those reported (value there {one['value']:.3f})."
        for one in chosen
    ]


def _limits(made: dict[str, Any]) -> list[str]:
    """Captions that did not come to their end, and texts that repeat themselves."""
    rates = made["rates"]
    said = []
    for name, told in (
        ("cut", "reach the limit of new tokens"),
        ("unread", "say neither yes nor no"),
    ):
        part = rates[(rates["rate"] == name) & (rates["value"] >= LONG)]
        if len(part):
            listed = ", ".join(f"{row['name']} {row['value']:.2f}" for _, row in part.iterrows())
            said.append(f"Shares of answers that {told}: {listed}.")
    return said


def _number(value: float, low: float, high: float, sign: bool = False) -> str:
    form = "+.3f" if sign else ".3f"
    return f"{value:{form}} ({low:{form}} to {high:{form}})" if low == low else f"{value:{form}}"


def _words(name: str) -> str:
    return name.replace("_", " ")
