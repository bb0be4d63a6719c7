"""From what a server met to data that is trained on: collected, chosen, labelled in Chromium, and read as labels_uri."""

import base64
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import requests
from support import colour_model, known_colours, model_servers

from kfp_vision.collection import collected
from kfp_vision.dataset import ingest
from kfp_vision.review import review

pytestmark = pytest.mark.slow

SECONDS = 300  # enough on a busy machine
MILLISECONDS = 1000 * SECONDS


def test_what_a_server_met_becomes_labelled_data(browser, tmp_path):
    version = known_colours.write_version(tmp_path / "repository" / "1")
    place = tmp_path / "collected"
    send_images(version, place, [colour_model.picture("red", "PNG"), known_colours.yellow(), known_colours.yellow()])

    outputs = {name: tmp_path / name for name in ("table", "tasks", "page")}
    counts = review.review_images(version, most=10, collected_uri=str(place), **outputs)
    assert counts == {"pictures": 3, "chosen": 1, "unreadable": 0}  # not the known one, and not the same twice

    label_in_browser(browser, outputs["table"], tmp_path, "yellow")

    photos = tmp_path / "photos"
    for colour in ("red", "green", "blue"):
        (photos / colour).mkdir(parents=True)
        for width in (30, 40):
            (photos / colour / f"{width}.png").write_bytes(colour_model.picture(colour, "PNG", (width, 30)))
    written = {"table": tmp_path / "images.csv", "page": tmp_path / "summary.html"}
    given = {"splits": 1, "labels_uri": str(tmp_path / "labels.csv")}
    found = ingest.ingest_images(str(photos), check_images=True, **given, **written)
    assert found.classes == {"blue": 2, "green": 2, "red": 2, "yellow": 1}
    (added,) = (Path(row.uri) for row in found.rows if row.label == "yellow")
    assert added.is_relative_to(place) and added.read_bytes() == known_colours.yellow()


def send_images(version, place, images) -> None:
    """Has a server answer for images while it collects all of them, and ends it."""
    port = model_servers.free_port()
    command = [sys.executable, "-m", "kfp_vision.cli", "serve", str(version.folder.parent), "--port", str(port)]
    options = ["--collect", str(place), "--collect-share", "1", "--collect-images"]
    url = f"http://127.0.0.1:{port}"
    with model_servers.ended(subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL)) as process:
        model_servers.until(lambda: process.poll() is not None or is_ready(url))
        instances = [{"b64": base64.b64encode(image).decode()} for image in images]
        answer = requests.post(f"{url}/v1/models/colours:predict", json={"instances": instances}, timeout=SECONDS)
        assert answer.ok, answer.text
        process.send_signal(signal.SIGTERM)
        process.wait(SECONDS)
    assert len(list(collected.read_collected(str(place), only_with_image=True))) == len(images)


def is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/v2/health/ready", timeout=SECONDS).ok
    except requests.ConnectionError:
        return False


def label_in_browser(browser, table: Path, folder: Path, label: str) -> None:
    """Types a label for the only image of a table on the page of `kfp-vision review`."""
    command = [sys.executable, "-m", "kfp_vision.cli", "review", str(table), "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment) as process:
        page = browser.new_page()
        page.set_default_timeout(MILLISECONDS)
        page.goto(process.stdout.readline().split()[2])
        page.wait_for_function("document.getElementById('image').naturalWidth > 0")
        assert sorted(page.locator("#choices bdi").all_inner_texts()) == sorted(colour_model.RGB)
        page.get_by_label("Another label").fill(label)
        page.keyboard.press("Enter")
        page.get_by_text("All images are labelled.").wait_for()
        page.wait_for_function("busy.then(() => true)")
        page.close()
        process.terminate()
