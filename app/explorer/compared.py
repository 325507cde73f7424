"""Two results beside each other: the numbers of the same rows, and how far they lie apart."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

    from interp.result import Result

FIRST, SECOND, APART = "in the first", "in the second", "difference"


def shared_tables(one: "Result", other: "Result") -> list[str]:
    """Names of tables that both have, and whose rows can be told apart by the same columns."""
    mine, theirs = tables(one), tables(other)
    return [name for name in mine if name in theirs and keys(mine[name], theirs[name])]


def tables(result: "Result") -> "dict[str, DataFrame]":
    return {"table": result.table, **result.tables}


def keys(one: "DataFrame", other: "DataFrame") -> list[str]:
    """The first columns that tell all rows apart, in both; none where some rows are alike in all."""
    found: list[str] = []
    for name in one:
        if name not in other or not (_hashed(one[name]) and _hashed(other[name])):
            continue
        found.append(str(name))
        if not one.duplicated(found).any() and not other.duplicated(found).any():
            return found if values(one, other, found) else []
    return []


def values(one: "DataFrame", other: "DataFrame", known: list[str]) -> list[str]:
    """Columns of numbers in both, but for those that tell rows apart."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    def counted(table: "DataFrame", name: str) -> bool:
        return is_numeric_dtype(table[name]) and not is_bool_dtype(table[name])

    there = [str(name) for name in one if name in other and name not in known]
    return [name for name in there if counted(one, name) and counted(other, name)]


def side_by_side(one: "DataFrame", other: "DataFrame", known: list[str], value: str) -> "DataFrame":
    """Rows that both have, those that differ most first."""
    mine, theirs = (table[[*known, value]] for table in (one, other))
    rows = mine.merge(theirs, on=known, suffixes=("_1", "_2"))
    rows = rows.rename(columns={f"{value}_1": FIRST, f"{value}_2": SECOND})
    rows[APART] = rows[SECOND] - rows[FIRST]
    return rows.sort_values(APART, key=abs, ascending=False, kind="stable", ignore_index=True)


def _hashed(column: Any) -> bool:
    """Whether cells can tell rows apart: lists cannot."""
    from pandas.api.types import is_hashable, is_object_dtype

    return not is_object_dtype(column) or all(is_hashable(cell) for cell in column)
