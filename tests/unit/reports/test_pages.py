"""The pages show any content of the caller, escaped, and load nothing from outside."""

import base64
import io
import math
import re
import resource
import struct
import zlib
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kfp_vision.dataset.ingest import preview
from kfp_vision.reports import formatting
from kfp_vision.reports.charts import Histogram
from kfp_vision.reports.pages import Mistake, write_evaluation_page, write_records_page, write_summary_page, write_training_page
from kfp_vision.reports.thumbnails import EncodedImage, thumbnail

ODD_LABELS = ["<script>alert(1)</script>", '"quoted" onload="alert(1)"', "a & b $x^2$", "向日葵", "البابونج", "x\x01y"]
FILE_NAME = "\"><img src=x onerror='alert(1)'>.jpg"
VOID = {"meta", "img"}


class Page(HTMLParser):
    """A parsed page: its elements and texts in order, and the elements still open."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("th", "td", "text"):  # cells and chart labels are separate words
            self.texts.append(("", " "))

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self) -> str:
        return " ".join("".join(data for tag, data in self.texts if tag != "style").split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def assert_self_contained(path: Path) -> None:
    page = Page(path)
    assert page.open == []
    assert not {"script", "iframe", "object", "embed", "link", "base", "form", "a"} & {tag for tag, _ in page.elements}
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "poster"):
            assert name not in attributes or re.match(r"data:image/(jpeg|png);base64,|#", attributes[name])
    style = "".join(data for tag, data in page.texts if tag == "style")
    assert "url(" not in style and "@import" not in style
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r"url\(#(\w+)\)", path.read_text())) <= set(ids)


def picture(
    name: str = "one.jpg", *, width: int = 320, height: int = 240, kind: str = "JPEG", mode: str = "RGB", seed: int = 0
) -> EncodedImage:
    """Returns noise, the image that compresses worst."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 4), np.uint8)
    image = Image.fromarray(noise, "RGBA").convert("RGB").convert(mode) if mode != "RGBA" else Image.fromarray(noise)
    encoded = io.BytesIO()
    image.save(encoded, kind)
    return EncodedImage(name, encoded.getvalue())


def history(rows: int = 4) -> list[dict[str, float]]:
    """Returns rows 10 steps apart, every other one with validation values."""
    trained = [
        {"step": 10.0 * n, "loss": 2 / n, "accuracy": 1 - 0.5 / n, "learning_rate": 0.01 / n, "images_per_second": 400.0 + n}
        for n in range(1, rows + 1)
    ]
    for n, row in enumerate(trained, 1):
        if n % 2 == 0:
            row |= {"validation_loss": 2.5 / n, "validation_accuracy": 1 - 0.6 / n}
    return trained


BINS = [
    {"low": 0.4, "high": 0.46, "images": 34, "score": 0.43, "accuracy": 0.3},
    {"low": 0.93, "high": 1, "images": 1200, "score": 0.97, "accuracy": 0.93},
]


def evaluation(labels: list[str], matrix: list[list[int]] | None = None, **changed: object) -> dict:
    """Returns an evaluation with invented metrics, all different."""
    matrix = matrix or [[40 if i == j else (i + j) % 3 for j in range(len(labels))] for i in range(len(labels))]
    per_class = [
        {"label": label, "precision": 0.811 + n / 1000, "recall": 0.611 + n / 1000, "f1": 0.711 + n / 1000, "images": 4321 + n}
        for n, label in enumerate(labels)
    ]
    return {
        "model_name": "flowers", "network": "inception_v3", "split": "test", "images": 1234, "accuracy": 0.9137,
        "macro_precision": 0.9012, "macro_recall": 0.8923, "macro_f1": 0.8834, "labels": labels, "confusion_matrix": matrix,
        "per_class": per_class, "verdict": {"accepted": True, "reasons": ["accuracy 0.9137 reaches 0.85"]},
        "largest_class": {"label": labels[0], "share": 0.2876, "p_value": 1e-9, "verdict": "beaten"},
        "before_temperature": None, "unknown": None, "test_picture": None, "deployed": None,
        "accuracy_interval": [0.8987, 0.9287], "top_5_accuracy": 0.9876,
        "weighted_precision": 0.9045, "weighted_recall": 0.9137, "weighted_f1": 0.8856, "confused_pairs": [],
        "calibration": {"expected_calibration_error": 0.0321, "bins": BINS},
        "by_size": [
            {"low": 64, "high": 127, "images": 34, "accuracy": 0.7654},
            {"low": 256, "high": 511, "images": 1200, "accuracy": 0.92},
        ],
        "roc": {"false_positive_rate": [0.0, 0.1, 1.0], "true_positive_rate": [0.0, 0.9, 1.0], "area": 0.9765},
    } | changed  # fmt: skip


