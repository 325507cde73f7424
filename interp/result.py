"""What an analysis found: a tidy table, with how it was made inside."""

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from interp import placing
from interp.manifest import (
    FORMAT,
    MANIFEST,
    TENSORS,
    plain_name,
    read_manifest,
    read_table,
    read_tensors,
    steady,
)
from interp.registry import unknown

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

SHOWN = 20  # rows in a notebook


@dataclass(eq=False)
class Result:
    """`table` is the answer; `tables` are finer ones by name, `tensors` what is no table.

    `made` says how: model and task with digests of their content, settings, versions, time.
    `notes` are sentences that whoever reads the table should know.
    """

    analysis: str
    table: "pandas.DataFrame"
    tables: dict[str, "pandas.DataFrame"] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        of = ", ".join(str(self.made[key]) for key in ("model", "task") if self.made.get(key))
        more = f"; {', '.join(self.tables)}" if self.tables else ""
        return f"Result({self.analysis}{f' of {of}' if of else ''}: {len(self.table)} rows{more})"

    def _repr_html_(self) -> str:
        """The first rows, numbers at three digits; no colours of its own, so that any page suits it."""
        notes = "".join(f"<li>{_plain(note)}</li>" for note in self.notes)
        shown = self.table.head(SHOWN).to_html(index=False, na_rep="", float_format=_digits)
        more = f" The first {SHOWN} of {len(self.table)} rows:" if len(self.table) > SHOWN else ""
        tables = f" More in .tables: {', '.join(self.tables)}." if self.tables else ""
        says = f"<p><b>{_plain(repr(self))}</b>{_plain(tables)}{more}</p>"
        return f"{says}<div style='overflow-x: auto'>{shown}</div><ul>{notes}</ul>"

    def _ipython_display_(self) -> None:
        """In a notebook the table and below it the figure, drawn by plotly's own renderer."""
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        from interp import plots

        display({"text/plain": repr(self), "text/html": self._repr_html_()}, raw=True)
        # In a terminal plotly would open a browser.
        if not hasattr(get_ipython(), "kernel") or self.analysis not in plots.RESULTS:
            return
        try:
            drawn = self.figure()
        except (
            LookupError,
            ImportError,
        ) as problem:  # nothing kept to draw, or nothing to draw with
            display({"text/plain": f"No figure: {problem.args[0]}"}, raw=True)
        else:
            display(drawn)

    def figure(self, dark: bool = False, width: int | None = None, **settings: Any) -> "Figure":
        """The picture of it: `interp.plots.<analysis>(result)`; for a dark page, or a column of a width."""
        from interp import plots

        if self.analysis not in plots.RESULTS:
            raise LookupError(unknown("figure of", self.analysis, list(plots.RESULTS)))
        draw = getattr(plots, self.analysis)
        if width is not None and "width" in inspect.signature(draw).parameters:
            settings["width"] = width  # what holds text lays it out anew
        figure = draw(self, **settings)
        figure = figure if width is None else plots.fit(figure, width)
        return plots.dark(figure) if dark else figure

    def save(self, path: str | Path) -> Path:
        """Write a folder: parquet, safetensors and a JSON manifest; whole, or not at all.

        An older result there is replaced in one step. A table's index is not kept.
        """
        from safetensors.torch import save_file

        path = Path(path).expanduser().resolve()
        tables = self._named_tables()
        _check_place(path)
        manifest = {"format": FORMAT, "analysis": self.analysis, "tables": list(self.tables)}
        manifest |= {"notes": json_value(self.notes), "made": json_value(self.made)}
        with placing.placed(path) as folder:
            for name, table in tables.items():
                table.to_parquet(folder / f"{name}.parquet", index=False)
            if self.tensors:
                # Copies: tensors that share memory are one to safetensors, and refused.
                content = {
                    name: value.detach().cpu().contiguous().clone()
                    for name, value in self.tensors.items()
                }
                save_file(content, folder / TENSORS)
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False))
        return path

    def _named_tables(self) -> dict[str, "pandas.DataFrame"]:
        """Tables by the name of their file; a name that would be another file is refused."""
        for name in self.tables:
            if name == "table" or not plain_name(name):
                raise ValueError(
                    f"a table cannot be saved as {name!r}: names are plain words, and 'table' is taken."
                )
        return {"table": self.table, **self.tables}

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """A saved result; no model is needed to look at it."""
        path = Path(path).expanduser()
        if not _holds_result(path):
            raise FileNotFoundError(f"{str(path)!r} holds no {MANIFEST}, so it is no saved result.")
        try:
            return steady(path, _read)
        except ValueError as problem:
            raise ValueError(f"{str(path)!r} cannot be opened: {problem}.") from None


def _read(path: Path) -> Result:
    manifest = read_manifest(path)
    tables = {name: read_table(path, name) for name in ("table", *manifest["tables"])}
    main = tables.pop("table")
    told = (manifest["notes"], manifest["made"])
    return Result(manifest["analysis"], main, tables, read_tensors(path), *told)


def _check_place(path: Path) -> None:
    """Refuse to put a result where something else would go with what is replaced."""
    if path.is_file() or (path.exists() and not _holds_result(path) and any(path.iterdir())):
        raise FileExistsError(f"{str(path)!r} is there and is no result; save to another place.")
    if path.exists() and _holds_result(path):
        own = {MANIFEST, TENSORS, "table.parquet"}
        try:
            own |= {f"{name}.parquet" for name in read_manifest(path)["tables"]}
        except ValueError as problem:
            raise ValueError(
                f"the result in {str(path)!r} would be replaced, and what it is cannot be told: {problem}; "
                "save to another place, or remove it."
            ) from None
        foreign = sorted({file.name for file in path.iterdir()} - own)
        if foreign:
            raise FileExistsError(
                f"the result in {str(path)!r} would be replaced, and {', '.join(foreign)} with it; save to "
                "another place, or move that."
            )


def _holds_result(path: Path) -> bool:
    return (path / MANIFEST).is_file()


def _digits(value: float) -> str:
    """Three digits, and all of those before the point."""
    return f"{value:.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def _plain(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def json_value(value: Any) -> Any:
    """A setting as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(key): json_value(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [json_value(part) for part in value]
    if isinstance(value, Tensor) or hasattr(value, "tolist"):
        return json_value(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if value != value else str(value)
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
