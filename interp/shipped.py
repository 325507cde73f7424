"""The models that come along, and results on them: found by name, with no network.

They lie in `data/models` and `data/runs` of a checkout, and in `interp/shipped_models` and
`interp/shipped_runs` of an installed wheel.
"""

from pathlib import Path

from interp.registry import unknown

HERE = Path(__file__).parent
PREFIX = "demo-"  # a name that starts so means one of ours, and is not looked for on the hub


def folder() -> Path:
    """The folder that holds a folder for each shipped model."""
    installed = HERE / "shipped_models"
    return installed if installed.is_dir() else HERE.parent / "data" / "models"


def runs() -> Path:
    """The folder of results that come along, one for each analysis at least."""
    installed = HERE / "shipped_runs"
    return installed if installed.is_dir() else HERE.parent / "data" / "runs"


def names() -> list[str]:
    """The names that `interp.load` knows by itself."""
    return sorted(found.parent.name for found in folder().glob("*/config.json"))


def called(path: str) -> str:
    """The name of a shipped model that was opened from this path; any other path as it is."""
    return Path(path).name if Path(path).parent == folder() else path


def find(name: str | Path) -> Path | None:
    """The folder of the shipped model that a name means; None where it means something else.

    A path with a slash is never a shipped name, and a model in a folder of that name right here
    goes before the shipped one, as it goes before the hub's: `interp.load("./demo-lm")` says so.
    """
    if not isinstance(name, str) or "/" in name or "\\" in name:
        return None
    own = folder() / name
    local = Path(name)
    if (local / "config.json").exists() and not (own.exists() and local.samefile(own)):
        return None
    if name in names():
        return own
    if name.startswith(PREFIX):
        raise LookupError(unknown("shipped model", name, names()))
    return None
