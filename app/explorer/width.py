"""How wide a page is in its browser, so that figures are laid out for it and not squeezed."""

from typing import Any

import streamlit as st

USUAL = 1000  # pixels, of a window of 1400; until the browser has told
_KEY = "page width"
# Told in steps, so that a scroll bar or a slow drag of the window does not draw all again each time.
_SCRIPT = """
export default function(component) {
  const page = document.querySelector('[data-testid="stMainBlockContainer"]');
  let told = component.data, timer = null;
  const tell = () => {
    const style = getComputedStyle(page);
    const room = page.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const width = Math.floor(room / 40) * 40;
    if (width > 0 && width !== told) { told = width; component.setStateValue('width', width); }
  };
  const seen = new ResizeObserver(() => { clearTimeout(timer); timer = setTimeout(tell, 150); });
  seen.observe(page);
  return () => { clearTimeout(timer); seen.disconnect(); };
}
"""


def measure() -> None:
    """Once a page: the browser tells its width, and tells again when it changes."""
    told = _measured()(key=_KEY, data=room(), on_width_change=lambda: None, height=1)
    if isinstance(told.width, (int, float)) and told.width >= 300:
        st.session_state["room"] = int(told.width)


def room() -> int:
    """Pixels that a figure has from side to side."""
    return st.session_state.get("room", USUAL)


@st.cache_resource(show_spinner=False)
def _measured() -> Any:
    from streamlit.components import v2

    return v2.component("page_width", js=_SCRIPT)
