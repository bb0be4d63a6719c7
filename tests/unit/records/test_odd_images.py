"""Images that nobody would train on are counted and shown, and left out on request; what people do train on is not odd."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import validate_and_reduce
from kfp_vision.dataset.table import SPLITS, ImageRow, md5_hex, read_unused, write_table
from kfp_vision.records import odd_images, partitions
from kfp_vision.records.convert import write_tfrecords
from kfp_vision.records.records_folder import read_examples

USUAL = 240  # pixels a side
BLACK, BLANK, BLURRED, TINY, ODD_SHAPE = "black", "blank", "blurred", "tiny", "odd shape"


def encode(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def scene(width: int = 320, height: int = 240, seed: int = 0) -> Image.Image:
    """Draws shapes of many colours and sizes."""
    chance = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(chance.integers(90, 255, 3).tolist()))
    pen = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, side = chance.integers(0, width), chance.integers(0, height), chance.integers(8, 60)
        shape = (pen.ellipse, pen.rectangle)[int(chance.integers(2))]
        shape((x, y, x + side, y + side), fill=tuple(chance.integers(0, 256, 3).tolist()))
    return image


def night() -> Image.Image:
    """Draws what a lens cap shows: noise around black."""
    return Image.fromarray(np.random.default_rng(1).integers(0, 20, (240, 320, 3), np.uint8))


def digit() -> Image.Image:
    image = Image.new("L", (28, 28))
    ImageDraw.Draw(image).line((14, 4, 14, 24), fill=255, width=3)
    return image


BLACK_SHEET, WHITE_SHEET = Image.new("L", (320, 240)), Image.new("L", (320, 240), 255)
ODD = {
    "black": (encode(Image.new("RGB", (320, 240))), BLACK),
    "black PNG": (encode(Image.new("1", (320, 240)), "PNG"), BLACK),
    "a lens cap": (encode(night()), BLACK),
    "white": (encode(Image.new("RGB", (320, 240), "white")), BLANK),
    "one shade": (encode(Image.new("L", (320, 240), 130)), BLANK),
    "one colour as palette": (encode(Image.new("RGB", (320, 240), (200, 150, 90)).quantize(4), "PNG"), BLANK),
    "nothing but transparency": (encode(Image.new("RGBA", (320, 240)), "PNG"), BLANK),
    "blurred": (encode(scene().filter(ImageFilter.GaussianBlur(12))), BLURRED),
    "large and blurred": (encode(scene().resize((1600, 1200)).filter(ImageFilter.GaussianBlur(60))), BLURRED),
    "blurred PNG": (encode(scene().filter(ImageFilter.GaussianBlur(12)), "PNG"), BLURRED),
    "tiny": (encode(scene().resize((48, 36))), TINY),
    "a strip": (encode(scene(900, 200)), ODD_SHAPE),
    "a column": (encode(scene(200, 900)), ODD_SHAPE),
}
USUAL_IMAGES = {
    "a scene": encode(scene()),
    "a scene as PNG": encode(scene(), "PNG"),
    "a scene with a palette": encode(scene().convert("P"), "PNG"),
    "a scene on its side": encode(scene(240, 320)),
    "a drawing": encode(Image.merge("LA", (Image.new("L", (28, 28)), digit())).resize((280, 280)), "PNG"),
    "a digit": encode(digit().resize((280, 280)), "PNG"),
    "white with a little ink": encode(Image.composite(BLACK_SHEET, WHITE_SHEET, digit().resize((320, 240)))),
    "a faint scene": encode(scene().point([118 + shade // 14 for shade in range(256)] * 3)),
    "a dim scene": encode(scene().point([shade // 2 for shade in range(256)] * 3)),
    "half the side of the others": encode(scene().resize((120, 120))),
}


def judge(content: bytes) -> str:
    return odd_images.odd_reason(*validate_and_reduce(content), USUAL)


@pytest.mark.parametrize("kind", ODD)
def test_an_image_that_nobody_would_train_on_is_odd(kind):
    content, expected = ODD[kind]
    assert judge(content) == expected


@pytest.mark.parametrize("kind", USUAL_IMAGES)
def test_what_people_train_on_is_not_odd(kind):
    assert judge(USUAL_IMAGES[kind]) == ""


def test_no_photograph_is_odd_and_most_blurred_ones_are(flower_photos):
    files = sorted(flower_photos.glob("*/*"))[::8]
    assert [file.name for file in files if judge(file.read_bytes())] == []
    found = []
    for file in files[::4]:
        with Image.open(file) as image:
            found.append(judge(encode(image.convert("RGB").filter(ImageFilter.GaussianBlur(max(image.size) / 25)))))
    assert found.count(BLURRED) + found.count(BLACK) >= 0.9 * len(found)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 2), (1, 300), (9, 9)])
def test_an_image_of_any_size_can_be_judged(size):
    pixels = Image.new("RGB", size, (100, 100, 100))
    for kind in ("JPEG", "PNG"):
        assert odd_images.odd_reason(*validate_and_reduce(encode(pixels, kind)), 0) == BLANK


def data(root: Path) -> tuple[dict[str, Path], Path]:
    """Lays a data set of 40 usual images and the odd ones of `ODD`; returns its tables and label map."""
    images = {f"usual-{number}": encode(scene(seed=number)) for number in range(40)}
    images |= {kind: content for kind, (content, _) in ODD.items()}
    (root / "images").mkdir()
    rows = []
    for name, content in images.items():
        (root / "images" / name).write_bytes(content)
        rows.append(ImageRow(str(root / "images" / name), "shapes", len(content), md5_hex(content), name))
    rows.sort(key=lambda row: row.content_id)
    tables = {split: root / f"{split}.csv" for split in SPLITS}
    for split, table in tables.items():
        write_table(table, rows if split == "train" else [])
    (root / "labels").mkdir()
    (root / "labels" / "labels.txt").write_text("0:shapes\n")
    return tables, root / "labels"


def names(folder: Path) -> set[str]:
    return {Path(name).name for name, _, _ in read_examples(folder)}


@pytest.mark.parametrize("partitioned", [False, True])
@pytest.mark.parametrize("odd", ["keep", "leave_out"])
def test_odd_images_are_counted_and_shown_and_left_out_on_request(tmp_path, capsys, odd, partitioned):
    tables, labels = data(tmp_path)
    outputs = {split: tmp_path / "records" / split for split in SPLITS}
    rejected, page = tmp_path / "rejected.csv", tmp_path / "page.html"
    limits = {"images_per_shard": 10, "max_refused_ratio": 0.0}
    if partitioned:
        parts = [tmp_path / f"part-{number}" for number in range(3)]
        for number, part in enumerate(parts):
            folders = {split: part / split for split in SPLITS}
            files = {"counts": part / partitions.STATISTICS_FILE, "odd": odd, "partition": number, "partitions": 3}
            partitions.write_one_partition(tables, labels, folders, part / partitions.REJECTS_FILE, **files, **limits)
        by_name = {
            name: [part / name for part in parts] for name in (*SPLITS, partitions.REJECTS_FILE, partitions.STATISTICS_FILE)
        }
        partitions.join_parts(by_name, outputs, rejected, summary=page, **limits)
    else:
        write_tfrecords(tables, labels, outputs, rejected, summary=page, odd=odd, **limits)
    usual = {f"usual-{number}" for number in range(40)}
    assert names(outputs["train"]) == (usual if odd == "leave_out" else usual | set(ODD))
    left_out = {Path(uri).name: reason for uri, _, reason in read_unused(rejected)}
    expected = {kind: f"left out as {reason}" for kind, (_, reason) in ODD.items()}
    assert left_out == (expected if odd == "leave_out" else {})
    text, said = page.read_text(), capsys.readouterr().out
    assert "Images that nobody would train on" in text
    for kind, count in ((BLACK, 3), (BLANK, 4), (BLURRED, 3), (TINY, 1), (ODD_SHAPE, 2)):
        assert f"{count} {kind}" in said
        assert f"<h3>{kind.capitalize()}</h3>" in text
    assert ("left out, since nobody would train on them" in text) == (odd == "leave_out")
    assert "data:image/jpeg;base64" in text.split("Images that nobody would train on</h2>")[1].split("</section>")[0]


def test_leaving_out_every_image_is_an_error(tmp_path):
    tables, labels = data(tmp_path)
    content = encode(Image.new("RGB", (320, 240)))
    (tmp_path / "images" / "black").write_bytes(content)
    write_table(
        tables["train"], [ImageRow(str(tmp_path / "images" / "black"), "shapes", len(content), md5_hex(content), "black")]
    )
    outputs = {split: tmp_path / "records" / split for split in SPLITS}
    with pytest.raises(InputError, match="odd_images of advanced must leave images to train on; got 1 odd images"):
        write_tfrecords(
            tables, labels, outputs, tmp_path / "rejected.csv", odd="leave_out", images_per_shard=10, max_refused_ratio=0.0
        )
