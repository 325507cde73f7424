"""`interp run NAME`: any analysis, its options read off its signature."""

import ast
import inspect
import pkgutil
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from app.command.opening import loaded
from app.command.saying import JSON_HELP, document, note, quiet, records, say, shown
from app.command.settings import flag, free, kinds_of, metavar, typed, words_of

COMMON = {
    "model": ("NAME", "A shipped name such as demo-lm, a folder or a hub id."),
    "task": ("NAME...", "A task's name, or a file of records; several where they are compared."),
    "dtype": ("TEXT", "float16, bfloat16 or float32; the files' own without it."),
    "device": ("TEXT", "cpu, cuda, cuda:1, ..."),
    "backend": ("NAME", "hf, lens (TransformerLens) or nnsight."),
    "fault": ("NAME", "Known damage to a shipped model."),
    "images": ("FOLDER", "The folder that images of a file of records are in."),
    "out": ("FOLDER", "Where the result is saved; runs/NAME without it."),
    "on": (
        "WHERE",
        "ray, ray:4 (workers), auto or ray://host:port: work is shared out to a Ray cluster.",
    ),
}
SHORT = 100  # characters of a docstring that are repeated beside an option
EPILOG = """
Several values go behind one option: --layers 1 2 3. Options that are not listed go to the task: --count,
--split, its own settings. What both know goes to the analysis; --task-count, --task-seed and so on always
go to the task. Printed are the table and the notes; saved are the result and, beside its folder, its figure.
""".strip()


class Analyses(TyperGroup):
    """One command for each file of `analyses`; none of them is imported to list them."""

    def list_commands(self, ctx: Any) -> list[str]:
        return names()

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in names():
            from interp.registry import unknown

            raise LookupError(unknown("analysis", cmd_name, names()))
        return Asking(cmd_name, help=first_line(cmd_name), rich_markup_mode=None)


class Asking(TyperCommand):
    """An analysis as a command: an option takes all words up to the next, as the shell's globs give them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if "--help" in args:
            own = _with_options(str(self.name))
            self.params, self.help, self.epilog = own.params, own.help, own.epilog
            return super().parse_args(ctx, ["--help"])
        ctx.args = args
        return args

    def invoke(self, ctx: Any) -> None:
        asked(str(self.name), words_of(ctx.args))


def names() -> list[str]:
    """Analyses by the names of their files."""
    return [one.name for one in pkgutil.iter_modules([str(_folder())]) if one.name[0] != "_"]


def first_line(name: str) -> str:
    """The first sentence of an analysis' docstring, read without running its file."""
    file = _folder() / f"{name}.py"
    file = file if file.is_file() else _folder() / name / "__init__.py"
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == name:
            return " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
    return ""


def _folder() -> Path:
    found = find_spec("analyses")
    if found is None or not found.submodule_search_locations:
        raise ImportError("the package analyses is not installed beside interp.")
    return Path(found.submodule_search_locations[0])


def _settings(name: str) -> dict[str, inspect.Parameter]:
    from analyses import ANALYSES

    parameters = inspect.signature(ANALYSES[name]).parameters
    return {one.name: one for one in parameters.values() if one.kind is one.KEYWORD_ONLY}


def _with_options(name: str) -> Any:
    """The command of an analysis as its help shows it."""
    from analyses import ANALYSES

    text = inspect.getdoc(ANALYSES[name]) or ""
    settings = _settings(name)
    options = {
        flag(key): (kind, about) for key, (kind, about) in COMMON.items() if key not in settings
    }
    for key, one in settings.items():
        said = [_sentence(text, key), f"[default: {_default(one.default)}]"]
        options[flag(key)] = (metavar(one.annotation), "  ".join(filter(None, said)))
    options["--json"] = ("", JSON_HELP)
    given = [_option(name, told) for name, told in options.items()]

    def function(**_: Any) -> None: ...

    vars(function)["__signature__"] = inspect.Signature(given)
    function.__annotations__ = {one.name: one.annotation for one in given}
    alone = typer.Typer(rich_markup_mode=None, add_completion=False)
    alone.command(name, help=text, epilog=EPILOG)(function)
    return get_command(alone)


