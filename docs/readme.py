"""`python -m docs.readme`: write the tables of README.md and docs/reference.md from the registries."""

import inspect
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "README.md"
REFERENCE = Path(__file__).with_name("reference.md")
SHOWN = {
    PAGE: ("analyses", "interventions"),
    REFERENCE: ("sites", "metrics", "tasks", "faults"),
}


def tables() -> dict[str, str]:
    rows = {
        "sites": _sites(),
        "metrics": _metrics(),
        "analyses": _analyses(),
        "tasks": _tasks(),
        "faults": _faults(),
        "interventions": _interventions(),
    }
    return {name: "\n".join(lines) for name, lines in rows.items()}


def opening(thing: Any) -> str:
    """The first paragraph of a docstring as one line that a table can hold."""
    first = (inspect.getdoc(thing) or "").split("\n\n")[0]
    return " ".join(first.split()).replace("|", "\\|")


def _sites() -> list[str]:
    from interp.sites import SITES

    rows = ["| site | axes | what it is |", "|---|---|---|"]
    return rows + [f"| `{name}` | {' '.join(SITES[name])} | {_meaning(name)} |" for name in SITES]


def _meaning(site: str) -> str:
    """The last column of the table in the docstring of interp.sites."""
    import interp.sites

    rows = [row.split("|") for row in (interp.sites.__doc__ or "").splitlines()]
    return next(row[3].strip() for row in rows if len(row) > 3 and row[1].strip() == site)


def _metrics() -> list[str]:
    from interp.metrics import METRICS

    rows = ["| metric | site | per | what it is |", "|---|---|---|---|"]
    return rows + [
        f"| `{name}` | {metric.site} | {metric.per} | {opening(metric)} |"
        for name, metric in METRICS.items()
    ]


def _analyses() -> list[str]:
    """Each analysis with what it asks; its settings are on its page."""
    from analyses import ANALYSES

    rows = ["| analysis | what it asks |", "|---|---|"]
    return rows + [
        f"| [`{name}`](docs/analyses/{name}.md) | {opening(function)} |"
        for name, function in ANALYSES.items()
    ]


def _tasks() -> list[str]:
    """Each generator's settings, and the first record of its test split."""
    from interp.tasks import TASKS

    rows = ["| task | settings | for example |", "|---|---|---|"]
    for name, generator in TASKS.items():
        settings = list(inspect.signature(generator.draw).parameters)[1:]
        record = TASKS[name](1)[0]
        shown = record.prompt if len(record.prompt) < 110 else "… " + record.prompt[-105:].lstrip()
        answers = ",".join(record.answers[:2]) + (", …" if len(record.answers) > 2 else "")
        given = " ".join(f"`{setting}`" for setting in settings)
        rows.append(f"| `{name}` | {given} | {shown or 'an image'} **{answers.strip()}** |")
    return rows


def _faults() -> list[str]:
    from interp.faults import FAULTS

    rows = ["| fault | of | what goes wrong | meant for |", "|---|---|---|---|"]
    rows += [
        f"| `{name}` | {fault.model} | {fault.about} | {', '.join(fault.repairs)} |"
        for name, fault in FAULTS.items()
    ]
    return rows


def _interventions() -> list[str]:
    from interp.interventions import INTERVENTIONS

    rows = ["| intervention | acts on | what it does | from |", "|---|---|---|---|"]
    return rows + [
        f"| `{name}` | {kind.of} | {opening(kind)} | {kind.paper} |"
        for name, kind in INTERVENTIONS.items()
    ]


def put(text: str, mark: str, inside: str) -> str:
    """The text with `inside` between the two comments of this name, of which there is one pair."""
    pattern = rf"(<!-- {mark} -->\n).*?(\n<!-- /{mark} -->)"
    text, found = re.subn(
        pattern, lambda match: match[1] + inside + match[2], text, flags=re.DOTALL
    )
    if found != 1:  # two comments with nothing between them, not even an empty line, are no place
        raise ValueError(f"the page has {found} places for {mark!r}, not one.")
    return text


def filled(text: str, page: Path = PAGE) -> str:
    """A page's text with its tables, and how many there are of each, as the code has them now."""
    from analyses import ANALYSES
    from interp.families import FAMILIES
    from interp.interventions import INTERVENTIONS

    for noun, all_of in {
        "families": FAMILIES, "analyses": ANALYSES, "interventions": INTERVENTIONS
    }.items():  # fmt: skip
        text = re.sub(rf"\[\d+ {noun}\]", f"[{len(all_of)} {noun}]", text)
    known = tables()
    for name in SHOWN[page]:
        text = put(text, name, known[name])
    return text


if __name__ == "__main__":
    for place in SHOWN:
        place.write_text(filled(place.read_text(encoding="utf-8"), place), encoding="utf-8")
