"""The page of a server with a search index, in headless Chromium: dropping an image and following its nearest images."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import colour_index
from support.model_servers import until

from kfp_vision.serving import server

pytestmark = pytest.mark.slow

DROP = """async bytes => {
    const carried = new DataTransfer();
    carried.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
    dispatchEvent(new DragEvent("drop", {dataTransfer: carried, cancelable: true}));
}"""
SHOWN = 12
MILLISECONDS = 200_000  # for a page on a busy machine


@pytest.fixture(scope="module")
def repository(browser, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("repository")
    model = colour_index.write_model(root / "model")
    colour_index.write(model, colour_index.write_pictures(root / "photos"), root / "index")
    shutil.copytree(root / "index", model / "serving" / "index")
    return model / "serving"


@pytest.fixture(scope="module")
def url(repository) -> Iterator[str]:
    with server.run_server(repository) as address:
        yield address


def shown_names(page) -> list[str]:
    """Returns the file names of the nearest images once all of them are loaded."""
    shown = "[...document.querySelectorAll('.near img')].every(one => one.complete && one.naturalWidth > 0)"
    until(lambda: page.evaluate(shown))
    return page.locator(".near li button").evaluate_all("buttons => buttons.map(one => one.title.split('/').pop())")


def nearest_others(number: int) -> list[str]:
    return colour_index.nearest(number, SHOWN + 1)[1:]


def test_shows_the_nearest_of_a_dropped_image_and_searches_from_them(page):
    page.evaluate(DROP, list(colour_index.picture(4)))
    page.get_by_role("heading", name="Nearest images").wait_for()
    assert shown_names(page) == colour_index.nearest(4, SHOWN)
    assert page.locator(".near li button").first.inner_text().split("\n")[0] == "reddish"
    assert "100.0 %" in page.locator(".near li button").first.inner_text()

    third = page.locator(".near li button").nth(2)
    number = int(third.get_attribute("title").split("/")[-1].removesuffix(".png"))
    third.click()
    page.get_by_role("heading", name="Nearest to reddish").wait_for()
    assert shown_names(page) == nearest_others(number)  # the clicked image is shown above
    page.get_by_role("button", name="Back").click()
    page.get_by_role("heading", name="Nearest images").wait_for()
    assert shown_names(page) == colour_index.nearest(4, SHOWN)


def test_the_nearest_images_are_navigable_by_keyboard(page):
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": colour_index.picture(20)})
    page.get_by_role("heading", name="Nearest images").wait_for()
    second = int(shown_names(page)[1].removesuffix(".png"))
    page.locator(".near li button").nth(1).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Back").wait_for()
    assert shown_names(page) == nearest_others(second)
    assert page.evaluate("document.activeElement.className") == "back"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    third = int(nearest_others(second)[0].removesuffix(".png"))
    until(lambda: shown_names(page) == nearest_others(third))
    page.keyboard.press("Enter")  # the Back button, which restores the focus
    until(lambda: shown_names(page) == nearest_others(second))
    assert page.evaluate("document.activeElement.title").endswith(f"{third:02}.png")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    until(lambda: shown_names(page) == colour_index.nearest(20, SHOWN))
    assert page.evaluate("document.activeElement.title").endswith(f"{second:02}.png")


def test_with_a_token_the_nearest_images_are_shown(browser, repository, monkeypatch):
    monkeypatch.setenv("KFP_VISION_TOKEN", "the-token")
    with server.run_server(repository) as address:
        new_page = browser.new_page()
        new_page.set_default_timeout(MILLISECONDS)
        new_page.goto(address)
        new_page.get_by_label("Token").fill("the-token")
        new_page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": colour_index.picture(9)})
        new_page.get_by_role("heading", name="Nearest images").wait_for()
        assert shown_names(new_page) == colour_index.nearest(9, SHOWN)
        new_page.close()


def test_without_an_index_no_search_is_requested(browser, repository, tmp_path):
    shutil.copytree(repository / "1", tmp_path / "1")
    with server.run_server(tmp_path) as address:
        new_page = browser.new_page()
        requests: list[str] = []
        new_page.on("request", lambda request: requests.append(request.url))
        new_page.goto(address)
        new_page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": colour_index.picture(9)})
        new_page.locator("article .scores").wait_for()
        assert new_page.locator(".near").count() == 0 and not [request for request in requests if request.endswith(":search")]
        new_page.close()
