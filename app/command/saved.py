"""`interp runs`: saved results listed, shown, compared and exported."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from app.command.saying import JSON_HELP, document, records, say, shown

if TYPE_CHECKING:
    from interp.result import Result

HERE = Path("runs")  # where `interp run` saves
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
PATTERN = ", or of all that fit a pattern such as 'demo-*'."
RUN_HELP = "A saved result: its folder, or its name in ./runs or among those that come along."


class Order(StrEnum):
    """How runs are listed."""

    folder = "folder"
    time = "time"
    seconds = "seconds"


class _OrFolder(TyperGroup):
    """A word that is no command is the folder to list."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        known = [*self.commands, "--help"]
        return super().parse_args(ctx, args if args and args[0] in known else ["ls", *args])


runs = typer.Typer(
    cls=_OrFolder,
    rich_markup_mode=None,
    help="Saved results: list, show, compare, export.\n\n`interp runs` lists those in ./runs (without "
    "such a folder those that come along), and `interp runs FOLDER` those in another folder.",
    subcommand_metavar="[ls] [FOLDER] | COMMAND [ARGS]...",
)


@runs.command()
def ls(
    folders: Annotated[
        list[Path] | None, typer.Argument(metavar="[FOLDER]...", help="Folders to look in.")
    ] = None,
    analysis: Annotated[str | None, typer.Option(help=f"Only of this one{PATTERN}")] = None,
    model: Annotated[str | None, typer.Option(help=f"Only of this one{PATTERN}")] = None,
    task: Annotated[str | None, typer.Option(help=f"Only of this one{PATTERN}")] = None,
    sort: Annotated[
        Order, typer.Option(help="By folder, or the newest or the longest first.")
    ] = Order.folder,
    json_asked: Json = False,
) -> None:
    """List the results below a folder; those that cannot be opened say why."""
    import pandas

    from interp.registry import unknown
    from interp.runs import found

    for folder in folders or []:
        if not folder.is_dir():
            known = ["ls", "show", "compare", "export"]
            raise LookupError(unknown("folder or command", str(folder), known, "Commands are"))
    every = [one.row() for one in found(*(folders or _homes()[:1]))]
    rows = _only(every, {"analysis": analysis, "model": model, "task": task})
    if sort is not Order.folder:
        key, kind = {Order.time: ("at", str), Order.seconds: ("seconds", float | int)}[sort]
        told = [row for row in rows if isinstance(row[key], kind)]
        rest = [row for row in rows if not isinstance(row[key], kind)]
        rows = sorted(told, key=lambda row: row[key], reverse=True) + rest
    if json_asked:
        document({"runs": rows})
        return
    whole = [
        {key: row[key] for key in row if key != "problem"} for row in rows if not row["problem"]
    ]
    broken = [row for row in rows if row["problem"]]
    if whole:
        say(shown(pandas.DataFrame(whole), rows=None))
    for row in broken:
        say(f"broken: {row['run']}: {row['problem']}.")
    counted = f"{len(whole)} result{'' if len(whole) == 1 else 's'}"
    of = f", of {len(every)} that are there" if len(rows) < len(every) else ""
    say(f"{counted}{f', {len(broken)} broken' if broken else ''}{of}.")


def _only(rows: list[dict[str, Any]], asked: dict[str, str | None]) -> list[dict[str, Any]]:
    """Rows that fit all patterns; a pattern that nothing fits is told, with what there is."""
    from fnmatch import fnmatchcase

    from interp.registry import unknown

    for name, pattern in asked.items():
        if pattern is None:
            continue
        known = sorted({str(row[name]) for row in rows if row[name] is not None})
        rows = [row for row in rows if fnmatchcase(str(row[name] or ""), pattern)]
        if not rows:
            raise LookupError(unknown(f"result here of the {name}", pattern, known, "There are"))
    return rows


@runs.command()
def show(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    table: Annotated[str | None, typer.Option(help="One of its finer tables, by name.")] = None,
    json_asked: Json = False,
) -> None:
    """The table of a result, its notes, and how it was made."""
    from app.command.asking import told_whole

    result = _opened(run)
    if json_asked:
        document(told_whole(result) if table is None else records(_table(result, table)))
        return
    say(f"{result}\n{shown(result.table if table is None else _table(result, table))}")
    if table is not None:
        return
    for sentence in result.notes:
        say(f"* {sentence}")
    for name, value in result.made.items():
        say(f"{name}: {_plain(value)}")
    if result.tables:
        say(f"More tables (--table NAME): {', '.join(result.tables)}")


