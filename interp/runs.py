"""Saved results in folders: which there are, which are broken, and what differs between two."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy
import pandas
from torch import Tensor

from interp import remembered
from interp.manifest import MANIFEST, TENSORS, read_manifest, steady
from interp.result import Result

WHEN = ("at", "seconds")  # of `made`: no two runs share them
# Told, and no difference of what was asked or found.
WHERE = ("device", "versions", "on", "backend", "settings.save")
TIMED = ("seconds", "times")  # columns that hold how long something took
ABSENT = "absent"


@dataclass(frozen=True)
class Run:
    """A saved result by its manifest alone; `problem` says why it cannot be opened, or nothing."""

    path: Path
    analysis: str = ""
    rows: int | None = None
    made: Mapping[str, Any] = field(default_factory=dict)
    tables: tuple[str, ...] = ()
    size: int = 0  # bytes of its files
    problem: str = ""

    def load(self) -> Result:
        """The whole of it."""
        return Result.load(self.path)

    def row(self) -> dict[str, Any]:
        """What a list of runs tells of it."""
        told = {key: self.made.get(key) for key in ("model", "task", "records", "at", "seconds")}
        own = {"run": str(self.path), "analysis": self.analysis or None, "rows": self.rows}
        return {**own, **told, "problem": self.problem or None}


_FIELDS = {"analysis", "rows", "made", "size"}  # that are remembered, and tables


def found(*folders: str | Path) -> list[Run]:
    """Every run below the folders, by path; folders whose name begins with a dot are left out."""
    runs: list[Run] = []
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise NotADirectoryError(f"there is no folder {str(folder)!r} to look for runs in.")
        runs += _known(folder)
    if len(folders) > 1:  # one folder may lie in another
        runs = list({one.path.resolve(): one for one in reversed(runs)}.values())
    return sorted(runs, key=lambda one: str(one.path))


def run(path: str | Path) -> Run:
    """The run in a folder, whether or not it can be opened."""
    try:
        return steady(Path(path), _seen)
    except ValueError as problem:
        return Run(Path(path), problem=str(problem))


def _seen(path: Path) -> Run:
    told: dict[str, Any] = {}
    try:
        told["size"] = sum(file.stat().st_size for file in path.iterdir() if file.is_file())
        manifest = read_manifest(path)
        names = ("table", *manifest["tables"])
        told |= {"analysis": manifest["analysis"], "made": manifest["made"], "tables": names}
        return Run(path, rows=_rows(path, names), **told)
    except (OSError, ValueError) as problem:
        return Run(path, **told, problem=" ".join(str(problem).split()))


def pack(path: str | Path, into: str | Path | BinaryIO) -> None:
    """A run's folder as one zip file: to take along, unpack and open elsewhere."""
    path = Path(path).resolve()
    with zipfile.ZipFile(into, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(path.iterdir()):
            if file.is_file():
                packed.write(file, f"{path.name}/{file.name}")


def differences(one: Result, other: Result, tolerance: float = 0.0) -> pandas.DataFrame:
    """A row for each setting, column and tensor that differs, in words; none where they are equal.

    When they ran is not compared, nor how long they took, nor notes. Rows of `part` "where" (device,
    versions) are told, and do not make two results different: `same(table)`. Numbers may differ by
    `tolerance` (absolute).
    """
    rows = [("made", "analysis", one.analysis, other.analysis)]
    rows = [row for row in rows if row[2] != row[3]]
    rows += _of_made(one.made, other.made)
    mine, theirs = {"table": one.table, **one.tables}, {"table": other.table, **other.tables}
    for name in sorted({*mine, *theirs}):
        rows += _of_tables(name, mine.get(name), theirs.get(name), tolerance)
    for name in sorted({*one.tensors, *other.tensors}):
        rows += _of_tensors(name, one.tensors.get(name), other.tensors.get(name), tolerance)
    return pandas.DataFrame(rows, columns=["part", "name", "first", "second"])


def same(table: pandas.DataFrame) -> bool:
    """Whether `differences` found none that counts."""
    return bool((table["part"] == "where").all())


def _known(folder: Path) -> list[Run]:
    """All runs below a folder; whole ones whose files are as they were last time are not read again."""
    before, now, runs = remembered.read(folder), {}, []
    for place, stamp in _below(folder):
        name = os.path.relpath(place, folder)
        one = _as_before(place, stamp, before.get(name)) or run(place)
        if one.problem and not place.is_dir():  # removed meanwhile
            continue
        runs.append(one)
        if stamp is not None and not one.problem:
            now[name] = [stamp, _told(one)]
    if now != before:
        remembered.keep(folder, now)
    return runs


def _as_before(path: Path, stamp: str | None, entry: Any) -> Run | None:
    """What was read last time, where nothing has changed since."""
    match entry:
        case [str(known), {"tables": list(tables), **told}]:
            if known == stamp and {*told} == _FIELDS:
                return Run(path, tables=tuple(tables), **told)
    return None


def _told(one: Run) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _FIELDS} | {"tables": list(one.tables)}


