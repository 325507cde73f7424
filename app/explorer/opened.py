"""What the explorer was started with: the folders it may read, the models it offers."""

import argparse
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MEGABYTES = 10  # of an uploaded file
MEGAPIXELS = 20  # of an image, before it is decoded
CHARACTERS = 40_000  # of a prompt that is typed in
TOKENS = 4096  # of a prompt
LINK = 1500  # characters of a prompt that travel in a link


@dataclass(frozen=True)
class Opened:
    """Folders by the name that links know them by, and models in the order they are offered."""

    folders: dict[str, Path]
    models: tuple[str, ...]


def arguments(folders: list[Path], models: list[str]) -> list[str]:
    """What `read` makes the same of."""
    named = [word for model in models for word in ("--model", model)]
    return [*(str(folder) for folder in folders), *named]


@cache
def opened() -> Opened:
    """Read once a process: Streamlit hands the script's own arguments on in sys.argv."""
    return read(sys.argv[1:])


def read(words: list[str]) -> Opened:
    from interp import shipped

    parser = argparse.ArgumentParser("explorer")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--model", action="append", default=[], dest="models")
    given = parser.parse_args(words)
    folders = {_named(folder): folder.expanduser().resolve() for folder in given.folders}
    own = [name for name in shipped.names() if name not in given.models]
    if shipped.runs().is_dir():
        folders.setdefault("shipped", shipped.runs())
    return Opened(folders, (*given.models, *own))


def _named(folder: Path) -> str:
    return folder.expanduser().resolve().name or "runs"
