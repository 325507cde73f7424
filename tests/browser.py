"""A served explorer and a Chromium that visits it."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import TimeoutError, sync_playwright

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "demo" / "screenshots"  # kept, to be looked at
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
PATIENCE = 60_000  # milliseconds
IDLE = """() => {
    const app = document.querySelector('[data-testid=stApp]')
    return app && app.getAttribute('data-test-script-state') === 'notRunning'
        && app.getAttribute('data-test-connection-state') === 'CONNECTED'
}"""


@contextmanager
def served(*folders, models=()):
    """The address of an explorer that was started as a user starts it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    named = [word for model in models for word in ("--model", str(model))]
    asked = [sys.executable, "-m", "app.command", "explore", *map(str, folders), *named]
    asked += ["--port", str(port), "--no-browser"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(asked, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait(process, f"{address}/_stcore/health")
        yield address
    finally:
        process.terminate()
        process.communicate(timeout=20)


@contextmanager
def launched():
    """A Chromium; each thread needs its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        try:
            yield chromium
        finally:
            chromium.close()


def _wait(process, address, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the explorer ended: {process.stderr.read()[-2000:]}")
        try:
            with urllib.request.urlopen(address, timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"nothing answers at {address}")


class Visit:
    """One browser window of its own, and everything that went wrong in it."""

    def __init__(self, browser, address, dark=False, width=1400, height=1000):
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": height}
        self.context = browser.new_context(viewport=size, color_scheme=scheme)
        self.page, self.address, self.wrong = self.context.new_page(), address, []
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("console", self._heard)
        self.page.on("requestfailed", self._failed)
        self.page.on("dialog", lambda dialog: (self.wrong.append("a dialog"), dialog.dismiss()))

    def _heard(self, message):
        if message.type == "error":
            self.wrong.append(f"console: {message.text}")

    def _failed(self, request):
        if "ERR_ABORTED" not in str(request.failure):  # left before it came
            self.wrong.append(f"failed: {request.url}")

    def open(self, place=""):
        self.page.goto(f"{self.address}/{place}")
        return self.rest()

    def rest(self):
        """Wait until the page is drawn and nothing runs."""
        self.page.wait_for_selector("h1")
        for _ in range(2):  # a page that has told its width is drawn once more
            self.page.wait_for_timeout(120)  # a click has reached the server
            self.page.wait_for_function(IDLE)
        return self

    def upload(self, name, content):
        """Give the page's uploader a file."""
        given = {"name": name, "mimeType": "image/png", "buffer": content}
        taken = self.page.get_by_test_id("stFileUploader").get_by_text(name).first
        for _ in range(3):  # a page that is drawn again at this moment loses it
            self.page.get_by_test_id("stFileUploaderDropzoneInput").set_input_files(given)
            try:
                taken.wait_for(timeout=15_000)
                return self.rest()
            except TimeoutError:
                self.rest()
        raise AssertionError(f"the page does not take {name!r}")

    def go(self, name):
        self.page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
        self.page.wait_for_function(
            "name => document.querySelector('h1')?.innerText === name", arg=name
        )
        return self.rest()

    def choose(self, label, option):
        """Pick from a select box by what it says."""
        offered = self.page.get_by_role("option", name=option, exact=True).first
        for _ in range(5):  # a page that is drawn again closes the list
            self.page.get_by_role("combobox", name=label, exact=True).first.click()
            try:
                offered.click(timeout=3000)
                return self.rest()
            except TimeoutError:
                self.rest()
        raise AssertionError(f"{label!r} does not offer {option!r}")

    def drawn(self):
        """Wait for a figure; how many there are."""
        self.page.wait_for_selector(".js-plotly-plot .main-svg")
        return self.page.locator(".js-plotly-plot").count()

    def text(self):
        return self.page.get_by_test_id("stMain").inner_text()

    def problems(self):
        """What the page itself says went wrong, in sentences meant for people."""
        return self.page.get_by_test_id("stAlert").all_inner_texts()

    def exceptions(self):
        return self.page.get_by_test_id("stException").all_inner_texts()

    def keep(self, name):
        """A picture of the whole page."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        size = self.page.viewport_size
        tall = self.page.evaluate("document.querySelector('[data-testid=stMain]').scrollHeight")
        self.page.set_viewport_size(
            {"width": size["width"], "height": min(max(tall, 600) + 10, 4000)}
        )
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=PICTURES / f"{name}.png")
        self.page.set_viewport_size(size)

    def fine(self):
        """No exception box, nothing in the console."""
        assert not self.exceptions(), self.exceptions()
        assert not self.wrong, self.wrong
