"""The page of a server whose images have several labels, in headless Chromium: chips, scores at their thresholds, maps."""

from collections.abc import Iterator

import pytest
from support import mixed_colours

from kfp_vision.serving import server

LABELS = ("red", "<b>green</b>", "blue " + "and a long name " * 5)
NAMED = {"red": LABELS[0], "green": LABELS[1], "blue": LABELS[2].strip()}


@pytest.fixture(scope="module")
def url(browser, tmp_path_factory) -> Iterator[str]:
    version = mixed_colours.write_version(tmp_path_factory.mktemp("repository") / "1", labels=LABELS)
    with server.run_server(version.folder.parent) as address:
        yield address


def choose(page, name: str) -> None:
    """Gives the page an image, and waits for the answer."""
    page.set_input_files("#file", {"name": f"{name}.png", "mimeType": "image/png", "buffer": mixed_colours.picture(name)})
    page.locator("article .scores").wait_for()


@pytest.mark.parametrize("name", ["violet", "purple", "white"])
def test_all_labels_of_an_image_are_chips_with_their_scores(page, name):
    choose(page, name)
    chips = [chip.rsplit(" ", 2) for chip in page.locator("article h2.chips span").all_inner_texts()]
    assert [label for label, _, _ in chips] == [NAMED[label] for label in mixed_colours.IMAGES[name][1]]
    shown = [float(score) for _, score, _ in chips]
    assert shown == pytest.approx([100 * score for score in mixed_colours.scores(name)], abs=2)


def test_an_image_without_labels_is_said_to_have_none(page):
    choose(page, "black")
    page.get_by_role("heading", name="None of the labels", exact=True).wait_for()
    assert page.locator("article .chips").count() == 0


def test_each_score_is_a_bar_with_a_mark_at_its_threshold(page):
    choose(page, "purple")
    places = page.locator("article .measured").evaluate_all(
        "all => all.map(place => { const [bar, mark] = [...place.children].map(one => one.getBoundingClientRect());"
        "const {left, width} = place.getBoundingClientRect();"
        "return [bar.width / width, (mark.left + mark.width / 2 - left) / width, place.firstChild.className]; })"
    )
    order = [2, 0, 1]  # blue, red, green
    probabilities = mixed_colours.probabilities("purple")
    assert [bar for bar, _, _ in places] == pytest.approx([probabilities[number] for number in order], abs=0.02)
    marks = [mixed_colours.THRESHOLDS[number] for number in order]
    assert [mark for _, mark, _ in places] == pytest.approx(marks, abs=0.02)
    assert [kind for _, _, kind in places] == ["below", "", "below"]
    numbers = page.locator("article .scores .number").all_inner_texts()
    assert [" ≥ " in number for number in numbers] == [False, True, False]
    assert numbers[0].endswith(" % < 97.0 %")
    assert "the threshold of the label" in page.locator("article .scores").inner_text()


def test_the_switches_of_the_maps_are_reached_by_keyboard(page):
    choose(page, "violet")
    switch = page.get_by_role("button", name="red", exact=True)
    for _ in range(20):
        page.keyboard.press("Tab")
        if switch.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    page.get_by_alt_text("What spoke for red in violet.png").wait_for()
    assert switch.get_attribute("aria-pressed") == "true"


def test_the_page_says_that_an_image_may_have_several(page):
    assert "Labels, of which an image may have several or none: red, <b>green</b>" in page.locator(".lede").inner_text()
