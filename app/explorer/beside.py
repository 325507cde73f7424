"""A figure with what belongs beside it: the lines of Python that make it, and its numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import streamlit as st

from app.explorer.said import notes
from app.explorer.shelf import Run
from app.explorer.width import room as room

if TYPE_CHECKING:
    from pandas import DataFrame
    from plotly.graph_objects import Figure

    from interp.result import Result

NARROWEST = 300  # pixels
ROWS = 1000  # of a table that travel to the browser; the download has all


def dark() -> bool:
    """Whether this browser shows pages dark."""
    return st.context.theme.type == "dark"


def show(figure: "Figure", name: str, share: float = 1.0, **more: Any) -> Any:
    """As wide as the page, or a share of it; the camera in its corner saves a PNG."""
    from interp.plots import dark as darkened
    from interp.plots import fit

    picture = {"format": "png", "filename": name, "scale": 2}
    config = {"displaylogo": False, "toImageButtonOptions": picture}
    figure = fit(figure, max(NARROWEST, int(share * room())))
    figure = darkened(figure) if dark() else figure
    return st.plotly_chart(figure, theme=None, config=config, key=f"figure {name}", **more)


def code(*lines: str) -> None:
    """What to paste into a notebook."""
    with opened_box("The same in Python", ":material/code:", f"code {lines[-1:]}") as open_:
        if open_:
            st.code("\n".join(lines), language="python")


def loading(run: Run, **settings: Any) -> list[str]:
    """A saved result in a notebook."""
    given = ", ".join(f"{name}={value!r}" for name, value in settings.items() if value is not None)
    return [
        "import interp",
        f"result = interp.Result.load({str(run.path)!r})",
        f"result.figure({given})",
    ]


def table(frame: "DataFrame", name: str) -> None:
    """The numbers, and all of them as CSV."""
    st.dataframe(frame.head(ROWS), hide_index=True)
    if len(frame) > ROWS:
        st.caption(f"The first {ROWS} of {len(frame)} rows.")
    st.download_button(
        "CSV",
        lambda: frame.to_csv(index=False).encode(),
        file_name=f"{name}.csv",
        mime="text/csv",
        icon=":material/download:",
        key=f"csv {name}",
    )


def tables(result: "Result", name: str) -> None:
    """Every table of a result, the answer first."""
    label = f"The numbers ({1 + len(result.tables)})"
    with opened_box(label, ":material/table:", f"numbers {name}") as open_:
        if not open_:
            return
        names = ["table", *result.tables]
        which = names[0]
        if len(names) > 1:
            which = st.segmented_control(
                "table",
                names,
                default="table",
                key=f"table of {name}",
                label_visibility="collapsed",
            )
        frame = result.table if which in (None, "table") else result.tables[which]
        table(frame, f"{name}-{which or 'table'}")


def made(result: "Result", name: str) -> None:
    """How it was made."""
    with opened_box("How it was made", ":material/receipt_long:", f"made {name}") as open_:
        if open_:
            st.json(result.made, expanded=1)


@contextmanager
def opened_box(label: str, icon: str, key: str) -> Iterator[bool]:
    """An expander whose content travels once it is open: a page's first figure does not wait for it."""
    expander = st.expander(label, icon=icon, key=key, on_change="rerun")
    with expander:
        yield bool(expander.open)


def around(result: "Result", name: str) -> None:
    """What stands below every figure of a result."""
    notes(result.notes)
    tables(result, name)
    made(result, name)
