"""The server's page as a person meets it, in headless Chromium: a picture dropped, its name read."""

from collections.abc import Iterator

import pytest
from support import colour_model

from kfp_vision.serving import server

MILLISECONDS = 200_000  # in which a machine shows a page that has much else to do
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


@pytest.fixture(params=[(1100, "light"), (1100, "dark"), (390, "light")], ids=str)
def page(request, browser, url) -> Iterator:
    width, scheme = request.param
    opened = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    opened.set_default_timeout(MILLISECONDS)
    wrong: list[str] = []
    opened.on("request", lambda one: wrong.append(one.url) if not one.url.startswith((url, "blob:", "data:")) else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("dialog", lambda dialog: wrong.append(dialog.message))
    opened.on("console", lambda said: wrong.append(said.text) if said.type == "error" and "400" not in said.text else None)
    opened.goto(url)
    yield opened
    assert wrong == []
    assert opened.evaluate("document.documentElement.scrollWidth") <= width
    opened.close()


def jpeg(colour: str) -> dict:
    return {"name": f"{colour}.jpg", "mimeType": "image/jpeg", "buffer": colour_model.picture(colour)}


def test_a_chosen_picture_is_shown_with_its_name_and_scores(page):
    page.set_input_files("#file", jpeg("red"))
    page.get_by_role("heading", name="red", exact=True).wait_for()
    card = page.locator("article")
    assert card.locator("img").evaluate("image => image.complete && image.naturalWidth > 0")
    assert card.locator(".scores").inner_text().split("\n")[:2] == ["red", "100.0 %"]
    widths = card.locator("i").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width)")
    assert widths[0] > 20 * max(widths[1:])


def test_a_dropped_picture_is_named(page):
    page.evaluate(DROP, list(colour_model.picture("blue")))
    page.get_by_role("heading", name="blue", exact=True).wait_for()
    assert "dropped.jpg" in page.locator("article").inner_text()


def test_several_pictures_are_named_each(page):
    page.set_input_files("#file", [jpeg("red"), jpeg("blue"), jpeg("red")])
    page.locator("article .scores").nth(2).wait_for()
    assert sorted(page.locator("article h2").all_inner_texts()) == ["blue", "red", "red"]


def test_a_name_is_text_whatever_it_says(page):
    assert LABELS[1] in page.inner_text("body")
    page.set_input_files("#file", jpeg("green"))
    page.get_by_role("heading", name=LABELS[1]).wait_for()


def test_what_is_no_picture_is_refused_with_the_reason(page):
    page.set_input_files("#file", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.get_by_role("heading", name="No answer").wait_for()
    assert "not an image in a known format" in page.locator("article").inner_text()


def test_the_page_is_used_with_the_keyboard(page):
    choosers: list = []
    page.on(
        "filechooser", lambda chooser: choosers.append(chooser)
    )  # before the key, or Chromium may be asked to tell of it too late
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    page.keyboard.press("Space")
    for _ in range(MILLISECONDS // 100):
        if choosers:
            break
        page.wait_for_timeout(100)
    choosers[0].set_files(jpeg("blue"))
    page.get_by_role("heading", name="blue", exact=True).wait_for()


def test_the_line_for_programs_is_the_servers_address(page, url):
    assert f"curl -F file=@image.jpg {url}/v1/models/colours:predict" in page.inner_text("pre")


@pytest.fixture
def guarded(browser, tmp_path, monkeypatch) -> Iterator:
    """The page of a server that asks for a token, and what the browser's console says."""
    version = colour_model.write_version(tmp_path / "1", LABELS)
    monkeypatch.setenv("KFP_VISION_TOKEN", "the-token")
    with server.run_server(version.parent) as address:
        opened = browser.new_page()
        opened.set_default_timeout(MILLISECONDS)
        opened.goto(address)
        yield opened
        opened.close()


def test_the_page_asks_for_the_token(guarded):
    assert LABELS[0] not in guarded.inner_text(".lede")
    guarded.set_input_files("#file", jpeg("red"))
    guarded.get_by_role("heading", name="No answer").wait_for()
    assert "The server requires a token. Enter it above" in guarded.locator("article").inner_text()
    assert guarded.evaluate("document.activeElement.id") == "token"
    guarded.get_by_label("Token").fill("another")
    guarded.set_input_files("#file", jpeg("red"))
    guarded.get_by_text("The token is invalid.").wait_for()
    guarded.get_by_label("Token").fill("the-token")
    guarded.set_input_files("#file", jpeg("blue"))
    guarded.get_by_role("heading", name="blue", exact=True).wait_for()
    assert "the-token" not in guarded.content()


def test_the_page_asks_which_of_several_models(browser, tmp_path):
    for name, labels in (("english", tuple(colour_model.RGB)), ("german", ("rot", "gruen", "blau"))):
        colour_model.write_version(tmp_path / name / "1", labels)
    with server.run_server(tmp_path) as address:
        opened = browser.new_page()
        opened.set_default_timeout(MILLISECONDS)
        opened.goto(address)
        for name, heading in (("english", "red"), ("german", "rot")):
            opened.get_by_label("Model").select_option(name)
            assert f"{address}/v1/models/{name}:predict" in opened.inner_text("pre")
            opened.set_input_files("#file", jpeg("red"))
            opened.get_by_role("heading", name=heading, exact=True).wait_for()
        opened.close()