def _below(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Folders that are runs, or were, and a name for what is in them now; not what lies inside these."""
    for place, inner, files in os.walk(folder):
        kept = any(name.endswith(".parquet") for name in files) or TENSORS in files
        if MANIFEST in files or kept:
            inner.clear()
            files.sort()
            try:
                stamp = remembered.stamp(
                    [os.stat(os.path.join(place, one)) for one in files], files
                )
            except OSError:  # replaced meanwhile, or a link to nothing
                stamp = None
            yield Path(place), stamp
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def _rows(path: Path, names: tuple[str, ...]) -> int:
    """Rows of the main table, read off the files' own footers; what is damaged is an error."""
    from pyarrow.parquet import read_metadata
    from safetensors import SafetensorError, safe_open

    counts = []
    for name in names:
        file = path / f"{name}.parquet"
        if not file.is_file():
            raise FileNotFoundError(f"its table {file.name} is missing")
        try:
            counts.append(read_metadata(file).num_rows)
        except (OSError, ValueError) as problem:
            raise ValueError(f"its table {file.name} is damaged: {problem}") from None
    if (path / TENSORS).is_file():
        try:
            safe_open(path / TENSORS, framework="pt")
        except SafetensorError as problem:
            raise ValueError(f"its {TENSORS} is damaged: {problem}") from None
    return counts[0]


def _flat(value: Any, name: str = "") -> dict[str, Any]:
    """Nested settings by dotted names."""
    if not isinstance(value, Mapping):
        return {name: value}
    parts = [_flat(part, f"{name}.{key}" if name else str(key)) for key, part in value.items()]
    return {key: part for each in parts for key, part in each.items()}


def _of_made(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[tuple]:
    mine, theirs = _flat(one), _flat(other)
    rows = []
    for name in dict.fromkeys([*mine, *theirs]):
        first, second = mine.get(name, ABSENT), theirs.get(name, ABSENT)
        own = name.removeprefix("protocol.")  # of an evaluation inside the analysis
        if own not in WHEN and first != second:
            where = own in WHERE or own.split(".")[0] in WHERE
            rows.append(("where" if where else "made", name, first, second))
    return rows


def _of_tables(name: str, one: Any, other: Any, tolerance: float) -> list[tuple]:
    if one is None or other is None:
        return [("table", name, *(ABSENT if each is None else "present" for each in (one, other)))]
    if len(one) != len(other):
        return [("table", name, f"{len(one)} rows", f"{len(other)} rows")]
    rows = []
    for column in dict.fromkeys([*one, *other]):
        if column not in one or column not in other:
            there = ["present" if column in each else ABSENT for each in (one, other)]
            rows.append(("table", f"{name}.{column}", *there))
        elif column not in TIMED:
            rows += _of_columns(f"{name}.{column}", one[column], other[column], tolerance)
    return rows


def _of_columns(name: str, one: Any, other: Any, tolerance: float) -> list[tuple]:
    """The row where they lie furthest apart, and how many others differ."""
    numbers = all(pandas.api.types.is_numeric_dtype(each) for each in (one, other))
    if numbers:
        mine, theirs = (each.to_numpy(dtype=float, na_value=numpy.nan) for each in (one, other))
        away = _away(mine, theirs)
    else:
        mine, theirs = one.tolist(), other.tolist()
        pairs = zip(mine, theirs, strict=True)
        away = numpy.array([float(not _alike(first, second)) for first, second in pairs])
        tolerance = 0.0
    count = int((away > tolerance).sum())
    if not count:
        return []
    row = int(away.argmax())
    where = f"{name}: {count} of {len(away)} rows, {'most in' if numbers else 'first in'} row {row}"
    return [("table", where, mine[row], theirs[row])]


def _of_tensors(name: str, one: Tensor | None, other: Tensor | None, tolerance: float) -> list:
    if one is None or other is None or one.shape != other.shape:
        said = [ABSENT if each is None else f"shape {tuple(each.shape)}" for each in (one, other)]
        return [("tensor", name, *said)]
    mine, theirs = one.double().flatten().numpy(), other.double().flatten().numpy()
    away = _away(mine, theirs)
    if not (away > tolerance).any():
        return []
    most = int(away.argmax())
    where = f"{name}: {int((away > tolerance).sum())} of {len(away)} values, most in value {most}"
    return [("tensor", where, mine[most], theirs[most])]


def _away(one: numpy.ndarray, other: numpy.ndarray) -> numpy.ndarray:
    """How far apart; what is not a number equals itself, and is infinitely far from any number."""
    with numpy.errstate(invalid="ignore"):
        away = numpy.abs(one - other)
    away[one == other] = 0.0
    away[numpy.isnan(one) & numpy.isnan(other)] = 0.0
    return numpy.nan_to_num(away, nan=numpy.inf)


def _alike(one: Any, other: Any) -> bool:
    """Equality of cells, which may be lists, arrays or missing."""
    if isinstance(one, numpy.ndarray) or isinstance(other, numpy.ndarray):
        one, other = (each.tolist() if hasattr(each, "tolist") else each for each in (one, other))
    if one is other or (pandas.api.types.is_scalar(one) and pandas.isna(one)):
        return one is other or (pandas.api.types.is_scalar(other) and bool(pandas.isna(other)))
    return bool(one == other)