def write_summary(path: Path, labels: list[str], images: list[EncodedImage]) -> None:
    write_summary_page(
        path,
        source=f"gs://bucket/{labels[0]}",
        classes={label: 1200 + n for n, label in enumerate(labels)},
        total_bytes=123_456_789,
        skipped={f"no picture: {labels[0]}": 17},
        skipped_names={f"no picture: {labels[0]}": [f"{label}/notes.txt" for label in labels]},
        notes=[f"{labels[0]} is rare."],
        samples={label: [preview(image) for image in images] for label in labels},
    )


def write_records(path: Path, labels: list[str], images: list[EncodedImage], **changed: object) -> None:
    sizes = Histogram("Longer side", [64, 128, 256, 512, 1024], [0, 7, 0, 4321], {128: "128", 512: "512"}, labels[0], mark=224)
    shapes = Histogram("Shape", [0.5, 0.8, 1.25, 2], [1, 2, 3], {1: "1:1"}, "About square.")
    content = {
        "classes": {label: {"train": 1100 + n, "validation": 200, "test": 0} for n, label in enumerate(labels)},
        "total_bytes": 123_456_789, "findings": [(f"{labels[0]} is rare.", f"Add to {labels[1]}.")],
        "sizes": sizes, "shapes": shapes, "samples": {label: [thumbnail(image) for image in images] for label in labels},
        "reencoded": {f"GIF {labels[0]}": 17}, "duplicates": 12, "duplicate_pairs": [(FILE_NAME, f"{labels[1]}.jpg")],
        "excluded": [(f"/photos/{labels[0]}/1.jpg", labels[0], f"under {labels[0]} and {labels[1]}")],
        "rejected": [(f"/photos/{labels[1]}/{FILE_NAME}", labels[1], "cut off")],
    }  # fmt: skip
    write_records_page(path, **(content | changed))


def write_evaluation(path: Path, labels: list[str], images: list[EncodedImage], **changed: object) -> None:
    write_evaluation_page(
        path,
        title=f"About {labels[0]}",
        evaluation=evaluation(labels, **changed),
        top=5,
        history=history(),
        mistakes=(mistakes := [Mistake(shown, labels[0], labels[1], 0.97) for shown in images]),
        pairs=[({"label": labels[0], "prediction": labels[1], "images": 4567, "share": 0.2345}, mistakes)] if mistakes else [],
    )


def test_labels_and_names_are_escaped(tmp_path):
    shown = [picture(FILE_NAME)]
    write_summary(tmp_path / "summary.html", ODD_LABELS, shown)
    settings = {ODD_LABELS[1]: ODD_LABELS[0]}
    write_training_page(tmp_path / "training.html", network=ODD_LABELS[0], settings=settings, history=history())
    odd = {
        "model_name": ODD_LABELS[0], "verdict": {"accepted": False, "reasons": ODD_LABELS},
        "test_picture": {"uri": ODD_LABELS[0], "prediction": ODD_LABELS[1], "score": 0.5},
    }  # fmt: skip
    write_evaluation(tmp_path / "evaluation.html", ODD_LABELS, shown, **odd)
    write_records(tmp_path / "records.html", ODD_LABELS, shown)
    for name in ("summary", "training", "evaluation", "records"):
        assert_self_contained(tmp_path / f"{name}.html")
        assert "<script>alert(1)</script>" in Page(tmp_path / f"{name}.html").text
    for label in ODD_LABELS:
        assert label in Page(tmp_path / "summary.html").text
        assert label in Page(tmp_path / "records.html").text
        assert label in Page(tmp_path / "evaluation.html").text
    assert FILE_NAME in Page(tmp_path / "evaluation.html").text


