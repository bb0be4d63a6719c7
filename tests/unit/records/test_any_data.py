"""Any class names and any image bytes, from folders to records as TensorFlow reads them."""

import csv
import html
import io
import random
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest
import tensorflow as tf
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from kfp_vision.dataset import class_folders, image_files, ingest, scan
from kfp_vision.dataset.label_map import write_labels
from kfp_vision.dataset.split import split_images
from kfp_vision.dataset.table import UNWRITABLE_CATEGORIES, write_table
from kfp_vision.records.convert import write_tfrecords
from kfp_vision.storage import sample

pytestmark = pytest.mark.slow

SPLITS = ("train", "validation", "test")
SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    "image/class/text": tf.io.FixedLenFeature((), tf.string),
    "image/filename": tf.io.FixedLenFeature((), tf.string),
    "image/height": tf.io.FixedLenFeature((), tf.int64),
    "image/width": tf.io.FixedLenFeature((), tf.int64),
}
LONGEST = 255  # bytes of a name in Linux's file systems


def names_a_folder(text: str) -> bool:
    """Returns whether a class can have this name: valid for a folder on Linux, not hidden, without meaning to the catalog."""
    return (
        not text.startswith(".")
        and len(text.encode()) <= LONGEST
        and text.lower() not in {*image_files.THUMBNAIL_FOLDERS, *image_files.TRASH_FOLDERS, "__macosx"}
        and not class_folders.split_of_name(text)
    )


