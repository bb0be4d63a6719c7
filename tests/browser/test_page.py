"""The page of the server in headless Chromium: choosing and dropping images, tokens and models."""

from collections.abc import Iterator

import pytest
from support import colour_model, known_colours

from kfp_vision.serving import server

MILLISECONDS = 200_000  # for a page on a busy machine
LABELS = ("red", "<script>alert(1)</script>", "blue")
DROP = """async bytes => {
    const carried = new DataTransfer();
    carried.items.add(new File([new Uint8Array(bytes)], "dropped.jpg", {type: "image/jpeg"}));
    dispatchEvent(new DragEvent("drop", {dataTransfer: carried, cancelable: true}));
}"""


@pytest.fixture(scope="module")
def url(browser, tmp_path_factory) -> Iterator[str]:
    version = colour_model.write_version(tmp_path_factory.mktemp("repository") / "1", LABELS)
    with server.run_server(version.parent) as address:
        yield address


@pytest.fixture
def tolerated() -> str:
    return "400"  # of requests without an image that can be read


def jpeg(colour: str) -> dict:
    return {"name": f"{colour}.jpg", "mimeType": "image/jpeg", "buffer": colour_model.picture(colour)}


@pytest.mark.parametrize("name_unknown", [False, True])
def test_an_image_that_is_not_known_is_marked_or_named_unknown(browser, tmp_path, name_unknown):
    version = known_colours.write_version(tmp_path / "repository" / "1", name_unknown=name_unknown)
    with server.run_server(version.folder.parent) as address:
        page = browser.new_page(viewport={"width": 390, "height": 900})
        page.set_default_timeout(MILLISECONDS)
        page.goto(address)
        page.set_input_files("#file", {"name": "yellow.png", "mimeType": "image/png", "buffer": known_colours.yellow()})
        page.get_by_text("Unlike the images of the training").wait_for()
        named = page.locator("article h2").inner_text()
        assert named == "unknown" if name_unknown else named in colour_model.RGB
        page.set_input_files("#file", jpeg("blue"))
        page.get_by_role("heading", name="blue", exact=True).wait_for()
        assert page.get_by_text("Unlike the images of the training").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.close()


def test_a_chosen_image_is_shown_with_its_prediction_and_scores(page):
    page.set_input_files("#file", jpeg("red"))
    page.get_by_role("heading", name="red", exact=True).wait_for()
    card = page.locator("article")
    assert card.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert card.locator(".scores").inner_text().split("\n")[:2] == ["red", "100.0 %"]
    widths = card.locator("i").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths[0] > 20 * max(widths[1:])


def test_a_dropped_image_is_classified(page):
    page.evaluate(DROP, list(colour_model.picture("blue")))
    page.get_by_role("heading", name="blue", exact=True).wait_for()
    assert "dropped.jpg" in page.locator("article").inner_text()


def test_several_images_are_classified(page):
    page.set_input_files("#file", [jpeg("red"), jpeg("blue"), jpeg("red")])
    page.locator("article .scores").nth(2).wait_for()
    assert sorted(page.locator("article h2").all_inner_texts()) == ["blue", "red", "red"]


def test_a_label_with_markup_is_shown_as_text(page):
    assert LABELS[1] in page.inner_text("body")
    page.set_input_files("#file", jpeg("green"))
    page.get_by_role("heading", name=LABELS[1]).wait_for()


def test_an_invalid_image_is_rejected_with_the_reason(page):
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.get_by_role("heading", name="No answer").wait_for()
    assert "not an image in a known format" in page.locator("article").inner_text()


def test_the_page_is_usable_by_keyboard(page):
    choosers: list = []
    page.on("filechooser", lambda chooser: choosers.append(chooser))  # before the key press, or the event may be missed
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Space")
    for _ in range(MILLISECONDS // 100):
        if choosers:
            break
        page.wait_for_timeout(100)
    choosers[0].set_files(jpeg("blue"))
    page.get_by_role("heading", name="blue", exact=True).wait_for()


def test_the_command_for_programs_has_the_address_of_the_server(page, url):
    assert f"curl -F file=@image.jpg {url}/v1/models/colours:predict" in page.inner_text("pre")


@pytest.fixture
def token_page(browser, tmp_path, monkeypatch) -> Iterator:
    """Opens the page of a server that requires a token."""
    version = colour_model.write_version(tmp_path / "1", LABELS)
    monkeypatch.setenv("KFP_VISION_TOKEN", "the-token")
    with server.run_server(version.parent) as address:
        new_page = browser.new_page()
        new_page.set_default_timeout(MILLISECONDS)
        new_page.goto(address)
        yield new_page
        new_page.close()


@pytest.mark.slow
def test_the_page_asks_for_the_token(token_page):
    assert LABELS[0] not in token_page.inner_text(".lede")
    token_page.set_input_files("#file", jpeg("red"))
    token_page.get_by_role("heading", name="No answer").wait_for()
    assert "The server requires a token. Enter it above" in token_page.locator("article").inner_text()
    assert token_page.evaluate("document.activeElement.id") == "token"
    token_page.get_by_label("Token").fill("another")
    token_page.set_input_files("#file", jpeg("red"))
    token_page.get_by_text("The token is invalid.").wait_for()
    token_page.get_by_label("Token").fill("the-token")
    token_page.set_input_files("#file", jpeg("blue"))
    token_page.get_by_role("heading", name="blue", exact=True).wait_for()
    assert "the-token" not in token_page.content()


@pytest.mark.slow
def test_the_page_offers_a_choice_of_models(browser, tmp_path):
    for name, labels in (("english", tuple(colour_model.RGB)), ("german", ("rot", "gruen", "blau"))):
        colour_model.write_version(tmp_path / name / "1", labels)
    with server.run_server(tmp_path) as address:
        new_page = browser.new_page()
        new_page.set_default_timeout(MILLISECONDS)
        new_page.goto(address)
        for name, heading in (("english", "red"), ("german", "rot")):
            new_page.get_by_label("Model").select_option(name)
            assert f"{address}/v1/models/{name}:predict" in new_page.inner_text("pre")
            new_page.set_input_files("#file", jpeg("red"))
            new_page.get_by_role("heading", name=heading, exact=True).wait_for()
        new_page.close()