def test_labels_are_in_the_confusion_matrix(tmp_path):
    labels = ["a & b $x^2$", "向日葵", "a name that is much too long for it"]
    write_evaluation(tmp_path / "page.html", labels, [])
    chart_texts = [data for tag, data in Page(tmp_path / "page.html").texts if tag == "text"]
    for label in ("a & b $x^2$", "向日葵", "a name that is mu…"):
        assert chart_texts.count(label) == 2  # a row and a column


@pytest.mark.parametrize("name", [b"caf\xe9.jpg".decode("utf-8", "surrogateescape"), "雛菊.jpg"])
def test_any_file_name_is_written(tmp_path, name):
    write_summary(tmp_path / "page.html", ["daisy", "rose"], [picture(name)])
    assert_self_contained(tmp_path / "page.html")


def test_same_input_gives_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_summary(tmp_path / name / "summary.html", ODD_LABELS, [picture()])
        write_training_page(tmp_path / name / "training.html", network="inception_v1", settings={"a": 1}, history=history())
        write_evaluation(tmp_path / name / "evaluation.html", ODD_LABELS, [picture()])
        write_records(tmp_path / name / "records.html", ODD_LABELS, [picture()])
    for page in ("summary.html", "training.html", "evaluation.html", "records.html"):
        assert (tmp_path / "one" / page).read_bytes() == (tmp_path / "two" / page).read_bytes()


def test_a_page_replaces_an_existing_one_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "page.html"
    path.write_text("before")
    write_summary(path, ["daisy", "rose"], [])
    assert path.read_text().startswith("<!DOCTYPE html>")
    assert list(tmp_path.iterdir()) == [path]


def test_summary_shows_the_callers_values(tmp_path):
    write_summary(tmp_path / "page.html", ["daisy", "rose"], [picture("first.jpg"), picture("second.jpg")])
    page = Page(tmp_path / "page.html")
    for expected in (
        "2,401 images in 2 classes, 123.5 MB", "daisy 1,200 50.0 %", "rose 1,201", "daisy is rare.",
        "no picture: daisy the first 2 names daisy/notes.txt rose/notes.txt 17",
    ):  # fmt: skip
        assert expected in page.text
    assert [image["alt"] for image in page.named("img")][:2] == ["daisy, first.jpg", "daisy, second.jpg"]


def test_training_shows_the_callers_values(tmp_path):
    settings = {"batch_size": 32, "learning_rate": 0.0125, "warm_start": True, "layers": ["a", "b"], "weights": None}
    write_training_page(tmp_path / "page.html", network="inception_v3", settings=settings, history=history())
    page = Page(tmp_path / "page.html")
    for expected in (
        "Training of inception_v3", "batch_size 32", "learning_rate 0.0125", "warm_start yes", "layers a, b", "weights none",
        "85.0 % of the validation images", "training 0.5, validation 0.625", "training 87.5 %, validation 85.0 %",
        "At the end: 404.",
    ):  # fmt: skip
        assert expected in page.text
    assert len(page.named("svg")) == 4


def test_training_shows_the_best_and_the_last_validation(tmp_path):
    rows = [{"step": 10, "validation_accuracy": 0.9}, {"step": 20, "validation_accuracy": 0.8}]
    write_training_page(tmp_path / "page.html", network="n", settings={}, history=rows)
    text = Page(tmp_path / "page.html").text
    assert "80.0 % of the validation images are classified correctly at step 20." in text
    assert "The best was 90.0 % at step 10." in text


