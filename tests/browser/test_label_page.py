"""The page of `kfp-vision review`, in headless Chromium: keys, fingers, undo, and a list that is saved with every answer."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import chromium, model_servers, sample_images

pytestmark = pytest.mark.slow

CLASSES = "bellcup,globelet,starlet"
IMAGES = 4


@pytest.fixture
def photos(tmp_path) -> Path:
    return sample_images.pictures(tmp_path / "photos", classes=1, each=IMAGES) / "bellcup"


@pytest.fixture
def options() -> list[str]:
    return ["--classes", CLASSES]


@pytest.fixture
def url(browser, photos, tmp_path, options) -> Iterator[str]:
    command = [sys.executable, "-m", "kfp_vision.cli", "review", str(photos), "--port", "0", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with model_servers.ended(
        subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
    ) as process:
        yield process.stdout.readline().split()[2]


def saved(page, tmp_path, count) -> list[str]:
    """Returns the lines of the list once it has so many answers, by the names of the files."""
    page.evaluate("busy")  # all answers are saved
    lines = (tmp_path / "labels.csv").read_text().splitlines()
    assert lines[0] == "path,label" and len(lines) == count + 1
    return [line.rpartition("/")[2] for line in lines[1:]]


def progress(page) -> str:
    return page.locator("#count").inner_text()


def test_keys_label_skip_and_take_back(page, tmp_path):
    chromium.wait_until(page, chromium.SHOWS_IMAGE)
    assert page.locator("#choices button").all_inner_texts() != []
    page.keyboard.press("2")
    assert saved(page, tmp_path, 1) == ["0001.jpg,globelet"]
    page.keyboard.press("0")
    assert saved(page, tmp_path, 2)[1] == "0002.jpg,?"
    page.keyboard.press("u")
    assert saved(page, tmp_path, 1) == ["0001.jpg,globelet"]
    assert page.locator("#file").inner_text() == "0002.jpg"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("3")
    page.keyboard.press("1")
    assert saved(page, tmp_path, 3) == ["0001.jpg,globelet", "0003.jpg,starlet", "0004.jpg,bellcup"]
    assert "The end; 1 was skipped." in page.locator("#note").inner_text()
    assert "add -p labels_uri=labels.csv to" in page.locator("#note").inner_text()
    assert progress(page) == f"3 of {IMAGES} labelled"
    page.get_by_role("button", name="Show what was skipped").click()
    assert page.locator("#file").inner_text() == "0002.jpg"
    page.reload()
    assert page.locator("#file").inner_text() == "0002.jpg"  # where the first label lacks
    page.keyboard.press("1")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#choices button[aria-pressed=true] bdi").inner_text() == "bellcup"


def test_fingers_label_and_other_classes_can_be_typed(page, tmp_path):
    heights = page.locator("#choices button, #tools button:visible").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect().height)"
    )
    assert min(heights) >= 44  # CSS pixels: WCAG 2.2, success criterion 2.5.5
    page.get_by_role("button", name="starlet").click()
    page.get_by_label("Another label").fill("<b>new</b>")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="<b>new</b>").click()
    page.get_by_role("button", name="Not sure").click()
    saved(page, tmp_path, 4)
    labels = [line.partition(",")[2] for line in (tmp_path / "labels.csv").read_text().splitlines()[1:]]
    assert labels == ["starlet", "<b>new</b>", "<b>new</b>", "?"]
    page.get_by_text("All images are labelled.").wait_for()
    assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")


class TestSeveral:
    @pytest.fixture
    def options(self) -> list[str]:
        return ["--classes", CLASSES, "--several"]

    def test_any_number_of_labels_is_saved_with_enter(self, page, tmp_path):
        page.keyboard.press("3")
        page.keyboard.press("1")
        assert page.locator("#choices button[aria-pressed=true]").count() == 2
        page.keyboard.press("Enter")
        page.keyboard.press("Enter")
        assert [line.partition(",")[2] for line in saved(page, tmp_path, 2)] == ["starlet|bellcup", "[]"]
        page.reload()
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert page.locator("#choices button[aria-pressed=true]").count() == 2


class TestSuggestions:
    @pytest.fixture
    def photos(self, tmp_path) -> Path:
        folder = sample_images.pictures(tmp_path / "photos", classes=1, each=1) / "bellcup"
        many = "|".join(f"class{number:02}" for number in range(12, 3, -1))
        (tmp_path / "chosen.csv").write_text(f"path,label,suggested\n{folder}/0001.jpg,,{many}\n{folder}/gone.jpg,,class99\n")
        return tmp_path / "chosen.csv"

    @pytest.fixture
    def tolerated(self) -> str:
        return "415"

    def test_the_likely_classes_have_keys_if_there_are_many(self, page, tmp_path):
        assert page.locator("#choices bdi").all_inner_texts() == [f"class{number:02}" for number in range(12, 3, -1)]
        page.keyboard.press("1")
        assert saved(page, tmp_path, 1) == ["0001.jpg,class12"]
        page.get_by_text("This image cannot be shown.").wait_for()
        assert page.locator(".best small").inner_text() == "suggested"


def test_what_is_not_saved_is_told(browser, url, tmp_path):
    page = browser.new_page()
    page.goto(url)
    page.route("**/labels/*", lambda route: route.abort())
    page.keyboard.press("1")
    page.get_by_text("Not saved: 0001.jpg").wait_for()
    assert progress(page) == f"0 of {IMAGES} labelled"
    assert not (tmp_path / "labels.csv").exists()
    page.close()


def test_an_image_that_comes_late_does_not_hide_the_end(browser, url):
    page = browser.new_page()
    held = []
    page.route("**/images/*", lambda route: held.append(route))
    page.goto(url, wait_until="commit")
    page.locator("#choices button").first.wait_for()
    for _ in range(IMAGES):
        page.keyboard.press("1")
    page.get_by_text("All images are labelled.").wait_for()
    for route in held:
        route.continue_()
    chromium.wait_until(page, chromium.SHOWS_IMAGE)
    assert page.get_by_text("All images are labelled.").is_visible()
    page.close()


def test_the_page_has_a_key(browser, url):
    page = browser.new_page()
    key = url.rstrip("/").rpartition("/")[2]
    assert len(key) >= 20
    assert page.goto(url.replace(key, "other")).status == 404
    answers = ({"labels": []}, {"labels": ["a", "b"]}, {"labels": [" "]}, {"labels": "a"}, {"other": 1})
    assert {page.request.post(f"{url}labels/0", data=answer).status for answer in answers} == {400}
    assert page.request.post(f"{url}labels/99", data={"labels": ["a"]}).status == 400
    page.close()
