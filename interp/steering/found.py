"""What is looked for once and used often: heads, sink dimensions, rates; JSON that knows its model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.making import weights_digest
from interp.result import json_value

if TYPE_CHECKING:
    from interp.model import Model

FORMAT = 1
KINDS = ("heads", "sink dims", "rates")


@dataclass(frozen=True)
class Found:
    """`value` holds for one model alone: JSON values such as [[layer, head], ...] or [channel, ...].

        found = find_heads(...); found.save("heads.json"); PASTA(heads=Found.load("heads.json"))

    `how` says by what search, on which task, with what scores.
    """

    kind: str
    value: Any
    model: str
    weights: str  # digest of the model's weights
    how: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)

    @classmethod
    def on(cls, model: "Model", kind: str, value: Any, **how: Any) -> "Found":
        """A finding made on this model, with the digest of its weights."""
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: one of {', '.join(KINDS)}.")
        return cls(
            kind, json_value(value), model.name, weights_digest(model.plain), json_value(how)
        )

    def save(self, path: str | Path) -> Path:
        """Written to a temporary name and renamed: a killed run leaves no half of a file."""
        path = Path(path)
        if path.suffix != ".json":
            raise ValueError(f"saved as JSON: {str(path.with_suffix('.json'))!r}?")
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        row = {"format": FORMAT, "kind": self.kind, "model": self.model, "weights": self.weights}
        row |= {"value": self.value, "how": dict(self.how)}
        part.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
        part.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Found":
        """A finding from its file; a damaged one is refused with the reason."""
        try:
            row = json.loads(Path(path).read_text(encoding="utf-8"))
        except json.JSONDecodeError as problem:
            raise ValueError(f"{path} is not JSON: {problem.msg}, line {problem.lineno}.") from None
        names = ("kind", "value", "model", "weights")
        if not isinstance(row, dict) or any(name not in row for name in names):
            raise ValueError(f"{path} holds no finding: it wants {', '.join(names)}.")
        if row.get("format") != FORMAT:
            raise ValueError(
                f"{path} is of format {row.get('format')!r}; this version reads {FORMAT}."
            )
        return cls(row["kind"], row["value"], row["model"], row["weights"], row.get("how", {}))

    def check(self, model: "Model", kind: str, who: str) -> Any:
        """The value, if it is of this kind and of this model."""
        if self.kind != kind:
            raise ValueError(f"{who} wants {kind}, and this holds {self.kind}.")
        own = weights_digest(model.plain)
        if self.weights != own:
            raise ValueError(
                f"these {self.kind} were found on {self.model} ({self.weights}) and this is {model.name} "
                f"({own}; another dtype counts as another model): search again on it, or give the numbers "
                "themselves (.value) if you mean it."
            )
        return self.value


def taken(model: "Model", given: Any, kind: str, who: str) -> Any:
    """A setting that may be a finding, the file of one, or plain numbers (given back as they are)."""
    if isinstance(given, (str, Path)) and str(given).endswith(".json"):
        if not Path(given).is_file():
            raise FileNotFoundError(f"{who}: there is no file {str(given)!r} to read {kind} from.")
        given = Found.load(given)
    return given.check(model, kind, who) if isinstance(given, Found) else given
