"""What Streamlit runs for every browser and every click: the menu, and the page that is open.

`interp explore` starts it, and so does `streamlit run app/explorer/script.py -- FOLDER --model NAME`.
"""

import streamlit as st
from PIL import Image

from app.explorer import state, width
from app.explorer.icon import icon
from app.explorer.said import kept_up
from app.pages import menu

# Less air than Streamlit leaves around a page, and figures as wide as what is left.
STYLE = (
    "<style>[data-testid=stMainBlockContainer]{padding:2.2rem 2.5rem 3rem}"
    "h1{font-size:1.9rem!important;padding:.2rem 0 .4rem!important}</style>"
)


def main() -> None:
    st.set_page_config(page_title="interp", page_icon=Image.fromarray(icon()), layout="wide")
    chosen = st.navigation(list(menu().values()), position="sidebar")
    st.html(STYLE)
    width.measure()
    state.read_link()
    st.title(chosen.title)
    with kept_up():
        chosen.run()
    state.write_link()


main()
