"""`interp explore`: the explorer, served from here."""

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from app.command.saying import JSON_HELP, document, note, quiet


def explore(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of saved results; only these are browsed."),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(help="A model to offer: a shipped name, a folder or a hub id; repeatable."),
    ] = None,
    host: Annotated[str, typer.Option(help="Who can reach it: this machine alone by default.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens.")] = 8501,
    no_browser: Annotated[
        bool, typer.Option("--no-browser", help="Do not open a browser.")
    ] = False,
    json_asked: Annotated[bool, typer.Option("--json", help=JSON_HELP)] = False,
) -> None:
    """Open the explorer in a browser, until it is interrupted."""
    from interp.extras import need

    need("streamlit", "the explorer")
    from app.serve import serve

    folders, models = list(runs or []), list(model or [])
    for folder in folders:
        if not folder.expanduser().is_dir():
            raise NotADirectoryError(f"there is no folder {str(folder)!r} of saved results.")
    address, out = f"http://{host}:{port}", sys.stdout

    def ready() -> None:
        if json_asked:
            told = [str(one) for one in folders]
            with redirect_stdout(out):
                document({"url": address, "folders": told, "models": models})
        note(f"The explorer is at {address}; Ctrl-C ends it.")

    with quiet(json_asked):
        serve(folders, models, host=host, port=port, browser=not no_browser, ready=ready)
