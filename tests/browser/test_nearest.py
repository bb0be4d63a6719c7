"""The server's page with an index beside its model, in headless Chromium: a picture dropped, the nearest seen and followed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import colour_index
from support.model_servers import until

from kfp_vision.serving import server

DROP = """async bytes => {
    const carried = new DataTransfer();
    carried.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
    dispatchEvent(new DragEvent("drop", {dataTransfer: carried, cancelable: true}));
}"""
SHOWN = 12
MILLISECONDS = 200_000  # in which a machine shows a page that has much else to do


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


@pytest.fixture(params=[(1100, "light"), (1100, "dark"), (390, "light")], ids=str)
def page(request, browser, url) -> Iterator:
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.set_default_timeout(MILLISECONDS)
    wrong: list[str] = []
    opened.on("request", lambda one: wrong.append(one.url) if not one.url.startswith((url, "blob:", "data:")) else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" else None)
    opened.goto(url)
    yield opened
    assert wrong == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


def seen(page) -> list[str]:
    """File names of the pictures that are shown, which all can be seen."""
    shown = "[...document.querySelectorAll('.near img')].every(one => one.complete && one.naturalWidth > 0)"
    until(lambda: page.evaluate(shown))
    return page.locator(".near li button").evaluate_all("buttons => buttons.map(one => one.title.split('/').pop())")


def after_itself(number: int) -> list[str]:
    return colour_index.nearest(number, SHOWN + 1)[1:]


def test_the_nearest_of_a_dropped_picture_are_shown_and_searched_on_from(page):
    page.evaluate(DROP, list(colour_index.picture(4)))
    page.get_by_role("heading", name="Nearest images").wait_for()
    assert seen(page) == colour_index.nearest(4, SHOWN)
    assert page.locator(".near li button").first.inner_text().split("\n")[0] == "reddish"
    assert "100.0 %" in page.locator(".near li button").first.inner_text()

    third = page.locator(".near li button").nth(2)
    number = int(third.get_attribute("title").split("/")[-1].removesuffix(".png"))
    third.click()
    page.get_by_role("heading", name="Nearest to reddish").wait_for()
    assert seen(page) == after_itself(number)  # the one that was clicked stands above
    page.get_by_role("button", name="Back").click()
    page.get_by_role("heading", name="Nearest images").wait_for()
    assert seen(page) == colour_index.nearest(4, SHOWN)


def test_the_nearest_are_followed_with_the_keyboard(page):
    page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": colour_index.picture(20)})
    page.get_by_role("heading", name="Nearest images").wait_for()
    second = int(seen(page)[1].removesuffix(".png"))
    page.locator(".near li button").nth(1).focus()
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Back").wait_for()
    assert seen(page) == after_itself(second)
    assert page.evaluate("document.activeElement.className") == "back"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    third = int(after_itself(second)[0].removesuffix(".png"))
    until(lambda: seen(page) == after_itself(third))
    page.keyboard.press("Enter")  # back, to where it was followed
    until(lambda: seen(page) == after_itself(second))
    assert page.evaluate("document.activeElement.title").endswith(f"{third:02}.png")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    until(lambda: seen(page) == colour_index.nearest(20, SHOWN))
    assert page.evaluate("document.activeElement.title").endswith(f"{second:02}.png")


def test_with_the_token_the_pictures_are_shown_too(browser, repository, monkeypatch):
    monkeypatch.setenv("KFP_VISION_TOKEN", "the-token")
    with server.run_server(repository) as address:
        opened = browser.new_page()
        opened.set_default_timeout(MILLISECONDS)
        opened.goto(address)
        opened.get_by_label("Token").fill("the-token")
        opened.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": colour_index.picture(9)})
        opened.get_by_role("heading", name="Nearest images").wait_for()
        assert seen(opened) == colour_index.nearest(9, SHOWN)
        opened.close()


def test_nothing_is_shown_where_there_is_no_index(browser, repository, tmp_path):
    shutil.copytree(repository / "1", tmp_path / "1")
    with server.run_server(tmp_path) as address:
        opened = browser.new_page()
        asked: list[str] = []
        opened.on("request", lambda one: asked.append(one.url))
        opened.goto(address)
        opened.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": colour_index.picture(9)})
        opened.locator("article .scores").wait_for()
        assert opened.locator(".near").count() == 0 and not [one for one in asked if one.endswith(":search")]
        opened.close()
