"""`python -m analyses NAME --model M --task T [settings]`: ask a question, save what was found.

    python -m analyses sinks --model demo-lm --task facts --count 40 --epsilon 0.2
    python -m analyses compare --model demo-vlm --task existence --count 200 --negatives adversarial
           --interventions VHR "VAR(keep=0.2)" --out runs/compare

    python -m analyses circuit_reuse --model demo-lm --out runs/reuse

A task is a name of interp.tasks or a file of records; --images is the folder that its images are in.
Options that the analysis does not know go to the task. Values are read as Python's where they are.
Printed are the table and the notes; saved are the result and, beside its folder, its figure.
"""

import argparse
import ast
import inspect
import sys
from pathlib import Path
from typing import Any

import interp
from analyses import ANALYSES
from interp import plots
from interp.registry import unknown
from interp.result import Result

ROWS, COLUMNS = 40, 14  # of a table that are printed


def value_of(text: str) -> Any:
    """A number, None, a list, ... where the text is one; else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def settings_of(rest: list[str]) -> dict[str, Any]:
    """--name value, --name several values (a list) and --name alone (True)."""
    found: dict[str, list[str]] = {}
    name = ""
    for word in rest:
        if word.startswith("--"):
            name = word[2:].replace("-", "_")
            found[name] = []
        elif not name:
            raise ValueError(f"{word!r} belongs to no option; options go by name: --name value.")
        else:
            found[name].append(word)
    values = {name: [value_of(word) for word in words] for name, words in found.items()}
    return {
        name: True if not words else words[0] if len(words) == 1 else words
        for name, words in values.items()
    }


def asked(name: str, given: argparse.Namespace, settings: dict[str, Any]) -> Result:
    analysis = ANALYSES[name]
    known = inspect.signature(analysis).parameters
    own = {key: value for key, value in settings.items() if key in known}
    rest = {key: value for key, value in settings.items() if key not in known}
    more = {"images": given.images} if given.images else {}
    tasks = {one: interp.Task.load(one, **rest, **more) for one in given.task or ()}
    if rest and not tasks:
        raise TypeError(
            unknown(f"option of {name}, which is given no task", next(iter(rest)), list(known)[2:])
        )
    task = next(iter(tasks.values())) if len(tasks) == 1 else tasks or None
    if not given.model and known["model"].default is inspect.Parameter.empty:
        raise ValueError(
            "--model is missing: a shipped name such as demo-lm, a folder or a hub id."
        )
    where = {"fault": given.fault, "dtype": given.dtype, "device": given.device}
    model = interp.load(given.model, **where) if given.model else None
    return analysis(model, task, **own)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        "python -m analyses",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("analysis", help=", ".join(ANALYSES))
    parser.add_argument("--model", help="a shipped name, a folder or a hub id")
    parser.add_argument("--dtype", help="float16, bfloat16, float32; the files' own without it")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--fault", help="known damage to a shipped model")
    parser.add_argument(
        "--task",
        nargs="+",
        help="a task's name, or a file of records; several where they are compared",
    )
    parser.add_argument("--images", help="the folder that images of a file are in")
    parser.add_argument("--out", help="where the result is saved; runs/NAME without it")
    given, rest = parser.parse_known_args(arguments)
    try:
        result = asked(given.analysis, given, settings_of(rest))
    except (ValueError, LookupError, TypeError, OSError, RuntimeError) as problem:
        sys.stderr.write(f"{given.analysis}: {problem}\n")
        return 2
    folder = result.save(Path(given.out or f"runs/{given.analysis}"))
    sys.stdout.write(f"{result}\n{shown(result)}\n")
    for note in result.notes:
        sys.stdout.write(f"* {note}\n")
    sys.stdout.write(f"Saved in {folder}{drawn(result, folder)}\n")
    return 0


def shown(result: Result) -> str:
    """The first rows of the table, as wide as they are."""
    table = result.table.dropna(axis="columns", how="all")
    names = list(table)[:COLUMNS]
    wider = f"\n... {len(list(table)) - COLUMNS} more columns" if len(list(table)) > COLUMNS else ""
    table = table[names]
    more = f"\n... {len(table) - ROWS} more rows" if len(table) > ROWS else ""
    return table.head(ROWS).to_string(index=False, float_format="%.3g") + more + wider


def drawn(result: Result, folder: Path) -> str:
    """Write the figure beside the result's folder, where there is one, and say so."""
    if result.analysis not in plots.RESULTS:
        return ""
    path = folder.with_name(f"{folder.name}.html")
    result.figure().write_html(path)
    return f", its figure in {path}"


if __name__ == "__main__":
    sys.exit(main())
