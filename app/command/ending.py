"""How a command ends: a code, and where something went wrong a sentence without a traceback."""

import sys
import traceback
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from app.command.saying import note

WRONG, FAULT, INTERRUPTED = 2, 3, 130
RESUMES = "the same command goes on from what --save kept."
CANNOT = (
    ValueError,
    LookupError,
    TypeError,
    OSError,
    RuntimeError,
    ImportError,
    NotImplementedError,
)


class Commands(TyperGroup):
    """All of `interp`, with its exit codes."""

    def main(
        self,
        args: Any = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = False,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        given = sys.argv[1:] if args is None else list(args)
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _warned
                code = super().main(
                    given or ["--help"],
                    prog_name,
                    complete_var,
                    False,
                    windows_expand_args,
                    **extra,
                )
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as problem:
            code = _said(problem, prog_name or "interp")
        if code == INTERRUPTED:
            kept = any(word.split("=")[0] == "--save" for word in given)
            note(f"Interrupted; {RESUMES if kept else 'nothing was saved.'}")
        sys.exit(code if isinstance(code, int) else 0)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command; of a name that is none, the nearest is offered."""
        found = super().get_command(ctx, cmd_name)
        if found is None and not cmd_name.startswith("-"):
            from interp.registry import unknown

            raise LookupError(unknown("command", cmd_name, self.list_commands(ctx)))
        return found


def _warned(message: Warning | str, *_: Any, **more: Any) -> None:
    """A warning as a sentence, without the line of code it came from."""
    note(f"warning: {message}")


def _said(problem: Exception, name: str) -> int:
    """Tell a problem in a sentence; one that nobody foresaw shows where it comes from."""
    told = getattr(problem, "format_message", None)
    if callable(told):  # the parser's own
        note(f"{name}: {' '.join(str(told()).split())}{_help(problem)}")
        return WRONG
    if not isinstance(problem, CANNOT) or type(problem) in (KeyError, IndexError):
        traceback.print_exception(problem)
        return FAULT
    text = str(problem.args[0]) if len(problem.args) == 1 else str(problem)
    note(f"{name}: {text or type(problem).__name__}")
    return WRONG


def _help(problem: Any) -> str:
    """Where to read on, as the parser's problem knows its command."""
    context = getattr(problem, "ctx", None)
    return f" See {context.command_path} --help." if context is not None else ""
