"""`python -m docs.readme`: write the README's tables from the registries."""

import inspect
import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "README.md"


def tables() -> dict[str, str]:
    from interp.metrics import METRICS
    from interp.sites import SITES

    sites = ["| site | axes | what it is |", "|---|---|---|"]
    sites += [f"| `{name}` | {' '.join(axes)} | {_meaning(name)} |" for name, axes in SITES.items()]
    metrics = ["| metric | site | per | what it is |", "|---|---|---|---|"]
    for name, metric in METRICS.items():
        first = (metric.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        meaning = " ".join(first.split()).replace("|", "\\|")
        metrics.append(f"| `{name}` | {metric.site} | {metric.per} | {meaning} |")
    return {
        "sites": "\n".join(sites),
        "metrics": "\n".join(metrics),
        "analyses": "\n".join(_analyses()),
        "tasks": "\n".join(_tasks()),
        "faults": "\n".join(_faults()),
        "interventions": "\n".join(_interventions()),
    }


def _analyses() -> list[str]:
    """Each analysis with what it asks and its settings."""
    from analyses import ANALYSES

    rows = ["| analysis | what it asks | settings |", "|---|---|---|"]
    for name, function in ANALYSES.items():
        parameters = inspect.signature(function).parameters.values()
        settings = [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]
        given = " ".join(f"`{setting}`" for setting in settings)
        first = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        rows.append(f"| `{name}` | {first} | {given} |")
    return rows


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
    for name, kind in INTERVENTIONS.items():
        first = " ".join((kind.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {kind.of} | {first} | {kind.paper} |")
    return rows


def _meaning(site: str) -> str:
    """The last column of the table in the docstring of interp.sites."""
    import interp.sites

    rows = [row.split("|") for row in (interp.sites.__doc__ or "").splitlines()]
    return next(row[3].strip() for row in rows if len(row) > 3 and row[1].strip() == site)


def filled(text: str) -> str:
    from interp.families import FAMILIES

    text = re.sub(r"\[\d+ families\]", f"[{len(FAMILIES)} families]", text)
    for name, table in tables().items():
        pattern = rf"(<!-- {name} -->\n).*?(\n<!-- /{name} -->)"
        text, found = re.subn(
            pattern, lambda match, t=table: match[1] + t + match[2], text, flags=re.DOTALL
        )
        if (
            found != 1
        ):  # two markers with nothing between them, not even an empty line, are no place
            raise ValueError(f"the README has {found} places for the table {name!r}, not one.")
    return text


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
