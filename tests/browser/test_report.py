"""The pages of the stages in headless Chromium: no network requests, and no overflow on a phone."""

from pathlib import Path

import numpy as np
import pytest

from kfp_vision.dataset import label_map, scan
from kfp_vision.dataset.table import SPLITS, write_table
from kfp_vision.engines.cropping import Window
from kfp_vision.prediction import overlay
from kfp_vision.prediction.classifier import Prediction
from kfp_vision.prediction.explanation import Explanation
from kfp_vision.records import convert
from kfp_vision.reports import pages, thumbnails
from kfp_vision.storage import sample

LABELS = ["bellcup", "globelet", "<script>alert(1)</script>"]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "report.html"
    per_class = [{"label": label, "precision": 0.9, "recall": 0.8, "f1": 0.85, "images": 10} for label in LABELS]
    figures = {"model_name": "flowers", "network": "inception_v1", "split": "test", "images": 30, "accuracy": 0.8667}
    figures |= {"macro_precision": 0.87, "macro_recall": 0.86, "macro_f1": 0.865, "labels": LABELS, "per_class": per_class}
    figures["confusion_matrix"] = [[8, 2, 0], [1, 9, 0], [0, 1, 9]]
    figures["roc"] = {"false_positive_rate": [0, 0.1, 1], "true_positive_rate": [0, 0.9, 1], "area": 0.9}
    figures |= {"verdict": {"accepted": True, "reasons": ["above 0.8"]}, "test_picture": None}
    figures["largest_class"] = {"label": LABELS[0], "share": 0.3333, "p_value": 1e-9, "verdict": "beaten"}
    figures |= {"deployed": None, "before_temperature": None, "accuracy_interval": [0.7, 0.95], "top_5_accuracy": 1.0}
    rows = [{"label": label, "auroc": 0.91, "false_positives": 0.3, "images": 10} for label in LABELS]
    figures["unknown"] = {"images": 30, "kept": 0.95, "auroc": 0.91, "false_positives": 0.3, "classes": rows}
    figures |= {"weighted_precision": 0.87, "weighted_recall": 0.8667, "weighted_f1": 0.865}
    bins = [{"low": 0.6, "high": 0.66, "images": 9, "score": 0.63, "accuracy": 0.5}]
    bins += [{"low": 0.93, "high": 1.0, "images": 21, "score": 0.97, "accuracy": 0.95}]
    figures["calibration"] = {"expected_calibration_error": 0.05, "bins": bins}
    sizes = [{"low": side, "high": 2 * side - 1, "images": 15, "accuracy": 0.8} for side in (256, 512)]
    pair = {"label": "bellcup", "prediction": "globelet", "images": 2, "share": 0.2}
    figures |= {"by_size": sizes, "confused_pairs": [pair]}
    history = [{"step": s, "loss": 1 / s, "accuracy": 0.5, "learning_rate": 0.1, "images_per_second": 9.0} for s in (1, 2, 3)]
    mistaken = thumbnails.EncodedImage("bellcup/0001.jpg", sample.draw("bellcup/0001.jpg"))
    seen = Explanation(Prediction("globelet", 1, [0.0, 1.0]), (240, 320), Window(15, 20, 210, 280), [1], np.eye(7)[None])
    (laid_over,) = overlay.lay_over(mistaken.encoded, seen, thumbnails.THUMBNAIL_SIDE)
    mistakes = [pages.Mistake(mistaken, "bellcup", "globelet", 0.97, laid_over)]
    pages.write_evaluation_page(
        path, title="flowers", evaluation=figures, top=5, history=history, mistakes=mistakes, pairs=[(pair, mistakes)]
    )
    return path


@pytest.fixture(scope="module")
def summary(tmp_path_factory) -> Path:
    """Writes the page of the records of two classes, one named with markup, with all kinds of findings."""
    root = tmp_path_factory.mktemp("records")
    for name, label in (("bellcup", LABELS[0]), ("globelet", "<script>alert(1)<")):
        (root / "photos" / label).mkdir(parents=True)
        for number in range(1, 8):
            (root / "photos" / label / f"{number}.jpg").write_bytes(sample.draw(f"{name}/{number:04}.jpg"))
        (root / "photos" / label / "a long name of a picture, which no line of a telephone can hold, and then some.jpg").touch()
    rows = scan.scan_images(str(root / "photos")).rows
    tables = {split: root / f"{split}.csv" for split in SPLITS}
    for split, table in tables.items():
        write_table(table, rows if split == "train" else [])
    label_map.write_labels(root, sorted({row.label for row in rows}))
    outputs = {split: root / split for split in tables}
    limits = {"images_per_shard": 100, "max_refused_ratio": 1.0, "summary": root / "summary.html"}
    convert.write_tfrecords(tables, root, outputs, root / "refused.csv", **limits)
    return root / "summary.html"


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (390, "light")])
def test_the_summary_page_has_no_script_errors_and_no_network_requests(browser, summary, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(summary.as_uri())
    assert "2 of 16 images (12.5\xa0%) are rejected." in page.inner_text("body")
    assert page.locator("h3", has_text="<script>alert(1)<").count() == 1
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [True] * 12
    bars = "[...document.querySelectorAll('svg')].map(one => one.getBoundingClientRect()).every(box => box.width > 200)"
    assert page.evaluate(bars)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert errors == []
    page.close()


@pytest.mark.parametrize(("width", "scheme"), [(1100, "light"), (1100, "dark"), (390, "light")])
def test_the_evaluation_page_has_no_script_errors_and_no_network_requests(browser, report, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(report.as_uri())
    assert "86.7 %" in page.inner_text("body")
    assert "<script>alert(1)</script>" in page.inner_text("body")
    # The one mistake is shown twice, in the gallery and with its pair of classes, each time with its map.
    assert page.evaluate("[...document.images].map(image => image.naturalWidth > 0)") == [True] * 4
    maps, images = (page.locator(f".gallery img[alt^='{start}']").bounding_box() for start in ("What spoke for", "bellcup"))
    assert (maps["y"], maps["width"]) == pytest.approx((images["y"], images["width"]), abs=1)  # beside each other
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert errors == []
    page.close()


def test_dark_and_light_colours_differ(browser, report):
    colours = set()
    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto(report.as_uri())
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor + getComputedStyle(document.body).color"))
        page.close()
    assert len(colours) == 2


def test_the_labelling_interface_on_the_page_of_a_review_scrolls_by_itself_on_a_phone(browser, tmp_path):
    interface = '<Choices name="label" toName="image" choice="single" showInline="true" required="true">'
    counts = {"pictures": 1, "chosen": 1, "unreadable": 0}
    pages.write_review_page(tmp_path / "page.html", counts=counts, chosen=[], model="flowers", interface=interface)
    page = browser.new_page(viewport={"width": 390, "height": 900})
    page.goto((tmp_path / "page.html").as_uri())
    assert interface in page.inner_text("pre")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
