"""A page in headless Chromium for the tests of pages."""

from collections.abc import Iterator

import pytest

MILLISECONDS = 200_000  # for a page on a busy machine


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