@runs.command()
def compare(
    one: Annotated[str, typer.Argument(help=RUN_HELP)],
    other: Annotated[str, typer.Argument(help=RUN_HELP)],
    tolerance: Annotated[
        float, typer.Option(min=0, help="How far apart numbers may lie and still be equal.")
    ] = 0.0,
    json_asked: Json = False,
) -> int:
    """Whether two results are equal, or where they differ: exit code 0 or 1.

    Compared are settings, tables and tensors; not when they ran, how long it took, nor notes. Device and
    versions are told where they differ, and change no exit code.
    """
    from interp.runs import differences, same

    table = differences(_opened(one), _opened(other), tolerance)
    equal = same(table)
    if json_asked:
        document({"equal": equal, "tolerance": tolerance, "differences": records(table)})
    else:
        for row in table.to_dict("records"):
            first, second = _plain(row["first"]), _plain(row["second"])
            say(f"{row['part']} {row['name']}: {first} | {second}")
        say("Equal." if equal else "They differ.")
    return 0 if equal else 1


@runs.command()
def export(
    run: Annotated[str, typer.Argument(help=RUN_HELP)],
    csv: Annotated[
        Path | None,
        typer.Option(help="A file for the table, or a folder for it and all finer ones."),
    ] = None,
    table: Annotated[
        str | None, typer.Option(help="Another table for the CSV file, by name.")
    ] = None,
    zip_file: Annotated[
        Path | None,
        typer.Option("--zip", help="A file for the whole folder; unpacked it is the run again."),
    ] = None,
    json_asked: Json = False,
) -> None:
    """Write tables as CSV, one as FILE.csv or all of them into a folder; or the whole run as a zip file."""
    if csv is None and zip_file is None:
        raise ValueError("say what to write: --csv FILE.csv, --csv FOLDER or --zip FILE.zip.")
    if table is not None and csv is None:
        raise ValueError("--table goes into a CSV file: --csv FILE.csv.")
    path = _path(run)
    written = [] if csv is None else _as_csv(path, csv, table)
    written += [] if zip_file is None else [_as_zip(path, zip_file)]
    if json_asked:
        document({"written": written})
        return
    for one in written:
        say(f"{one['file']}: {one['rows']} rows" if "rows" in one else f"{one['file']}")


def _as_csv(path: Path, csv: Path, table: str | None) -> list[dict[str, Any]]:
    result = _whole(path)
    if csv.suffix == ".csv":
        tables = {csv: result.table if table is None else _table(result, table)}
    elif table is not None:
        raise ValueError(f"--table goes into a file: --csv {csv}.csv.")
    else:
        every = {"table": result.table, **result.tables}
        tables = {csv / f"{name}.csv": one for name, one in every.items()}
    for file, one in tables.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        one.to_csv(file, index=False)
    return [{"file": str(file), "rows": len(one)} for file, one in tables.items()]


def _as_zip(path: Path, into: Path) -> dict[str, Any]:
    from interp.runs import pack

    _whole(path)  # what is broken is not handed on
    if into.suffix != ".zip":
        raise ValueError(f"--zip takes the name of a zip file: --zip {into}.zip.")
    into.parent.mkdir(parents=True, exist_ok=True)
    pack(path, into)
    return {"file": str(into)}


def _opened(given: str) -> "Result":
    """A run by its folder, or by its name in ./runs; a broken one says why."""
    return _whole(_path(given))


def _path(given: str) -> Path:
    from interp.registry import unknown
    from interp.runs import found

    for path in (Path(given), *(home / given for home in _homes())):
        if path.is_dir():
            return path
    known = [one.path.relative_to(home).as_posix() for home in _homes() for one in found(home)]
    raise LookupError(unknown("run", given, list(dict.fromkeys(known))))


def _whole(path: Path) -> "Result":
    from interp.runs import run

    seen = run(path)
    if seen.problem:
        raise ValueError(f"{str(path)!r} is no whole result: {seen.problem}.")
    return seen.load()


def _homes() -> list[Path]:
    """Where results are looked for by name: those made here, then those that come along."""
    from interp import shipped

    return [home for home in (HERE, shipped.runs()) if home.is_dir()]


def _table(result: "Result", name: str) -> Any:
    from interp.registry import unknown

    if name not in result.tables:
        raise LookupError(unknown("table", name, list(result.tables)))
    return result.tables[name]


def _plain(value: Any) -> str:
    import json

    from interp.result import json_value

    return value if isinstance(value, str) else json.dumps(json_value(value), ensure_ascii=False)
