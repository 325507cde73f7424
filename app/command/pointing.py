"""`interp points`: what of a model can be read and changed, tried point by point."""

from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.command.opening import loaded
from app.command.saying import JSON_HELP, document, quiet, records, say, shown

if TYPE_CHECKING:
    import pandas


def points(
    model: Annotated[str, typer.Option(help="A shipped name, a folder or a hub id.")],
    backend: Annotated[str, typer.Option(help="hf, lens (TransformerLens) or nnsight.")] = "hf",
    dtype: Annotated[str | None, typer.Option(help="float16, bfloat16 or float32.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ...")] = None,
    json_asked: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """What of a model can be read and changed.

    Each site of each layer is tried: read once, changed once, to see whether the logits move.

    With --json there is a row for each point; without it layers that answer alike stand together.
    """

    with quiet(json_asked):
        opened = loaded(model, backend=backend, dtype=dtype, device=device)
        table = opened.points()
    if json_asked:
        document({"model": opened.name, "points": records(table)})
        return
    found = _together(table)
    say(shown(found.drop(columns="note"), rows=None))
    for row in found.dropna(subset="note").to_dict("records"):
        say(f"* {row['stack']} {row['site']} of layers {row['layers']}: {row['note']}")
    say(
        f"{opened.name}: {table['read'].sum()} of {len(table)} points can be read, "
        f"{table['change'].sum()} changed."
    )


def _together(table: "pandas.DataFrame") -> "pandas.DataFrame":
    """One row for layers of a stack whose site answers alike."""
    import pandas

    rows = []
    kinds = ["stack", "site", "read", "change", "note"]
    for _, part in table.groupby(kinds, sort=False, dropna=False):
        told: dict[str, Any] = part[kinds].iloc[0].to_dict()
        told["read"], told["change"] = (
            "yes" if told[name] else "no" for name in ("read", "change")
        )
        rows.append({"stack": told.pop("stack"), "layers": _ranges(part["layer"]), **told})
    return pandas.DataFrame(rows).replace("", None)


def _ranges(layers: Any) -> str:
    """0-3, 5: runs of neighbours."""
    runs = []
    for _, group in groupby(enumerate(sorted(layers)), lambda pair: pair[1] - pair[0]):
        run = [layer for _, layer in group]
        runs.append(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}")
    return ", ".join(runs)
