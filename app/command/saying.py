"""What goes to stdout and what to stderr; one JSON document, or text of which nothing is markup."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

ROWS, COLUMNS = 40, 14  # of a table that are printed
# Control characters are shown, not sent to the terminal: a model can write any.
SHOWN = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if code not in (9, 10)}
JSON_HELP = "Print one JSON document on stdout, and nothing else there."


def say(text: str) -> None:
    """A line on stdout; a reader that has gone away is no error."""
    _write(sys.stdout, text.translate(SHOWN))


def note(text: str) -> None:
    """A line on stderr."""
    _write(sys.stderr, text.translate(SHOWN))


def document(value: Any) -> None:
    """The one JSON document of a command."""
    from interp.result import json_value

    _write(sys.stdout, json.dumps(json_value(value), indent=1, allow_nan=False))


@contextmanager
def quiet(json_asked: bool) -> Iterator[None]:
    """With --json, what libraries print meanwhile goes to stderr."""
    if not json_asked:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def records(table: "pandas.DataFrame") -> list[dict[str, Any]]:
    """Rows as JSON can hold them; what is missing is null."""
    plain = table.astype(object)
    return [
        {str(key): cell for key, cell in row.items()}
        for row in plain.where(plain.notna(), None).to_dict("records")
    ]


def shown(table: "pandas.DataFrame", rows: int | None = ROWS) -> str:
    """The first rows of a table, as wide as they are."""
    filled = [name for name in table if table.empty or table[name].notna().to_numpy().any()]
    wider = f"\n... {len(filled) - COLUMNS} more columns" if len(filled) > COLUMNS else ""
    table = table.filter(items=filled[:COLUMNS])
    more = f"\n... {len(table) - rows} more rows" if rows is not None and len(table) > rows else ""
    kept = table if rows is None else table.head(rows)
    return kept.to_string(index=False, float_format="%.3g", na_rep="") + more + wider


def _write(stream: Any, text: str) -> None:
    try:
        stream.write(f"{text}\n")
        stream.flush()
    except BrokenPipeError:  # `| head` has seen enough; Python flushes once more when it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