def test_fast_trainings_are_drawn_without_exponents(tmp_path):
    rows = [row | {"images_per_second": 30_020.4 + row["step"]} for row in history()]
    write_training_page(tmp_path / "page.html", network="n", settings={}, history=rows)
    text = Page(tmp_path / "page.html").text
    assert "At the end: 30,060." in text and "e+0" not in text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (0.0042, "0.0042"), (400.43, "400.4"), (9999.6, "10,000"), (-2e4, "-20,000"), (1e9, "1e+09"), (math.inf, "inf")],
)
def test_short_numbers_have_an_exponent_only_where_they_are_very_large_or_small(number, text):
    assert formatting.short(number) == text


def test_training_shows_long_waits_for_input(tmp_path):
    waits = [0.0, 0.432, 0.2, 0.1]
    rows = [row | {"input_wait": wait} for row, wait in zip(history(), waits, strict=True)]
    write_training_page(tmp_path / "page.html", network="n", settings={}, history=rows)
    page = Page(tmp_path / "page.html")
    assert "In 2 of 4 measurements the network waited" in page.text and "at most 43.2 % before step 20." in page.text
    assert "Waiting for input" in page.text and len(page.named("svg")) == 5
    write_training_page(tmp_path / "page.html", network="n", settings={}, history=[row | {"input_wait": 0.1} for row in rows])
    page = Page(tmp_path / "page.html")
    assert "aited for" not in page.text and len(page.named("svg")) == 4


def test_evaluation_shows_the_callers_values(tmp_path):
    test_image = {"uri": "gs://bucket/one.jpg", "prediction": "rose", "score": 0.876}
    matrix = [[501, 7], [11, 602]]
    write_evaluation(tmp_path / "page.html", ["daisy", "rose"], [picture("wrong.jpg")], matrix=matrix, test_picture=test_image)
    page = Page(tmp_path / "page.html")
    for expected in (
        "91.4 % of 1,234 test images", "Accepted: accuracy 0.9137 reaches 0.85", "90.1 %", "89.2 %", "88.3 %", "0.977",
        "daisy 81.1 % 61.1 % 71.1 % 4,321", "rose 81.2 % 61.2 % 71.2 % 4,322",
        "gs://bucket/one.jpg is classified as rose (88 %)", "daisy predicted as rose (97 %)", "wrong.jpg", "89.9 % to 92.9 %",
        "daisy predicted as rose: 4,567, 23.4 % of the class",
        "Mean over images (weighted) 90.5 % 91.4 % 88.6 % 1,234", "differ by 3.2 %", "overconfident",
        "Always predicting daisy", "28.8 %", "64 to 127 76.5 % 34", "256 to 511 92.0 % 1,200",
        "rose predicted as daisy (11), daisy predicted as rose (7)",
    ):  # fmt: skip
        assert expected in page.text
    chart_texts = [data for tag, data in page.texts if tag == "text"]
    assert {"501", "7", "11", "602"} <= set(chart_texts)
    assert len(page.named("svg")) == 5
    assert "Top-5" not in page.text  # with two classes it is always 100 %


def test_more_than_five_classes_have_a_top_5_accuracy(tmp_path):
    write_evaluation(tmp_path / "page.html", [f"breed {number}" for number in range(6)], [])
    text = Page(tmp_path / "page.html").text
    assert "Top-5 accuracy" in text and "98.8 %" in text


def test_a_rejection_shows_its_reasons(tmp_path):
    verdict = {"accepted": False, "reasons": ["accuracy is below 0.85", "the model in service is better"]}
    write_evaluation(tmp_path / "page.html", ["daisy", "rose"], [], verdict=verdict)
    assert "Rejected: accuracy is below 0.85 the model in service is better" in Page(tmp_path / "page.html").text


