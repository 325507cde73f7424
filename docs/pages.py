"""`python -m docs.pages`: what the pages of analyses have from the code: questions, settings, defaults.

What a setting means is written by hand on the page and kept; a setting without a meaning is refused.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from analyses import ANALYSES
from docs.readme import opening, put

INDEX = Path(__file__).with_name("analyses.md")
FOLDER = Path(__file__).with_name("analyses")
ROW = re.compile(r"^\| `(\w+)` \| `?[^|]*`? \| (.+) \|$", re.MULTILINE)


def page_of(name: str) -> Path:
    return FOLDER / f"{name}.md"


def settings(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """What is given by name."""
    parameters = inspect.signature(function).parameters.values()
    return [one for one in parameters if one.kind is one.KEYWORD_ONLY]


def inside(text: str, mark: str) -> str:
    """What stands between the two comments of this name."""
    found = re.findall(rf"<!-- {mark} -->\n(.*?)\n?<!-- /{mark} -->", text, flags=re.DOTALL)
    if len(found) != 1:
        raise ValueError(f"the page has {len(found)} places for {mark!r}, not one.")
    return found[0]


def filled(name: str, text: str) -> str:
    """An analysis' page with its question and its settings as the code has them now."""
    function = ANALYSES[name]
    text = put(text, "asks", opening(function))
    meanings: dict[str, str] = dict(ROW.findall(inside(text, "settings")))
    rows = ["| setting | default | what it is |", "|---|---|---|"]
    for one in settings(function):
        if not meanings.get(one.name, "").strip():
            raise ValueError(
                f"{name} has a setting {one.name!r} that its page does not explain: add the row "
                f"'| `{one.name}` | | what it is |' between the settings comments of {page_of(name).name}."
            )
        rows.append(f"| `{one.name}` | `{shown(one.default)}` | {meanings[one.name]} |")
    return put(text, "settings", "\n".join(rows))


def shown(default: Any) -> str:
    """A default as a reader would type it."""
    if isinstance(default, float) and abs(default) >= 1e6:
        return f"{default:g}".replace("e+0", "e")
    return repr(default)


def index(text: str) -> str:
    """The list of all analyses, each with its page."""
    rows = ["| analysis | what it asks |", "|---|---|"]
    rows += [f"| [{name}](analyses/{name}.md) | {opening(ANALYSES[name])} |" for name in ANALYSES]
    return put(text, "analyses", "\n".join(rows))


def main() -> None:
    INDEX.write_text(index(INDEX.read_text(encoding="utf-8")), encoding="utf-8")
    for name in ANALYSES:
        page = page_of(name)
        page.write_text(filled(name, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
