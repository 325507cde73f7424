"""Runs: all saved results of the folders that are open; one of them whole, or two beside each other."""

from typing import TYPE_CHECKING, Any

import streamlit as st

from app.explorer import beside, compared, results, shelf, state
from app.explorer.said import hint, kept_up, problem
from app.pages import PAGES, Page, page_of
from interp import runs as index

if TYPE_CHECKING:
    from interp.result import Result

HALF = 900  # pixels: wider figures of two runs stand below each other
SAID = 5  # broken runs that are told one by one
NONE = "nothing"
SAYS = "All saved results in the folders that the explorer was started with, and those that come along."
SMALLEST = 5e-4  # differences that three digits still show


def draw() -> None:
    st.caption(SAYS)
    found = shelf.runs()
    if not found:
        hint(
            "No saved result is here. Save one, result.save('runs/mine'), and open the explorer on runs."
        )
        return
    _list(found)
    names = [run.name for run in found]
    row = st.container(horizontal=True, vertical_alignment="bottom")
    labels = {
        run.name: f"{run.name}  ({results.label(run) if run.analysis else 'broken'})"
        for run in found
    }
    whole = next((run.name for run in found if not run.broken), names[0])
    name = state.choose("run", "Open", names, whole, show=labels.__getitem__, where=row)
    state.put(run=name)
    labels[NONE] = NONE
    other = state.choose(
        "runs.with", "Compare with", [NONE, *(one for one in names if one != name)],
        show=labels.__getitem__, where=row,
    )  # fmt: skip
    with kept_up():
        if other == NONE:
            _one(shelf.named(name))
        else:
            _two(shelf.named(name), shelf.named(other))


def _list(found: list[shelf.Run]) -> None:
    """What there is, and what of it cannot be opened."""
    import pandas

    rows = [
        {"run": run.name, "analysis": run.analysis or None, "model": run.model or None,
         "task": run.task or None, "records": run.records, "made": run.at or None,
         "seconds": run.made.get("seconds"), "kB": run.size / 1000, "problem": run.broken or None}
        for run in found
    ]  # fmt: skip
    table = pandas.DataFrame(rows)
    table["made"] = pandas.to_datetime(table["made"], errors="coerce", utc=True)
    broken = sum(1 for run in found if run.broken)
    table = table if broken else table.drop(columns="problem")
    number = st.column_config.NumberColumn
    st.dataframe(
        table,
        hide_index=True,
        height=min(330, 36 * (len(table) + 1)),
        column_config={
            "made": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", timezone="UTC"),
            "seconds": number(format="%.3g"),
            "kB": number(format="%.0f"),
            "run": st.column_config.TextColumn(pinned=True),
        },
    )
    for run in [run for run in found if run.broken][:SAID]:
        problem(f"{run.name} cannot be opened: {run.broken}")
    if broken > SAID:
        problem(f"{broken - SAID} more cannot be opened: the column problem says why.")


def _one(run: shelf.Run) -> None:
    result = shelf.load(run)
    row = st.container(horizontal=True, vertical_alignment="center")
    page = page_of(run.analysis)
    if page and row.button(f"Open on the page {PAGES[page].title}", icon=":material/open_in_new:"):
        state.put(run=run.name, **{"ask.from": None})
        st.switch_page(st.Page(PAGES[page].draw, url_path=page))
    row.download_button(
        "The whole run (zip)", lambda: shelf.zipped(run), file_name=f"{run.path.name}.zip",
        mime="application/zip", icon=":material/download:", key=f"zip {run.name}",
    )  # fmt: skip
    results.draw(result, row, {}, run)


def _two(one: shelf.Run, other: shelf.Run) -> None:
    """What differs in how they were made and in what was found, the figures, the same rows of both."""
    both = [shelf.load(one), shelf.load(other)]
    _differences(*both)
    figures: list[tuple[shelf.Run, Any]] = []
    for run, result in zip((one, other), both, strict=True):
        with results.drawable(run.name):
            figures.append((run, result.figure()))
    wide = any(figure.layout.width > HALF for _, figure in figures)
    places = [st.container(), st.container()] if wide else st.columns(2)
    for (run, figure), place in zip(figures, places, strict=False):
        with place:
            st.subheader(run.name, divider="gray")
            beside.show(figure, run.name.replace("/", "-"), share=1.0 if wide else 0.48)
    _numbers(*both)
    beside.code(
        "import interp; from interp.runs import differences",
        f"one, other = map(interp.Result.load, {[str(one.path), str(other.path)]!r})",
        "differences(one, other)",
    )


def _differences(one: "Result", other: "Result") -> None:
    """Settings, weights, versions; the tables' own differences follow."""
    table = index.differences(one, other)
    st.subheader("What differs")
    if not len(table):
        st.markdown("Nothing: made alike, and every number is the same.")
        return
    if index.same(table):
        st.markdown("Nothing but where they were made: every number is the same.")
    told = table.astype({"first": str, "second": str})
    st.dataframe(told, hide_index=True, height=min(260, 36 * (len(told) + 1)))


def _numbers(one: "Result", other: "Result") -> None:
    """The same rows of both, where there are such."""
    names = compared.shared_tables(one, other)
    st.subheader("The same rows in both")
    if not names:
        hint("No table of these two has the same rows: compare two runs of one analysis.")
        return
    row = st.container(horizontal=True, vertical_alignment="bottom")
    name = state.choose("runs.table", "Table", names, where=row, width=results.BOX)
    mine, theirs = (compared.tables(result)[name] for result in (one, other))
    known = compared.keys(mine, theirs)
    value = state.choose(
        "runs.value", "Value", compared.values(mine, theirs, known), where=row, width=results.BOX
    )
    rows = compared.side_by_side(mine, theirs, known, value)
    apart = sum(1 for one in rows[compared.APART] if abs(one) > SMALLEST)
    st.caption(
        f"{len(rows)} rows are in both (the first has {len(mine)}, the second {len(theirs)}); in {apart} of "
        f"them {value} differs by more than {SMALLEST:g}. The largest differences stand first."
    )
    beside.table(rows, f"{name}-{value}-compared")


PAGES.add("runs", Page("Runs", ":material/folder_open:", draw))