def test_classes_keep_the_order_of_the_labels(tmp_path):
    labels = ["zinnia", "aster", "rose"]
    record = evaluation(labels)
    record["per_class"].reverse()
    write_evaluation_page(tmp_path / "page.html", title="t", evaluation=record, top=5, history=[], mistakes=[], pairs=[])
    text = Page(tmp_path / "page.html").text
    text = text[text.index("Metrics per class") :]
    assert text.index("zinnia") < text.index("aster") < text.index("rose")


def test_most_confident_mistake_comes_first(tmp_path):
    scores = {"some.jpg": 0.6, "unknown.jpg": math.nan, "most.jpg": 0.99, "less.jpg": 0.4}
    mistakes = [Mistake(picture(name), "daisy", "rose", score) for name, score in scores.items()]
    record = evaluation(["daisy", "rose"])
    write_evaluation_page(tmp_path / "page.html", title="t", evaluation=record, top=5, history=[], mistakes=mistakes, pairs=[])
    page = Page(tmp_path / "page.html")
    assert [image["title"] for image in page.named("img")] == ["most.jpg", "some.jpg", "less.jpg", "unknown.jpg"]
    assert "often label issues" in page.text


def test_without_mistakes_the_page_says_so(tmp_path):
    write_evaluation(tmp_path / "page.html", ["daisy", "rose"], [], matrix=[[3, 0], [0, 4]])
    page = Page(tmp_path / "page.html")
    assert "every image was classified correctly" in page.text
    assert "No classes are confused." in page.text


@pytest.mark.parametrize("encoded", [b"", b"no picture", picture().encoded[:200], picture(kind="PNG").encoded[:90]])
def test_an_unreadable_image_gets_a_placeholder(tmp_path, encoded):
    shown = [EncodedImage("broken.jpg", encoded), picture("whole.jpg")]
    write_summary(tmp_path / "summary.html", ["daisy", "rose"], shown)
    write_evaluation(tmp_path / "evaluation.html", ["daisy", "rose"], shown)
    for name in ("summary", "evaluation"):
        page = Page(tmp_path / f"{name}.html")
        assert "broken.jpg cannot be read" in page.text
        assert "whole.jpg" in {image["title"] for image in page.named("img")}


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "RGBA"), ("PNG", "P"), ("PNG", "1"), ("PNG", "L")]
)
def test_images_of_any_mode_become_rgb_jpeg_thumbnails(tmp_path, kind, mode):
    write_summary(tmp_path / "page.html", ["daisy"], [picture(width=450, height=300, kind=kind, mode=mode)])
    (image,) = Page(tmp_path / "page.html").named("img")
    thumbnail = Image.open(io.BytesIO(base64.b64decode(image["src"].removeprefix("data:image/jpeg;base64,"))))
    assert (thumbnail.format, thumbnail.mode, thumbnail.size) == ("JPEG", "RGB", (200, 133))
    assert (image["width"], image["height"]) == ("200", "133")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "BMP", "TIFF"])
def test_images_that_will_be_re_encoded_are_shown(tmp_path, kind):
    write_summary(tmp_path / "page.html", ["daisy"], [picture(kind=kind)])
    (image,) = Page(tmp_path / "page.html").named("img")
    assert (image["width"], image["height"]) == ("200", "150")


def test_a_rotated_image_is_shown_upright(tmp_path):
    turned, content = Image.Exif(), io.BytesIO()
    turned[0x0112] = 6  # orientation: EXIF 2.3, section 4.6.4
    Image.new("RGB", (90, 60)).save(content, "JPEG", exif=turned)
    write_summary(tmp_path / "page.html", ["daisy"], [EncodedImage("one.jpg", content.getvalue())])
    (image,) = Page(tmp_path / "page.html").named("img")
    assert (image["width"], image["height"]) == ("60", "90")


