"""What was found, in sentences."""

from typing import TYPE_CHECKING, Any

import pandas

from analyses.circuit.notes import NOTHING_DONE, thin_means
from analyses.circuit_reuse.tables import OWN
from interp.circuits.finding import EXACT

if TYPE_CHECKING:
    from analyses.circuit.asked import Asked

FAITHFUL = 0.85  # below which a circuit does not do its task, so that what it shares says little
ALIKE = 4  # roles to name

Row = dict[str, Any]


def notes(asked: "dict[str, Asked]", table: Any, more: dict[str, Any]) -> list[str]:
    said = _circuits(asked, more["faithfulness"])
    pairs: list[Row] = table[table["size"] == OWN].to_dict("records")
    for number, row in enumerate(pairs):
        if idle := [name for name in (row["first"], row["second"]) if not asked[name].does_it]:
            said.append(
                f"What {row['first']} and {row['second']} share is not told: there is no circuit of "
                f"{' and '.join(idle)}."
            )
            continue
        said.append(_overlap(row))
        if not number:  # the question; of the other pairs the tables tell
            said += [*_members(row, more["members"]), *_crossed(row, more["crossed"])]
    said += _sizes(table)
    for name, own in asked.items():
        said += [f"{name}: {note}" for note in (*own.found.notes, *own.notes)]
    if "ioi_classes" in more:
        said += [f"IOI classes: {note}" for own in asked.values() for note in own.class_notes]
    return said


def _circuits(asked: "dict[str, Asked]", table: Any) -> list[str]:
    rows: list[Row] = table.to_dict("records")
    said = []
    for row in rows:
        own = asked[row["task"]]
        if not own.does_it:
            said.append(NOTHING_DONE.format(task=row["task"]))
            continue
        listed = ", ".join(str(one) for one in own.found.ranked if one in own.kept)
        said.append(
            f"{row['task']}: {row['heads']} of {row['of']} heads ({row['heads'] / row['of']:.0%}): "
            f"{listed or 'none'}. On {row['records']} held-out records they do {row['share']:.2f} of the "
            f"task ({row['low']:.2f} to {row['high']:.2f}) with every other head replaced; random ones "
            f"{row['random']:.2f}."
        )
        if row["share"] < FAITHFUL:
            told = "does not reach" if row["high"] < FAITHFUL else "is not told to reach"
            said.append(
                f"The circuit of {row['task']} {told} {FAITHFUL:.2f} of its task by itself: what it shares "
                "with others says little of what the tasks share."
            )
        said += [f"{row['task']}: {note}" for note in thin_means(own)]
    if next(iter(asked.values())).found.method not in EXACT:
        said.append("These circuits rest on estimates; what they do was run.")
    return said


def _overlap(row: Row) -> str:
    verdict = (
        f"more than the {row['most']} that 95 % of random sets stay within"
        if row["above_chance"]
        else f"NOT above chance: random sets share up to {row['most']} in 95 of 100 draws"
    )
    named = f" ({row['heads']})" if row["heads"] else ""
    return (
        f"{row['first']} and {row['second']} share {row['shared']} head{_s(row)}{named}: "
        f"{row['ratio']:.0%} of the smaller circuit, Jaccard {row['jaccard']:.2f}; by chance "
        f"{row['expected']:.1f}. That is {verdict} (p = {row['p']:.2g})."
    )


def _s(row: Row) -> str:
    return "" if row["shared"] == 1 else "s"


def _members(row: Row, members: pandas.DataFrame) -> list[str]:
    own: Any = members[(members["first"] == row["first"]) & (members["second"] == row["second"])]
    if not len(own) or not (own["role_first"] != "").any():
        return []
    said = []
    for member, title, columns in (
        ("both", "shared", ("role_first", "role_second")),
        ("first", f"only {row['first']}", ("role_first",)),
        ("second", f"only {row['second']}", ("role_second",)),
    ):
        part: list[Row] = own[own["member"] == member].to_dict("records")
        listed = ", ".join(f"{one['layer']}.{one['head']} {_roles(one, columns)}" for one in part)
        if listed:
            said.append(f"{title}: {listed}")
    return ["; ".join(said) + "."] if said else []


def _roles(row: Row, columns: tuple[str, ...]) -> str:
    found = [row[name] for name in columns]
    return f"({found[0]})" if len(set(found)) == 1 else f"({' / '.join(found)})"


def _crossed(row: Row, crossed: pandas.DataFrame) -> list[str]:
    """Each circuit on the other task."""
    share = {(one["kept"], one["task"]): one["share"] for one in crossed.to_dict("records")}
    first, second = row["first"], row["second"]
    return [
        f"The circuit of {first} does {share[f'circuit of {first}', second]:.2f} of {second}, that of "
        f"{second} {share[f'circuit of {second}', first]:.2f} of {first}."
    ]


def _sizes(table: Any) -> list[str]:
    """At how many fixed sizes the overlap is above chance."""
    fixed = table[table["size"] != OWN]
    said = []
    for (first, second), part in fixed.groupby(["first", "second"], sort=False):
        above = ", ".join(f"{float(size):.0%}" for size in part[part["above_chance"]]["size"])
        said.append(f"{first} and {second}: {above or 'at no size'}")
    return [f"Above chance at fixed sizes: {'; '.join(said)}."] if said else []
