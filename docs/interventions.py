"""`python -m docs.interventions`: judge the interventions on the shipped models, and write the page's tables.

About half an hour on one core; `python -m docs.interventions existence "long contexts"` does some studies.
Each result is kept in the folder given by --runs, and the tables are made of those that are there.
"""

import argparse
from pathlib import Path
from typing import Any

import torch

from docs.readme import put, tables
from docs.studies import STUDIES
from interp import Result
from interp.interventions import INTERVENTIONS

PAGE = Path(__file__).parent / "interventions.md"


def shown(name: str, result: Result) -> str:
    """A study as a heading, what was asked, a table, and what was chosen."""
    study, table = STUDIES[name], result.table
    lines = [f"### {name}", "", f"{study.about} {_asked(name)}", ""]
    mended = "recovered" in table
    head = [
        "",
        *(["split"] if table["task"].nunique() > 1 else []),
        "value",
        "against plain",
        "95 %",
    ]
    head += ["mended", "95 %"] if mended else []
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for row in table.to_dict("records"):
        lines.append(_row(row, table["task"].nunique() > 1, mended))
    told = [
        f"{one}: `{said}`" for one, said in result.made["compared"].items() if one in INTERVENTIONS
    ]
    lines += ["", f"Chosen on validation: {'; '.join(told)}.", ""]
    return "\n".join(lines)


def _asked(name: str) -> str:
    study = STUDIES[name]
    what = f"{study.model}{f' with the fault `{study.fault}`' if study.fault else ''}"
    return f"*{what}, task `{study.task}`, {study.count} records a split.*"


def _row(row: dict[str, Any], splits: bool, mended: bool) -> str:
    cells = [row["name"] if row["kind"] != "control" else f"*{row['name']}*"]
    cells += [row["task"]] if splits else []
    cells.append(f"{row['value']:.3f}")
    if row["kind"] == "plain":
        cells += ["", ""]
    else:
        mark = "**" if row["diff_low"] > 0 or row["diff_high"] < 0 else ""
        cells.append(f"{mark}{row['difference']:+.3f}{mark}")
        cells.append(f"{row['diff_low']:+.3f} to {row['diff_high']:+.3f}")
    if mended:
        known = row["kind"] not in ("plain", "whole") and row["recovered"] == row["recovered"]
        cells.append(f"{row['recovered']:.0%}" if known else "")
        cells.append(f"{row['recovered_low']:.0%} to {row['recovered_high']:.0%}" if known else "")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("studies", nargs="*", metavar="STUDY", help=", ".join(STUDIES))
    parser.add_argument("--runs", type=Path, default=Path("runs/studies"))
    parser.add_argument("--count", type=int, help="records a split, to try it out")
    parser.add_argument("--page", action="store_true", help="only write the page, of what is there")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in [] if given.page else given.studies or STUDIES:
        result = STUDIES[name].run(given.count, given.count)
        result.save(given.runs / name.replace(" ", "-"))
        print(f"{shown(name, result)}", flush=True)
        for note in result.notes:
            print(f"* {note}", flush=True)
    parts = [
        shown(name, Result.load(folder))
        for name in STUDIES
        if (folder := given.runs / name.replace(" ", "-")).exists()
    ]
    if given.count is None:
        text = put(PAGE.read_text(encoding="utf-8"), "methods", tables()["interventions"])
        PAGE.write_text(put(text, "effects", "\n".join(parts)), encoding="utf-8")


if __name__ == "__main__":
    main()