def test_an_image_of_too_many_pixels_is_not_decoded(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    side = 20_000  # pixels of one bit, all black
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (1 + side // 8)), 1)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    write_summary(tmp_path / "page.html", ["daisy"], [EncodedImage("bomb.png", bomb)])
    assert "bomb.png cannot be read" in Page(tmp_path / "page.html").text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - largest < 200_000  # KiB; its pixels would take 400 MB


def test_48_thumbnails_of_noise_stay_below_1200_kb(tmp_path):
    busy = [picture(width=400, height=400, seed=seed) for seed in range(24)]
    write_evaluation(tmp_path / "page.html", ["daisy", "rose"], busy)
    assert len(Page(tmp_path / "page.html").named("img")) == 48  # alone, and with the pair of classes
    assert (tmp_path / "page.html").stat().st_size < 1_200_000


def test_one_row_of_history_makes_a_page(tmp_path):
    write_training_page(tmp_path / "page.html", network="inception_v1", settings={}, history=history(1))
    page = Page(tmp_path / "page.html")
    assert "Trained to step 10, without validation." in page.text
    assert [data for tag, data in page.texts if tag == "text"].count("10") == 4  # once below each chart


def test_no_history_makes_a_page(tmp_path):
    write_training_page(tmp_path / "page.html", network="inception_v1", settings={}, history=[])
    assert "Nothing has been recorded yet." in Page(tmp_path / "page.html").text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, np.float32("nan")])
@pytest.mark.parametrize("rows", [1, 4])
def test_values_that_are_not_finite_leave_a_gap(tmp_path, value, rows):
    broken = [row | dict.fromkeys(row.keys() - {"step"}, value) for row in history(rows)]
    write_training_page(tmp_path / "all.html", network="n", settings={"momentum": value}, history=broken)
    assert Page(tmp_path / "all.html").text.count("No values to draw.") == 4
    write_training_page(tmp_path / "some.html", network="n", settings={}, history=history(4) + broken)
    page = Page(tmp_path / "some.html")
    assert "training 0.5, validation 0.625" in page.text
    assert "The training diverged" in page.text  # null is what a file of JSON has for them
    assert not re.search(r"\b(nan|inf)\b", " ".join(str(a.get("d", "")) for _, a in page.elements))


def test_metrics_that_are_not_finite_make_a_page(tmp_path):
    nothing = {"false_positive_rate": [math.nan, math.nan], "true_positive_rate": [0.0, 1.0], "area": math.nan}
    mistakes = [Mistake(picture(), "daisy", "rose", math.nan)]
    record = evaluation(["daisy", "rose"], [[0, 0], [0, 0]], roc=nothing, accuracy=math.nan, macro_f1=math.nan)
    write_evaluation_page(
        tmp_path / "page.html", title="t", evaluation=record, top=5, history=history(), mistakes=mistakes, pairs=[]
    )
    assert "There are no points to draw." in Page(tmp_path / "page.html").text


@pytest.mark.parametrize(
    ("classes", "counted", "named"), [(2, True, True), (30, True, True), (31, False, True), (61, False, False)]
)
def test_confusion_matrix_shows_labels_and_counts_where_they_fit(tmp_path, classes, counted, named):
    labels = [f"breed {n}" for n in range(classes)]
    matrix = [[7777 if i == j else 0 for j in range(classes)] for i in range(classes)]
    write_evaluation(tmp_path / "page.html", labels, [], matrix=matrix)
    chart_texts = [data for tag, data in Page(tmp_path / "page.html").texts if tag == "text"]
    assert chart_texts.count("7777") == (classes if counted else 0)
    assert chart_texts.count("breed 1") == (2 if named else 0)


def test_a_long_history_stays_small(tmp_path):
    write_training_page(tmp_path / "page.html", network="n", settings={}, history=history(20_000))
    page = Page(tmp_path / "page.html")
    assert (tmp_path / "page.html").stat().st_size < 200_000
    assert "at step 200,000." in page.text


