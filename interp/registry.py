"""A table of named things: one folder holds the files, each file adds its own entries."""

import difflib
import importlib
import pkgutil
import threading
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Generic, TypeVar

Entry = TypeVar("Entry")


def unknown(noun: str, name: object, known: list[str], plural: str | None = None) -> str:
    """The sentence that answers an unknown name: what was given, the nearest, the list."""
    near = difflib.get_close_matches(str(name), known, n=1)
    guess = f" Did you mean {near[0]!r}?" if near else ""
    return f"no {noun} {name!r}.{guess} {plural or 'There are'}: {', '.join(known)}."


class Registry(Mapping[str, Entry], Generic[Entry]):
    """Name -> entry; a name used twice is an error, an unknown name offers the nearest."""

    def __init__(self, noun: str, folder: ModuleType | str | None = None):
        self.noun = noun
        self._folder = folder
        self._entries: dict[str, Entry] = {}
        self._reading = threading.RLock()  # files add themselves while another thread may ask

    def add(self, name: str, entry: Entry) -> Entry:
        if name in self._entries:
            raise ValueError(f"two entries are called {self.noun} {name!r}.")
        self._entries[name] = entry
        return entry

    def _read_folder(self) -> None:
        """Import every file of the folder once, on first use, so that each can add itself."""
        with self._reading:
            if self._folder is None:
                return
            folder, self._folder = self._folder, None
            package = importlib.import_module(folder) if isinstance(folder, str) else folder
            files = pkgutil.iter_modules(package.__path__)
            for file in sorted(files, key=lambda found: found.name):
                if not file.name.startswith("_"):
                    importlib.import_module(f"{package.__name__}.{file.name}")

    def __repr__(self) -> str:
        return f"{self.noun}: {', '.join(self)}"

    def __getitem__(self, name: str) -> Entry:
        self._read_folder()
        try:
            return self._entries[name]
        except KeyError:
            raise LookupError(unknown(self.noun, name, list(self))) from None

    def __contains__(self, name: object) -> bool:
        self._read_folder()
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        self._read_folder()
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        self._read_folder()
        return len(self._entries)
