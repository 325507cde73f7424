"""`interp`: the toolkit from a shell. `interp --help` lists the commands, each answers to --help.

Heavy libraries are imported where a command needs them, so that help comes at once.
"""

from typing import Annotated, Any

import typer

from app.command.asking import Analyses, Asking
from app.command.ending import Commands
from app.command.exploring import explore
from app.command.pointing import points
from app.command.saved import runs
from app.command.writing import generate

EPILOG = """
Exit codes: 0 fine; 1 `interp runs compare` found differences; 2 wrong use, or something that cannot be
done (a sentence on stderr says what would do); 3 a fault of interp itself, with its traceback; 130
interrupted.

With --json, stdout holds one JSON document and nothing else; progress and notes go to stderr.
""".strip()

app = typer.Typer(
    cls=Commands,
    epilog=EPILOG,
    rich_markup_mode=None,  # brackets in prompts and tokens are text
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"max_content_width": 100},
)
ask = typer.Typer(cls=Analyses, rich_markup_mode=None)


def _version(asked: bool) -> None:
    if asked:
        import interp

        typer.echo(f"interp {interp.__version__}")
        raise typer.Exit


@app.callback()
def interp_command(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="The version.")
    ] = False,
) -> None:
    """See and steer attention inside any Hugging Face transformer."""


@ask.callback()
def run() -> None:
    """Ask a question (an analysis) of a model and a task.

    The table and the notes are printed; the result is saved, and its figure beside it.

    `interp run NAME --help` lists the settings of one, with their defaults.
    """


def compare() -> None:  # Asking takes the line as it is
    """Interventions side by side on a task; as `run compare`."""


app.command()(explore)
app.add_typer(ask, name="run")
app.command(cls=Asking)(compare)
app.command()(generate)
app.command()(points)
app.add_typer(runs, name="runs")


def main(arguments: list[str] | None = None, name: str = "interp", **more: Any) -> int:
    """Carry out one line; the exit code."""
    try:
        app(arguments, prog_name=name, **more)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