def test_charts_and_tables_are_accessible_to_screen_readers(tmp_path):
    write_evaluation(tmp_path / "page.html", ["daisy", "rose"], [picture()])
    page = Page(tmp_path / "page.html")
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    assert all(image["alt"] for image in page.named("img"))
    assert {header["scope"] for header in page.named("th")} == {"col", "row"}
    assert len(page.named("h1")) == 1


def test_the_page_of_the_records_shows_the_callers_values(tmp_path):
    write_records(tmp_path / "page.html", ["daisy", "rose"], [picture("first.jpg"), picture("second.jpg")])
    page = Page(tmp_path / "page.html")
    for expected in (
        "2,601 images in 2 classes, 123.5 MB of records; 1 rejected; 1 excluded by the split.",
        "daisy is rare. Add to rose.", "Class Train Validation Test All", "daisy 1,100 200 0 1,300", "rose 1,101 200 0 1,301",
        "All 2,201 400 0 2,601", "GIF daisy 17", "rose.jpg", "The first 1 of 12.",
        "/photos/daisy/1.jpg daisy under daisy and rose", "rose cut off",
    ):  # fmt: skip
        assert expected in page.text
    assert [image["alt"] for image in page.named("img")][:2] == ["daisy, first.jpg", "daisy, second.jpg"]
    chart_texts = [data for tag, data in page.texts if tag == "text"]
    assert {"128", "512", "1:1"} <= set(chart_texts)
    assert [svg["aria-label"] for svg in page.named("svg")] == [
        "Histogram, longer side. daisy",
        "Histogram, shape. About square.",
    ]


def test_a_histogram_draws_a_bar_of_the_right_height_for_each_bin(tmp_path):
    counts = [4, 0, 1, 2]
    sizes = Histogram("Longer side", [64, 128, 256, 512, 1024], counts, {}, "")
    write_records(tmp_path / "page.html", ["daisy", "rose"], [], sizes=sizes)
    paths = [
        a["d"] for tag, a in Page(tmp_path / "page.html").elements if tag == "path" and "var(--first)" in a.get("style", "")
    ]
    heights = []
    for path in paths[: len(counts)]:
        across = [float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
        heights.append(max(across) - min(across))
    assert [height / heights[0] for height in heights] == pytest.approx([1, 0, 0.25, 0.5], abs=0.01)


def test_the_page_of_the_records_lists_the_first_thousand_rejected_images(tmp_path):
    rejected = [(f"photos/<b>/{number:04}.jpg", "<b>", "cut off" if number % 3 else "empty") for number in range(1200)]
    write_records(tmp_path / "page.html", ["daisy", "rose"], [], rejected=rejected, excluded=[])
    text = Page(tmp_path / "page.html").text
    assert "1,200 rejected." in text
    assert "cut off 800 empty 400" in text
    assert "photos/<b>/0999.jpg" in text
    assert "photos/<b>/1000.jpg" not in text
    assert "The first 1,000" in text
    assert "Excluded" not in text


def test_the_page_of_records_without_problems_is_short(tmp_path):
    nothing = {"findings": [], "reencoded": {}, "duplicates": 0, "duplicate_pairs": [], "excluded": [], "rejected": []}
    write_records(tmp_path / "page.html", ["daisy", "rose"], [], **nothing)
    text = Page(tmp_path / "page.html").text
    assert "Nothing: no problems with sizes, aspect ratios or classes were found, and every image could be used." in text
    for heading in ("Rejected", "Excluded", "Duplicates", "Re-encoded"):
        assert heading not in text


def test_empty_records_make_a_page(tmp_path):
    none = {"daisy": {"train": 0, "validation": 0, "test": 0}}
    write_records(tmp_path / "page.html", ["daisy", "rose"], [], classes=none)
    page = Page(tmp_path / "page.html")
    assert "0 images in 1 class" in page.text
    assert page.named("svg") == []
