"""A real browser for tests: headless Chromium, driven by playwright; where it is missing, the test skips and says so."""

import contextlib
import random
import shutil

import pytest

# As root Chromium needs --no-sandbox; the rest keeps it from calling home.
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
]


def require():
    """Path of Chromium, and playwright; skips where either is missing."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    return found, api


@contextlib.contextmanager
def page(**context):
    """A page of a new browser, and the list that errors, warnings and requests it makes are put in as they come."""
    found, api = require()
    state = random.getstate()
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=found, args=FLAGS)
        try:
            opened = browser.new_context(**context).new_page()
            log = {"console": [], "errors": [], "requests": []}
            opened.on("console", lambda m: log["console"].append(f"{m.type}: {m.text}"))
            opened.on("pageerror", lambda e: log["errors"].append(str(e)))
            opened.on("request", lambda r: log["requests"].append(r.url))
            yield opened, log
        finally:
            browser.close()
            random.setstate(state)  # the driver draws from it