def _option(name: str, told: tuple[str, str]) -> inspect.Parameter:
    kind, about = told
    if kind:
        declared = typer.Option(name, metavar=kind, help=about, show_default=False)
        annotation: Any = Annotated[str | None, declared]
    else:
        annotation = Annotated[bool | None, typer.Option(name, help=about, show_default=False)]
    own = name[2:].replace("-", "_")
    return inspect.Parameter(
        own, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _default(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _sentence(text: str, name: str) -> str:
    """What a docstring says of a setting: what begins with its name, else a short part that names it."""
    parts = [part.rstrip(";:.") for part in re.split(r"(?<=[.;:])\s+", " ".join(text.split()))]
    for part in parts:
        if part.startswith(f"`{name}` "):
            return part.removeprefix(f"`{name}` ")
    named = [part for part in parts if re.search(rf"`{name}(=[^`]*)?`", part)]
    return next((part for part in named if len(part) <= SHORT), "")


def asked(name: str, words: dict[str, list[str]]) -> None:
    """Carry out what a line asks, save it and tell it."""
    json_asked = _switch(words, "json")
    with quiet(json_asked):
        from analyses import ANALYSES

        result = _result(name, ANALYSES[name], words)
        folder = result.save(Path(_values(words, "out")[0] if "out" in words else f"runs/{name}"))
        figure = _drawn(result, folder)
    if json_asked:
        document(told_whole(result) | {"saved": str(folder), "figure": str(figure or "") or None})
        return
    say(f"{result}\n{shown(result.table)}")
    for sentence in result.notes:
        say(f"* {sentence}")
    say(f"Saved in {folder}{f', its figure in {figure}' if figure else ''}")


def told_whole(result: Any) -> dict[str, Any]:
    """A result as one JSON document."""
    return {
        "analysis": result.analysis,
        "table": records(result.table),
        "tables": {name: records(table) for name, table in result.tables.items()},
        "notes": result.notes,
        "made": result.made,
    }


def _switch(words: dict[str, list[str]], name: str) -> bool:
    given = words.pop(name, None)
    if given:
        raise ValueError(f"--{name} takes no value, not {' '.join(given)!r}.")
    return given is not None


def _result(name: str, analysis: Any, words: dict[str, list[str]]) -> Any:
    """The analysis, asked of the model and the tasks that the words name."""
    settings = _settings(name)
    common = {key: _values(words, key) for key in COMMON if key not in settings and key in words}
    mine = {key: words[key] for key in settings if key in words}
    rest = {key: words[key] for key in words if key not in mine and key not in common}
    rest = {key.removeprefix("task_"): free(value) for key, value in rest.items()}
    _check_rest(name, common.get("task", []), rest, list(settings))
    own = {key: typed(key, value, settings[key].annotation) for key, value in mine.items()}
    model = _model(name, analysis, common)
    tasks = _tasks(common, rest) or _likely(name, analysis, model)
    task = next(iter(tasks.values())) if len(tasks) == 1 else tasks or None
    where = {"on": common["on"][0]} if "on" in common else {}
    return analysis(model, task, **where, **_opened(own, settings, rest))


def _values(words: dict[str, list[str]], name: str) -> list[str]:
    given = words[name]
    if not given or (name != "task" and len(given) > 1):
        raise ValueError(f"--{name} takes {'one value' if given else 'a value'}, not {given}.")
    return given


def _tasks(common: dict[str, list[str]], rest: dict[str, Any]) -> dict[str, Any]:
    import interp

    more = {"images": common["images"][0]} if "images" in common else {}
    return {one: interp.Task.load(one, **rest, **more) for one in common.get("task", [])}


def _likely(name: str, analysis: Any, model: Any) -> dict[str, Any]:
    """Where no task is named and one is needed: one that suits, and a note that says which."""
    if inspect.signature(analysis).parameters["task"].default is not inspect.Parameter.empty:
        return {}
    from app.suited import COUNT, COUNTS, likely_tasks, records

    found = likely_tasks(name, model.kind)
    count = COUNTS.get(name, COUNT)
    if found:
        note(f"No --task was given: {name} is asked of {count} records of {' and '.join(found)}.")
    return {one: records(one, count) for one in found}


def _model(name: str, analysis: Any, common: dict[str, list[str]]) -> Any:
    if "model" not in common:
        if inspect.signature(analysis).parameters["model"].default is inspect.Parameter.empty:
            raise ValueError(
                "--model is missing: a shipped name such as demo-lm, a folder or a hub id."
            )
        return None
    where: dict[str, Any] = {
        key: common[key][0] for key in ("backend", "fault", "dtype", "device") if key in common
    }
    return loaded(common["model"][0], **where)


def _opened(own: dict[str, Any], settings: dict[str, Any], rest: dict[str, Any]) -> dict[str, Any]:
    """Settings that are a model or a task are named on a line, and opened here."""
    import interp

    for key, value in own.items():
        kinds = kinds_of(settings[key].annotation)
        if isinstance(value, str) and "Model" in kinds:
            own[key] = loaded(value)
        elif isinstance(value, str) and "Task" in kinds:
            split = {} if Path(value).suffix else {"split": "validation"}
            own[key] = interp.Task.load(value, **(rest | split))
    return own


def _check_rest(name: str, tasks: list[str], rest: dict[str, Any], settings: list[str]) -> None:
    """Refuse an option that neither the analysis nor its task knows, before anything is loaded."""
    from interp.registry import unknown

    known = [flag(key) for key in [*COMMON, *settings]]
    own = [flag(key) for task in tasks for key in _task_settings(task)]
    of = f"{name} with the task {' '.join(tasks)}" if tasks else f"{name}, which is given no task,"
    for key in rest:
        if flag(key) not in own:
            known = list(dict.fromkeys([*known, *own]))
            raise LookupError(f"{of} has {unknown('option', flag(key), known)}")


def _task_settings(source: str) -> list[str]:
    from interp.records import read
    from interp.tasks import TASKS

    if Path(source).is_file() or Path(source).suffix in (".jsonl", ".json"):
        return list(inspect.signature(read).parameters)[1:]
    return ["count", "split", "seed", *list(inspect.signature(TASKS[source].draw).parameters)[1:]]


def _drawn(result: Any, folder: Path) -> Path | None:
    """The figure beside the result's folder, where there is one: the same bytes for the same result."""
    from interp import placing, plots

    if result.analysis not in plots.RESULTS:
        return None
    path = folder.with_name(f"{folder.name}.html")
    placing.write(path, result.figure().to_html(div_id=result.analysis).encode())
    return path
