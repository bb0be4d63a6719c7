"""Headless Chromium for the tests of pages."""

import shutil
from collections.abc import Iterator

import pytest
from support.skip import leave_out

# Without these options, Chromium checks for updates over the network at every start.
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

MILLISECONDS_TO_START, MILLISECONDS = 300_000, 200_000  # the latter for a page on a busy machine


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


@pytest.fixture
def tolerated() -> str:
    """Returns what a line of the console may hold although it reports an error; a module may have a fixture of its own."""
    return ""


@pytest.fixture(params=[(1100, "light"), (1100, "dark"), (390, "light")], ids=str)
def page(request, browser, url, tolerated) -> Iterator:
    """Opens the server's page at the module's `url`; in the end it must fit, and have no errors and no requests elsewhere."""
    width, scheme = request.param
    new_page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    new_page.set_default_timeout(MILLISECONDS)
    problems: list[str] = []

    def note_error(message) -> None:
        if message.type == "error" and not (tolerated and tolerated in message.text):
            problems.append(message.text)

    new_page.on(
        "request", lambda request: problems.append(request.url) if not request.url.startswith((url, "blob:", "data:")) else None
    )
    new_page.on("pageerror", lambda error: problems.append(str(error)))
    new_page.on("dialog", lambda dialog: problems.append(dialog.message))
    new_page.on("console", note_error)
    new_page.goto(url)
    yield new_page
    assert problems == []
    assert new_page.evaluate("document.documentElement.scrollWidth") <= width
    new_page.close()
