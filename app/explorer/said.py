"""Words on a page: text is shown as text, whatever it holds."""

import html
import re
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

# What Markdown, or Streamlit's own additions to it, would read as something else.
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@/])")
MISTAKES = (ValueError, LookupError, TypeError, OSError, RuntimeError)  # of what was asked for


def as_text(text: str) -> str:
    """Markdown that shows the text as it is."""
    return _MARKS.sub(r"\\\1", text).replace("\n", "  \n")


def with_code(text: str) -> str:
    """The same, but what stands between backticks is shown as code."""
    parts = text.replace("\n", " ").split("`")
    if len(parts) % 2 == 0:  # one is left over: it is no mark
        return as_text(text)
    return "`".join(part if at % 2 else as_text(part) for at, part in enumerate(parts))


def as_html(text: str) -> str:
    """HTML that shows the text as it is."""
    return html.escape(text)


def problem(text: str) -> None:
    """A sentence that says what is wrong and what would do."""
    st.error(as_text(text), icon=":material/report:")


def hint(text: str) -> None:
    st.info(as_text(text), icon=":material/lightbulb:")


def notes(sentences: list[str]) -> None:
    """What whoever reads a figure should know."""
    if sentences:
        st.markdown("\n".join(f"* {with_code(each)}" for each in sentences))


@contextmanager
def kept_up() -> Iterator[None]:
    """A mistake inside becomes a sentence, and the rest of the page stays."""
    try:
        yield
    except MISTAKES as mistake:
        problem(sentence(mistake))


def sentence(mistake: BaseException) -> str:
    """A KeyError's message would come in quotes, and some come without any."""
    words = str(mistake.args[0]) if isinstance(mistake, KeyError) and mistake.args else str(mistake)
    return words or f"{type(mistake).__name__}, without a message."
