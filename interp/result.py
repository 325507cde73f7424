"""What an analysis found: a tidy table, with how it was made inside."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import pandas
    from plotly.graph_objects import Figure

MANIFEST, TENSORS = "manifest.json", "tensors.safetensors"
FORMAT = 1


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
        notes = "".join(f"<li>{_plain(note)}</li>" for note in self.notes)
        return f"<p><b>{_plain(repr(self))}</b></p><ul>{notes}</ul>{self.table.head(20).to_html()}"

    def figure(self, **settings: Any) -> "Figure":
        """The picture of it: `interp.plots.<analysis>(result)`."""
        from interp import plots

        return getattr(plots, self.analysis)(self, **settings)

    def save(self, path: str | Path) -> Path:
        """Write a folder: parquet, safetensors and a JSON manifest; whole, or not at all."""
        from safetensors.torch import save_file

        path = Path(path)
        if (
            path.exists()
            and not (path / MANIFEST).is_file()
            and (path.is_file() or any(path.iterdir()))
        ):
            raise FileExistsError(
                f"{str(path)!r} is there and is no result; save to another place."
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        written = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
        try:
            for name, table in {"table": self.table, **self.tables}.items():
                table.to_parquet(written / f"{name}.parquet", index=False)
            if self.tensors:
                content = {
                    name: value.detach().cpu().contiguous() for name, value in self.tensors.items()
                }
                save_file(content, written / TENSORS)
            manifest = {"format": FORMAT, "analysis": self.analysis, "tables": list(self.tables)}
            manifest |= {"notes": self.notes, "made": self.made}
            (written / MANIFEST).write_text(json.dumps(manifest, indent=1, allow_nan=False))
            _put(written, path)
        finally:
            shutil.rmtree(written, ignore_errors=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Result":
        """A saved result; no model is needed to look at it."""
        import pandas
        from safetensors.torch import load_file

        path = Path(path)
        if not (path / MANIFEST).is_file():
            raise FileNotFoundError(f"{str(path)!r} holds no {MANIFEST}, so it is no saved result.")
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest.get("format") != FORMAT:
            raise ValueError(
                f"{str(path)!r} has format {manifest.get('format')!r}; this version reads {FORMAT}."
            )
        tables = {
            name: pandas.read_parquet(path / f"{name}.parquet")
            for name in ["table", *manifest["tables"]]
        }
        tensors = load_file(path / TENSORS) if (path / TENSORS).is_file() else {}
        return cls(
            manifest["analysis"],
            tables.pop("table"),
            tables,
            tensors,
            manifest["notes"],
            manifest["made"],
        )


def _put(written: Path, path: Path) -> None:
    """Rename into place; an older result steps aside first, and goes only then."""
    if not path.exists():
        written.rename(path)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{path.name}-old-", dir=path.parent))
    path.rename(old / "result")
    written.rename(path)
    shutil.rmtree(old)


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
    if isinstance(value, float) and value != value:
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
