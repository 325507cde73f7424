"""A text whose tokens are shaded by numbers. Tokens are escaped: whatever they hold is shown as text."""

from collections.abc import Iterator, Sequence

import numpy as np
import streamlit as st

from app.explorer.said import as_html

AROUND = 6  # tokens shown on either side of one that counts, in a long text
SHORT = 400  # tokens that are all shown
SEEN = 0.02  # shares from here on are shown in a long text, wherever they are
STYLE = (
    "<style>.shaded{line-height:2.1;font-size:.95rem;overflow-wrap:anywhere}"
    ".shaded span{padding:.18rem .22rem;margin:0 .06rem;border-radius:.25rem;white-space:pre-wrap}"
    ".shaded .query{outline:2px solid #d55e00}.shaded .left{opacity:.6;font-style:italic}</style>"
)

BARS = (
    "<style>.bars{width:100%;font-size:.9rem;border-collapse:collapse}.bars td{padding:.12rem .5rem .12rem 0;"
    "border:none;white-space:pre}.bars td:nth-child(2){width:60%}.bars td:last-child{text-align:right}"
    ".bars div{height:.7rem;background:#56a0d3;border-radius:.15rem}</style>"
)


def show(
    tokens: Sequence[str], shares: np.ndarray, query: int, image: np.ndarray | None = None
) -> None:
    """Each token as dark as its share; `query` is framed. Runs of image tokens are one piece."""
    pieces = "".join(_pieces(tokens, shares, query % len(tokens), image))
    st.html(f'{STYLE}<div class="shaded">{pieces}</div>')


def _pieces(
    tokens: Sequence[str], shares: np.ndarray, query: int, image: np.ndarray | None
) -> Iterator[str]:
    seen = _kept(shares, query)
    place = 0
    while place < len(tokens):
        end = place + 1
        if image is not None and image[place]:
            while end < len(tokens) and image[end]:
                end += 1
            if place <= query < end:
                end = place + 1 if query == place else query
            if end - place > 1:
                yield _span(f"▦ {end - place} image tokens", float(shares[place:end].sum()), False)
                place = end
                continue
        if not seen[place]:
            while end < len(tokens) and not seen[end] and not (image is not None and image[end]):
                end += 1
            yield f'<span class="left">… {end - place} tokens …</span>'
        else:
            yield _span(tokens[place], float(shares[place]), place == query, place)
        place = end


def _kept(shares: np.ndarray, query: int) -> np.ndarray:
    """Which tokens are shown: all of a short text, else those around what is looked at and the query."""
    if len(shares) <= SHORT:
        return np.ones(len(shares), bool)
    kept = np.zeros(len(shares), bool)
    for place in [*np.flatnonzero(shares >= SEEN), int(shares.argmax()), query]:
        kept[max(0, place - AROUND) : place + AROUND + 1] = True
    return kept


def _span(token: str, share: float, own: bool, place: int | None = None) -> str:
    shade = f"background:rgba(31,106,165,{0.9 * min(max(share, 0.0), 1.0) ** 0.5:.2f})"
    light = ";color:#fff" if share > 0.35 else ""
    where = "" if place is None else f"{place}: "
    kind = ' class="query"' if own else ""
    return f'<span{kind} style="{shade}{light}" title="{where}{share:.3f}">{_shown(token)}</span>'


def bars(tokens: Sequence[str], shares: Sequence[float]) -> None:
    """Tokens with a bar and a number each."""
    rows = "".join(
        f'<tr><td>{_shown(token)}</td><td><div style="width:{max(share, 0.004):.1%}"></div></td>'
        f"<td>{share:.3g}</td></tr>"
        for token, share in zip(tokens, shares, strict=True)
    )
    st.html(f'{BARS}<table class="bars">{rows}</table>')


def _shown(token: str) -> str:
    return as_html(token.replace("\n", "⏎")) or "∅"