characters = st.characters(exclude_categories=UNWRITABLE_CATEGORIES, exclude_characters="/")
labels = st.text(characters, min_size=1, max_size=20).filter(names_a_folder) | st.sampled_from(
    [
        "<script>alert(1)<", "a, b", 'the "quoted"', "it's", "two  spaces", " before and after ", "花 雏菊", "البابونج", "🌻",
        "\u202eright to left\u202c", "e\u0301", "\u00e9", "0:daisy", "=1+1", "-", "#", "a#b", "100%", "C:\\daisy", "&amp;",
        "{{ label }}", "train.csv", "x" * LONGEST, "花" * (LONGEST // 3),
    ]
)  # fmt: skip


@dataclass(frozen=True)
class Data:
    """Images by class, each given by a number that stands for its content.

    Attributes:
        classes: contents of each label; equal numbers are copies, also with different labels.
        ratios: for validation and test.
        conflicting_labels: whether to keep images with several labels.
    """

    classes: dict[str, list[int]]
    ratios: tuple[float, float]
    conflicting_labels: str = "leave_out"


contents = st.lists(st.integers(0, 60), min_size=8, max_size=20) | st.integers(8, 30).map(
    lambda count: list(range(1000, 1000 + count))
)
data_sets = st.builds(
    Data,
    st.dictionaries(labels, contents, min_size=2, max_size=4),
    st.tuples(st.sampled_from([0.0, 0.1, 0.2, 0.33]), st.sampled_from([0.0, 0.1, 0.25])).filter(any),
    st.sampled_from(["leave_out", "keep"]),
)


def draw(content: int, kind: str) -> bytes:
    """Draws a small image that differs for every content."""
    file = io.BytesIO()
    Image.new("RGB", (8 + content % 7, 9), (content % 256, content // 256, 90)).save(file, kind)
    return file.getvalue()


def write_images(folder: Path, data: Data) -> None:
    for label, numbers in data.classes.items():
        (folder / label).mkdir(parents=True)
        for position, number in enumerate(numbers):
            (folder / label / f"{position}.{'png' if number % 2 else 'jpg'}").write_bytes(
                draw(number, "PNG" if number % 2 else "JPEG")
            )


def convert(root: Path, images: Path, data: Data) -> dict[str, list[dict]]:
    """Runs all three stages, and returns the examples of each split as TensorFlow reads them."""
    tables = {split: root / f"{split}.csv" for split in SPLITS}
    table, label_map, left_out = root / "images.csv", root / "label_map", root / "left_out.csv"
    ingest.ingest_images(str(images), check_images=True, splits=1, table=table, page=root / "data.html")
    how = {"validation_ratio": data.ratios[0], "test_ratio": data.ratios[1], "conflicting_labels": data.conflicting_labels}
    split_images(table, label_map=label_map, left_out=left_out, **how, **tables)
    outputs = {split: root / split for split in SPLITS}
    limits = {"images_per_shard": 7, "max_refused_ratio": 0.0, "left_out": left_out, "summary": root / "summary.html"}
    write_tfrecords(tables, label_map, outputs, root / "refused.csv", **limits)
    return {split: read_examples(root / split) for split in SPLITS}


def read_examples(folder: Path) -> list[dict]:
    shards = [str(path) for path in sorted(folder.glob("*.tfrecord"))]
    parsed = (tf.io.parse_single_example(record, SCHEMA) for record in tf.data.TFRecordDataset(shards))
    return [{name: value.numpy() for name, value in features.items()} for features in parsed]


@settings(database=None, deadline=None, max_examples=60)
@given(data_sets)
@example(
    Data(
        {"<script>alert(1)<": list(range(10)), 'a, "b"': list(range(5, 15)), "العربية": list(range(20, 28))}, (0.2, 0.1), "keep"
    )
)
@example(Data({"e\u0301": list(range(10)), "\u00e9": list(range(10, 20))}, (0.2, 0.0)))
def test_data_with_any_class_names_round_trips(data):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_images(root / "photos", data)
        labels_by_content: dict[int, set[str]] = {}
        for label, numbers in data.classes.items():
            for number in numbers:
                labels_by_content.setdefault(number, set()).add(label)
        used = {
            label: [number for number in numbers if data.conflicting_labels == "keep" or len(labels_by_content[number]) == 1]
            for label, numbers in data.classes.items()
        }
        try:
            examples = convert(root, root / "photos", data)
        except SystemExit as refusal:  # the only possible fault: too few images left to train on
            assert "every class must keep an image to train on" in str(refusal)
            assert min(len(set(numbers)) for numbers in used.values()) <= 4 or data.conflicting_labels == "keep"
            return
        labels = sorted(data.classes)
        assert (root / "label_map" / "labels.txt").read_text(encoding="utf-8") == "".join(
            f"{number}:{label}\n" for number, label in enumerate(labels)
        )
        pages = [(root / name).read_text(encoding="utf-8") for name in ("data.html", "summary.html")]

        # Every image is there once, with its own label, name and bytes.
        all_examples = [record for part in examples.values() for record in part]
        expected = Counter()
        for label in labels:
            for position, number in enumerate(data.classes[label]):
                if number in used[label]:
                    expected[f"{label}/{position}.{'png' if number % 2 else 'jpg'}"] += 1
        assert Counter(record["image/filename"].decode() for record in all_examples) == expected
        for record in all_examples:
            assert record["image/class/text"].decode() == record["image/filename"].decode().rpartition("/")[0]
            assert labels[record["image/class/label"]] == record["image/class/text"].decode()
            assert record["image/encoded"] == (root / "photos" / record["image/filename"].decode()).read_bytes()

        # No content is in two splits, and without copies every class keeps the ratios to half an image.
        contents_by_split = [{record["image/encoded"] for record in part} for part in examples.values()]
        assert (
            not contents_by_split[0] & contents_by_split[1]
            and not contents_by_split[0] & contents_by_split[2]
            and not contents_by_split[1] & contents_by_split[2]
        )
        for label, numbers in used.items():
            if len(set(numbers)) == len(data.classes[label]) and all(len(labels_by_content[number]) == 1 for number in numbers):
                for split, ratio in zip(("validation", "test"), data.ratios, strict=True):
                    held_out = sum(record["image/class/text"].decode() == label for record in examples[split])
                    assert abs(held_out - ratio * len(numbers)) <= 0.5 + 1e-9 or (held_out == 1 and ratio)

        for page in pages:
            for label in labels:
                assert f"<bdi>{html.escape(label).replace('&#x27;', '&#39;').replace('&quot;', '&#34;')}</bdi>" in page
            assert "<script" not in page


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def valid_images() -> list[bytes]:
    """Makes images of every supported kind."""
    flower = Image.open(io.BytesIO(sample.draw("bellcup/0001.jpg"))).resize((120, 90))
    images = [encoded(flower, kind) for kind in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]
    images += [encoded(flower, "JPEG", progressive=True), encoded(flower, "JPEG", restart_marker_blocks=4)]
    images += [
        encoded(flower.convert("CMYK"), "JPEG"),
        encoded(flower.convert("L"), "JPEG"),
        encoded(flower.quantize(16), "PNG"),
    ]
    images += [
        encoded(flower.convert("RGBA"), "PNG"),
        encoded(flower.convert("I;16"), "PNG"),
        encoded(flower, "TIFF", compression="jpeg"),
    ]
    images += [encoded(flower, "TIFF", compression="tiff_lzw"), encoded(flower, "WEBP", lossless=True)]
    images += [sample.draw("globelet/0002.jpg"), sample.draw("raybloom/0003.jpg")]
    return images


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Applies up to three mutations: flipped bits, cuts, and pieces swapped, inserted, doubled or blanked."""
    for _ in range(chance.choice((1, 1, 2, 3))):
        length = max(2, len(content))
        at, size = chance.randrange(chance.choice((min(600, length), length))), chance.choice((1, 2, 16, 300, 5000))
        target = chance.randrange(length)
        piece = content[at : at + size]
        if chance.random() < 0.3:
            bits = bytearray(content)
            for _ in range(chance.choice((1, 8, 60))):
                bits[chance.randrange(len(bits))] ^= 1 << chance.randrange(8)
            content = bytes(bits)
            continue
        content = chance.choice(
            (
                content[:at],
                content[at:],
                content[:at] + content[at + size :],
                content[:at] + chance.randbytes(size) + content[at:],
                content[:at] + bytes(len(piece)) + content[at + size :],
                content[:at] + b"\xff" * len(piece) + content[at + size :],
                content[:target] + piece + content[target:],
                content[:target] + piece + content[target + size :],
            )
        )
        content = content or b"\0"
    return content


MUTANTS = 2000
LONGEST_CONVERSION = 300  # seconds, several hundred times the usual duration; a longer conversion hangs
CONVERT = """
import sys
from pathlib import Path
from kfp_vision.dataset.table import SPLITS
from kfp_vision.records import convert

root = Path(sys.argv[1])
tables = {split: root / f"{split}.csv" for split in SPLITS}
outputs = {split: root / split for split in SPLITS}
limits = {"images_per_shard": 100, "max_refused_ratio": 1.0, "summary": root / "summary.html"}
convert.write_tfrecords(tables, root, outputs, root / "refused.csv", max_side=int(sys.argv[2]), **limits)
"""


def convert_in_subprocess(root: Path, max_side: int) -> None:
    """Runs the conversion in its own process, so that a crash or hang of a decoder is detected."""
    command = [sys.executable, "-W", "ignore", "-c", CONVERT, str(root), str(max_side)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_CONVERSION)
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.fixture(scope="module", params=["drawn", "photographed"])
def mutants(request, tmp_path_factory) -> Path:
    """Writes damaged images and their tables."""
    originals, count = valid_images(), MUTANTS
    if request.param == "photographed":
        photographs = sorted(request.getfixturevalue("flower_photos").rglob("*.jpg"))[::40]
        originals, count = [photograph.read_bytes() for photograph in photographs], MUTANTS // 4
    root, chance = tmp_path_factory.mktemp("mutants"), random.Random(request.param)
    (root / "photos" / "any").mkdir(parents=True)
    for number in range(count):
        (root / "photos" / "any" / f"{number:04}.jpg").write_bytes(mutate(originals[number % len(originals)], chance))
    rows = scan.scan_images(str(root / "photos")).rows
    for split in SPLITS:
        write_table(root / f"{split}.csv", rows if split == "train" else [])
    write_labels(root, ["any"])
    return root


@pytest.mark.parametrize("max_side", [0, 50])
def test_a_damaged_image_is_decodable_in_the_records_or_rejected_with_a_reason(mutants, max_side):
    convert_in_subprocess(mutants, max_side)
    with (mutants / "refused.csv").open(newline="", encoding="utf-8") as file:
        refused = {Path(row["uri"]).name: row["reason"] for row in csv.DictReader(file)}
    shards = [str(path) for path in sorted((mutants / "train").glob("*.tfrecord"))]

    def decode(record: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = tf.io.parse_single_example(record, SCHEMA)
        pixels = tf.io.decode_image(features["image/encoded"], channels=3, expand_animations=False)
        return features["image/filename"], tf.shape(pixels), features["image/height"], features["image/width"]

    converted = []
    for name, shape, height, width in tf.data.TFRecordDataset(shards).map(decode, tf.data.AUTOTUNE).as_numpy_iterator():
        converted.append(name.decode().rpartition("/")[2])
        assert tuple(shape) == (height, width, 3)
        assert not max_side or max(height, width) <= max_side
    assert len(converted) == len(set(converted))
    assert not set(converted) & refused.keys()
    assert set(converted) | refused.keys() == {path.name for path in (mutants / "photos" / "any").iterdir()}
    assert all(reason.strip() and "\n" not in reason for reason in refused.values())
    assert min(len(converted), len(refused)) > 50, "nearly all or nearly none was refused: the test shows little"
