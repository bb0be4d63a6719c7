"""The switches below an answer on the page of the server, in headless Chromium: maps laid over the image and taken off."""

from collections.abc import Iterator

import pytest
from support import chromium, colour_model, odd_images, place_model

from kfp_vision.serving import server

pytestmark = pytest.mark.slow

MILLISECONDS = 200_000  # for a page on a busy machine
LABELS = ("red", "<b>green</b>", "blue")
HALVES = {
    "name": "halves.png",
    "mimeType": "image/png",
    "buffer": odd_images.encode(colour_model.halves("red", "blue", (192, 128)), "PNG"),
}
# Whether a place of the image that is shown, from 0 to 1, is in colour.
COLOURED = """([x, y]) => {
    const image = [...document.querySelectorAll("article img")].find(one => one.offsetParent);
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const [red, green, blue] = context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data;
    return Math.max(red, green, blue) - Math.min(red, green, blue) > 60;
}"""
LEFT, RIGHT = [0.25, 0.5], [0.75, 0.5]


@pytest.fixture(scope="module")
def url(browser, tmp_path_factory) -> Iterator[str]:
    version = colour_model.write_version(tmp_path_factory.mktemp("repository") / "1", LABELS)
    with server.run_server(version.parent) as address:
        yield address


@pytest.fixture
def page(page):
    """Returns the page once it has answered for an image of two halves."""
    page.set_input_files("#file", HALVES)
    page.locator(".why button").nth(2).wait_for()
    return page


def laid_over(page, label: str) -> None:
    """Waits until the map of a class is laid over the image."""
    page.get_by_role("img", name=f"What spoke for {label} in halves.png", exact=True).wait_for()
    chromium.wait_until(page, "[...document.querySelectorAll('article img')].every(one => one.complete)")


def test_each_of_the_best_classes_has_a_switch_that_shows_where_it_is(page):
    assert sorted(page.locator(".why button").all_inner_texts()) == sorted(LABELS)
    assert page.get_by_role("img", name="halves.png", exact=True).is_visible()
    page.get_by_role("button", name="red").click()
    laid_over(page, "red")
    assert not page.get_by_role("img", name="halves.png", exact=True).is_visible()
    assert (page.evaluate(COLOURED, LEFT), page.evaluate(COLOURED, RIGHT)) == (True, False)
    page.get_by_role("button", name="blue").click()
    laid_over(page, "blue")
    assert (page.evaluate(COLOURED, LEFT), page.evaluate(COLOURED, RIGHT)) == (False, True)
    assert page.get_by_role("button", name="red").get_attribute("aria-pressed") == "false"
    assert page.locator("article img:visible").count() == 1
    note = page.locator(".why").inner_text()
    assert "Orange raised the score of blue" in note
    assert "not what was recognised there, nor that the answer is right." in note
    page.get_by_role("button", name="blue").click()
    page.get_by_role("img", name="halves.png", exact=True).wait_for()
    assert "Orange" not in page.locator(".why").inner_text()
    assert page.locator("article img:visible").count() == 1


def test_a_label_with_markup_is_explained_as_text(page):
    page.get_by_role("button", name=LABELS[1]).click()
    laid_over(page, LABELS[1])
    assert f"Orange raised the score of {LABELS[1]}" in page.locator(".why").inner_text()


def test_the_switches_work_by_keyboard(page):
    page.locator("#file").focus()
    page.keyboard.press("Tab")
    first = page.locator(".why button").first
    assert first.evaluate("button => button === document.activeElement")
    page.keyboard.press("Space")
    laid_over(page, first.inner_text())
    assert first.get_attribute("aria-pressed") == "true"
    page.keyboard.press("Enter")
    page.get_by_role("img", name="halves.png", exact=True).wait_for()
    assert first.get_attribute("aria-pressed") == "false"


def test_a_switch_is_large_enough_for_a_finger(page):
    heights = page.locator(".why button").evaluate_all("all => all.map(one => one.getBoundingClientRect().height)")
    assert min(heights) >= 24  # CSS pixels: WCAG 2.2, success criterion 2.5.8


def test_a_failure_is_shown_and_the_image_stays(browser, url):
    page = browser.new_page()
    page.set_default_timeout(MILLISECONDS)
    page.goto(url)
    page.set_input_files("#file", HALVES)
    page.locator(".why button").first.wait_for()
    page.route("**/*:explain*", lambda route: route.fulfill(status=503, json={"error": "at most 1024 images may wait"}))
    page.get_by_role("button", name="red").click()
    page.get_by_text("at most 1024 images may wait").wait_for()
    assert page.get_by_role("img", name="halves.png", exact=True).is_visible()
    assert page.get_by_role("button", name="red").get_attribute("aria-pressed") == "false"
    page.unroute("**/*:explain*")
    page.get_by_role("button", name="red").click()
    laid_over(page, "red")
    page.close()


def test_with_a_token_the_map_is_shown(browser, tmp_path, monkeypatch):
    version = colour_model.write_version(tmp_path / "1", LABELS)
    monkeypatch.setenv("KFP_VISION_TOKEN", "the-token")
    with server.run_server(version.parent) as address:
        page = browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(address)
        page.get_by_label("Token").fill("the-token")
        page.set_input_files("#file", HALVES)
        page.get_by_role("button", name="blue").click()
        laid_over(page, "blue")
        page.close()


def test_a_model_without_maps_has_no_switches(browser, tmp_path):
    place_model.write_version(tmp_path / "1")
    with server.run_server(tmp_path) as address:
        page = browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(address)
        page.set_input_files("#file", HALVES)
        page.locator("article .scores").wait_for()
        assert page.locator(".why").count() == 0
        page.close()


def test_a_switch_that_is_pressed_again_while_its_map_is_on_the_way_lays_over_one(page):
    held: list = []
    page.route("**/*:explain*", lambda route: held.append(route))
    for _ in range(3):  # on, off, on
        page.get_by_role("button", name="red").click()
    page.wait_for_timeout(200)
    for route in held:
        route.continue_()
    laid_over(page, "red")
    assert (len(held), page.locator("article img").count()) == (1, 2)
