"""Starts the explorer: bound to this machine alone unless told otherwise, and asking no outside service."""

import functools
import importlib
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamlit.starlette import App

SCRIPT = Path(__file__).parent / "explorer" / "script.py"
# Imported before the first page is asked for, so that it does not wait for them.
READY = (
    "pandas", "plotly.graph_objects", "plotly.subplots", "pyarrow.parquet", "torch", "safetensors.torch",
    "interp", "interp.result", "interp.looking", "interp.plots.style", "interp.tasks",
    "app.explorer.results", "app.pages",
)  # fmt: skip

# The title is there, the server makes the figure: now is the time to read the code that draws it.
_ONCE_TITLED = (
    "new MutationObserver((_, seen) => { if (document.querySelector('h1')) { seen.disconnect(); "
    "import('%s') } }).observe(document, {childList: true, subtree: true})"
)


def serve(
    folders: list[Path],
    models: list[str],
    host: str = "127.0.0.1",
    port: int = 8501,
    browser: bool = True,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Serve until interrupted. Folders hold saved results; `models` are offered beside the shipped ones.

    `ready` is called when all is loaded, just before the address answers.
    """
    import uvicorn

    _check(folders, host, port)
    app = explorer(folders, models)
    ready()
    address = f"http://{host}:{port}"
    if browser:
        threading.Timer(1.0, webbrowser.open, [address]).start()
    uvicorn.run(app, host=host, port=port, log_level="warning", ws_max_size=64 * 1024 * 1024)


def explorer(folders: list[Path], models: list[str]) -> "App":
    """The explorer as an ASGI app. What it was given goes by sys.argv, as with `streamlit run`."""
    from starlette.routing import Route
    from streamlit.starlette import App
    from streamlit.web import bootstrap

    from app.explorer.opened import arguments

    bootstrap.load_config_options(_options())
    sys.argv = [str(SCRIPT), *arguments(folders, models)]
    for module in READY:
        importlib.import_module(module)
    _warm()
    from app.pages import ordered

    pages = [Route(f"/{name}", _index) for name in ("", *ordered()[1:])]
    return App(SCRIPT, routes=pages)


def _warm() -> None:
    """Open one small model, so that the first answer does not wait for what transformers imports."""
    from transformers.utils.logging import disable_progress_bar

    import interp
    from interp import shipped

    disable_progress_bar()  # of weights: nobody looks here
    if shipped.names():
        model = interp.load(shipped.names()[0])
        model.generate(model.encode("We"), max_new_tokens=1, do_sample=False)


def _index(request: Any) -> Any:
    """Streamlit's own page, told two things more.

    Where the server is: a page's address opened directly would have its client look below that address
    first, and log what is not there as errors. And that a figure is coming: its drawing code, much the
    largest part, would be asked for only when the first figure has arrived; now it is read while the server
    makes that figure.
    """
    from starlette.responses import HTMLResponse

    return HTMLResponse(_told())


@functools.cache
def _told() -> str:
    static = _static()
    page = (static / "index.html").read_text(encoding="utf-8")
    told = "<script>window.__streamlit = {BACKEND_BASE_URL: window.location.origin + '/'}</script>"
    for file in sorted(static.glob("static/js/PlotlyChart.*.js")):
        place = f"/{file.relative_to(static).as_posix()}"
        told += f'<link rel="modulepreload" href="{place}" />'
        told += f"<script>{_ONCE_TITLED % place}</script>"
    return page.replace("<head>", f"<head>{told}", 1)


def _static() -> Path:
    import streamlit

    return Path(streamlit.__file__).parent / "static"


def _check(folders: list[Path], host: str, port: int) -> None:
    for folder in folders:
        if not folder.expanduser().is_dir():
            raise FileNotFoundError(
                f"{str(folder)!r} is no folder; give the folder of a saved result, or one that holds several."
            )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as problem:
            raise OSError(
                f"{host}:{port} cannot be served ({problem.strerror}); choose another, --port {port + 1}."
            ) from None


def _options() -> dict[str, Any]:
    """Streamlit's settings, as its command line would take them."""
    from app.explorer.opened import MEGABYTES

    return {
        "server_fileWatcherType": "none",
        "server_maxUploadSize": MEGABYTES,
        "server_enableStaticServing": False,
        "browser_gatherUsageStats": False,
        "client_toolbarMode": "viewer",
        "client_showErrorDetails": "none",
        "global_developmentMode": False,
        "theme_light_primaryColor": "#1f6aa5",
        "theme_dark_primaryColor": "#56b4e9",
        "theme_dark_backgroundColor": "#0e1117",
        "theme_dark_secondaryBackgroundColor": "#1a1f29",
    }
