"""`interp runs`: saved results listed, shown, compared and exported."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from app.command.saying import JSON_HELP, document, records, say, shown

if TYPE_CHECKING:
    from interp.result import Result

HERE = Path("runs")  # where `interp run` saves
Json = Annotated[bool, typer.Option("--json", help=JSON_HELP)]
RUN_HELP = "A saved result: its folder, or its name in ./runs or among those that come along."


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
    rows = [one.row() for one in found(*(folders or _homes()[:1]))]
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
    say(f"{counted}{f', {len(broken)} broken' if broken else ''}.")


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
        Path, typer.Option(help="A file for the table, or a folder for it and all finer ones.")
    ],
    table: Annotated[str | None, typer.Option(help="Another table for the file, by name.")] = None,
    json_asked: Json = False,
) -> None:
    """Write tables as CSV: one as FILE.csv, or all of them into a folder."""
    result = _opened(run)
    if csv.suffix == ".csv":
        written = {csv: result.table if table is None else _table(result, table)}
    elif table is not None:
        raise ValueError(f"--table goes into a file: --csv {csv}.csv.")
    else:
        tables = {"table": result.table, **result.tables}
        written = {csv / f"{name}.csv": one for name, one in tables.items()}
    for path, one in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        one.to_csv(path, index=False)
    if json_asked:
        document(
            {"written": [{"file": str(path), "rows": len(one)} for path, one in written.items()]}
        )
        return
    for path, one in written.items():
        say(f"{path}: {len(one)} rows")


def _opened(given: str) -> "Result":
    """A run by its folder, or by its name in ./runs; a broken one says why."""
    from interp.registry import unknown
    from interp.runs import found, run

    for path in (Path(given), *(home / given for home in _homes())):
        if path.is_dir():
            seen = run(path)
            if seen.problem:
                raise ValueError(f"{str(path)!r} is no whole result: {seen.problem}.")
            return seen.load()
    known = [one.path.relative_to(home).as_posix() for home in _homes() for one in found(home)]
    raise LookupError(unknown("run", given, list(dict.fromkeys(known))))


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
