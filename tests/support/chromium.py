"""Headless Chromium for tests of pages."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from support import model_servers
from support.skip import leave_out

# Without these options, Chromium checks for updates over the network at every start.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

MILLISECONDS_TO_START = 300_000  # on a busy machine
SHOWS_IMAGE = "document.getElementById('image').naturalWidth > 0"  # of the page to label on


def wait_until(page: Any, expression: str, seconds: float = MILLISECONDS_TO_START / 1000) -> None:
    """Waits until an expression holds on a page; Playwright's wait_for_function evaluates text there, which policies forbid."""
    model_servers.until(lambda: page.evaluate(expression), seconds)


@pytest.fixture(scope="session")
def browser() -> Iterator:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        leave_out("no Chromium on this machine")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as playwright:
        try:
            started = playwright.chromium.launch(executable_path=program, args=QUIET, timeout=MILLISECONDS_TO_START)
        except Error as error:  # the command may exist without a browser
            leave_out(f"{program} does not start ({' '.join(str(error).split())[:200]})")
        yield started
        started.close()
