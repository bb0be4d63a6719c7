"""TFRecord files match those of TensorFlow, and rejected images are listed."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import google_crc32c
import pytest
import tensorflow as tf
from PIL import Image
from support import damaged_records, sample_images

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan, table
from kfp_vision.dataset.split import split_images
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records import tfrecord
from kfp_vision.records.convert import _convert_in_order, write_tfrecords
from kfp_vision.records.records_folder import (
    RandomAccessRecords,
    RecordsInfo,
    check_records_uri,
    copy_records,
    read_examples,
    read_records_info,
    verify_records,
)
from kfp_vision.records.tfrecord import Shard

LABELS = ["bellcup", "globelet", "花, wild"]
# The fields of TF-Slim's flowers dataset, and the two fields added here.
SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/format": tf.io.FixedLenFeature((), tf.string),
    "image/class/label": tf.io.FixedLenFeature((), tf.int64),
    "image/height": tf.io.FixedLenFeature((), tf.int64),
    "image/width": tf.io.FixedLenFeature((), tf.int64),
    "image/class/text": tf.io.FixedLenFeature((), tf.string),
    "image/filename": tf.io.FixedLenFeature((), tf.string),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Makes ten images each of two classes, and one of a third."""
    folder = sample_images.pictures(tmp_path_factory.mktemp("photos"), classes=2, each=10)
    (folder / LABELS[2]).mkdir()
    Image.new("RGB", (30, 20), "red").save(folder / LABELS[2] / "a 花.png")
    return folder


@pytest.fixture
def write_records(tmp_path):
    """Writes the rows given for each split to tmp_path, and returns the result of `write_tfrecords`."""

    def write(images_per_shard=1000, max_refused_ratio=0.05, folder=tmp_path, how=None, **rows) -> dict[str, RecordsInfo]:
        (folder / "label_map").mkdir(parents=True)
        (folder / "label_map" / "labels.txt").write_text("0:bellcup\n1:globelet\n2:花, wild\n", encoding="utf-8")
        splits = ("train", "validation", "test")
        for split in splits:
            table.write_table(folder / f"{split}.csv", rows.get(split, []))
        return write_tfrecords(
            {split: folder / f"{split}.csv" for split in splits},
            folder / "label_map",
            {split: folder / split for split in splits},
            folder / "refused.csv",
            images_per_shard=images_per_shard,
            max_refused_ratio=max_refused_ratio,
            **(how or {}),
        )

    return write


def read_back(folder: Path) -> list[dict]:
    """Reads the examples of a folder with TensorFlow, in the order of the file names."""
    dataset = tf.data.TFRecordDataset(sorted(str(path) for path in folder.glob("*.tfrecord")))
    parsed = (tf.io.parse_single_example(record, SCHEMA) for record in dataset)
    return [{name: value.numpy() for name, value in features.items()} for features in parsed]


def read_rejections(folder: Path) -> list[list[str]]:
    with (folder / "refused.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write_invalid_image(folder: Path, name: str, content: bytes = b"<html>404 Not Found</html>") -> ImageRow:
    """Writes a file that is not an image, and returns its row."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    return next(row for row in scan.scan_images(str(folder)).rows if row.name == name)


def test_tensorflow_reads_what_was_written(photos, tmp_path, write_records):
    rows = scan.scan_images(str(photos)).rows
    name = "train-00000-of-00001.tfrecord"
    info = write_records(train=rows)["train"]
    content = (tmp_path / "train" / name).read_bytes()
    shard_info = Shard(len(content), f"{google_crc32c.value(content):08x}")
    assert info == RecordsInfo("train", 21, [name], LABELS, {name: shard_info})
    examples = read_back(tmp_path / "train")
    for row, example in zip(rows, examples, strict=True):
        original = (photos / row.name).read_bytes()
        with Image.open(io.BytesIO(original)) as image:
            size = image.size
        assert example == {
            "image/encoded": original,
            "image/format": b"png" if row.name.endswith(".png") else b"jpeg",
            "image/class/label": LABELS.index(row.label),
            "image/height": size[1],
            "image/width": size[0],
            "image/class/text": row.label.encode(),
            "image/filename": row.name.encode(),
        }
    assert examples[-1]["image/filename"] == "花, wild/a 花.png".encode()


def test_the_bytes_are_those_that_tensorflow_writes(photos, tmp_path, write_records):
    rows = scan.scan_images(str(photos)).rows
    write_records(train=rows)
    with tf.io.TFRecordWriter(str(tmp_path / "expected.tfrecord")) as writer:
        for row in rows:
            original = (photos / row.name).read_bytes()
            with Image.open(io.BytesIO(original)) as image:
                width, height = image.size
            texts = {
                "image/encoded": original,
                "image/format": b"png" if row.name.endswith(".png") else b"jpeg",
                "image/class/text": row.label.encode(),
                "image/filename": row.name.encode(),
            }
            numbers = {"image/class/label": LABELS.index(row.label), "image/height": height, "image/width": width}
            feature = {name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[value])) for name, value in texts.items()}
            feature |= {name: tf.train.Feature(int64_list=tf.train.Int64List(value=[value])) for name, value in numbers.items()}
            example = tf.train.Example(features=tf.train.Features(feature=feature))
            writer.write(example.SerializeToString(deterministic=True))
    (shard,) = (tmp_path / "train").glob("*.tfrecord")
    assert shard.read_bytes() == (tmp_path / "expected.tfrecord").read_bytes()


@pytest.mark.parametrize(
    ("images_per_shard", "counts"), [(1, [1] * 7), (3, [3, 3, 1]), (6, [6, 1]), (7, [7]), (8, [7]), (1000, [7])]
)
def test_all_shards_but_the_last_have_images_per_shard_images(photos, tmp_path, write_records, images_per_shard, counts):
    info = write_records(images_per_shard, validation=scan.scan_images(str(photos)).rows[:7])["validation"]
    names = [f"validation-{number:05d}-of-{len(counts):05d}.tfrecord" for number in range(len(counts))]
    assert info.shards == names
    assert sorted(path.name for path in (tmp_path / "validation").iterdir()) == sorted(["records.json", *names])
    assert [sum(1 for _ in tf.data.TFRecordDataset(str(tmp_path / "validation" / name))) for name in names] == counts


def test_examples_are_in_the_order_of_the_table(photos, tmp_path, write_records):
    rows = scan.scan_images(str(photos)).rows[::-1]
    write_records(images_per_shard=4, train=rows)
    assert [example["image/filename"].decode() for example in read_back(tmp_path / "train")] == [row.name for row in rows]


def test_the_order_is_kept_beyond_the_read_ahead_of_the_workers(tmp_path, write_records):
    folder = tmp_path / "photos"
    for number in range(150):
        (folder / "bellcup").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8 + 40 * (number % 2), 8), number).save(folder / "bellcup" / f"{number:03}.png")
    rows = scan.scan_images(str(folder)).rows
    write_records(images_per_shard=64, train=rows)
    assert [example["image/filename"].decode() for example in read_back(tmp_path / "train")] == [row.name for row in rows]


def test_an_empty_split_has_metadata_and_no_shards(photos, tmp_path, write_records):
    info = write_records(train=scan.scan_images(str(photos)).rows[:2])
    assert info["test"] == read_records_info(tmp_path / "test") == RecordsInfo("test", 0, [], LABELS)
    assert [path.name for path in (tmp_path / "test").iterdir()] == ["records.json"]
    assert json.loads((tmp_path / "test" / "records.json").read_text()) == {
        "split": "test",
        "images": 0,
        "shards": [],
        "labels": LABELS,
        "files": {},
    }


def test_two_runs_write_the_same_bytes(photos, tmp_path, write_records):
    rows = scan.scan_images(str(photos)).rows
    for run in ("one", "two"):
        write_records(images_per_shard=5, folder=tmp_path / run, train=rows[:12], validation=rows[12:])
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()}
    assert len(files) == 3 + 3 + 2 + 1 + 1 + 3  # shards, records.json, tables and the like
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("workers", [2, 7])
def test_the_number_of_workers_does_not_change_the_bytes(photos, tmp_path, write_records, workers):
    rows = scan.scan_images(str(photos)).rows
    bad = [write_invalid_image(tmp_path / "more", f"bellcup/{number}.jpg") for number in range(3)]
    rows = [*rows, bad[0], *rows[::-1], bad[1], *rows, bad[2]] * 2  # more than four chunks, most with a rejected image
    for count in (1, workers):
        write_records(images_per_shard=13, folder=tmp_path / str(count), how={"workers": count}, train=rows)
    files = sorted(path.name for path in (tmp_path / "1" / "train").iterdir())
    assert files == sorted(path.name for path in (tmp_path / str(workers) / "train").iterdir())
    assert len(files) == 1 + 10  # 126 images
    for name in files:
        assert (tmp_path / "1" / "train" / name).read_bytes() == (tmp_path / str(workers) / "train" / name).read_bytes()
    assert (tmp_path / "1" / "refused.csv").read_bytes() == (tmp_path / str(workers) / "refused.csv").read_bytes()


def test_read_ahead_is_limited():
    started = []
    rows = (ImageRow("", "", 1, "", str(number)) for number in range(5000))
    results = _convert_in_order(lambda row: started.append(row) or b"", rows, workers=2)
    next(results)
    assert len(started) <= 32 * 5  # two chunks per worker, and the one being written
    results.close()


@pytest.mark.parametrize("workers", [2, 7])
def test_the_number_of_workers_does_not_change_the_summary(photos, tmp_path, write_records, workers):
    rows = scan.scan_images(str(photos)).rows * 3
    for count in (1, workers):
        write_records(
            folder=tmp_path / str(count), how={"workers": count, "summary": tmp_path / str(count) / "s.html"}, train=rows
        )
    assert (tmp_path / "1" / "s.html").read_bytes() == (tmp_path / str(workers) / "s.html").read_bytes()


def test_the_summary_reports_written_rejected_and_excluded_images(photos, tmp_path, write_records):
    rows = scan.scan_images(str(photos)).rows
    bad = write_invalid_image(tmp_path / "more", "bellcup/page.jpg")
    Image.new("RGB", (300, 60), "blue").save(tmp_path / "more" / "bellcup" / "wide.gif")
    wide = next(row for row in scan.scan_images(str(tmp_path / "more")).rows if row.name.endswith("gif"))
    table.write_unused(tmp_path / "left_out.csv", [("/photos/rose/7.jpg", "rose", "the same picture stands twice")])
    how = {"summary": tmp_path / "s.html", "left_out": tmp_path / "left_out.csv"}
    write_records(train=[*rows, wide, wide, bad], validation=rows[:4], how=how)
    text = " ".join((tmp_path / "s.html").read_text(encoding="utf-8").split())
    for expected in (
        '<tr><th scope="row"><bdi>bellcup</bdi></th><td class="number">12</td><td class="number">4</td>',
        '<tr><th scope="row"><bdi>花, wild</bdi></th><td class="number">1</td><td class="number">0</td>',
        "2 of 27 images (7.4 %) are more than 3 times as long as wide",
        "1 of 27 images (3.7 %) is an exact copy of another",
        "1 of 28 images (3.6 %) is rejected.",
        '<th scope="row">GIF rather than JPEG or PNG</th><td class="number">2</td>',
        f'<td class="setting">{bad.uri}</td>',
        '<td class="setting">/photos/rose/7.jpg</td>',
    ):
        assert expected in text
    thumbnails = {label: text.count(f'alt="{label}, ') for label in LABELS}
    assert thumbnails == {"bellcup": 6, "globelet": 6, "花, wild": 1}


def test_the_summary_shows_images_as_converted(tmp_path, write_records):
    (tmp_path / "photos" / "bellcup").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: EXIF 2.3, section 4.6.4
    Image.new("RGB", (120, 40), "red").save(tmp_path / "photos" / "bellcup" / "side.jpg", exif=exif)
    write_records(train=scan.scan_images(str(tmp_path / "photos")).rows, how={"summary": tmp_path / "s.html", "max_side": 60})
    assert 'width="20" height="60" alt="bellcup, bellcup/side.jpg"' in (tmp_path / "s.html").read_text()


def test_the_summary_of_the_flower_photographs_lists_the_three_copies(flower_photos, tmp_path):
    table.write_table(tmp_path / "images.csv", scan.scan_images(str(flower_photos)).rows)
    tables = {split: tmp_path / f"{split}.csv" for split in ("train", "validation", "test")}
    label_map, left_out = tmp_path / "label_map", tmp_path / "left_out.csv"
    texts = {}
    for conflicting in ("leave_out", "keep"):
        how = {"validation_ratio": 0.2, "test_ratio": 0.1, "conflicting_labels": conflicting}
        split_images(tmp_path / "images.csv", **how, **tables, label_map=label_map, left_out=left_out)
        outputs = {split: tmp_path / split for split in tables}
        limits = {"images_per_shard": 1000, "max_refused_ratio": 0.0, "check_pixels": False}
        page = tmp_path / f"{conflicting}.html"
        write_tfrecords(tables, label_map, outputs, tmp_path / "refused.csv", **limits, left_out=left_out, summary=page)
        texts[conflicting] = " ".join(page.read_text(encoding="utf-8").split())
    contents = {}
    for photograph in flower_photos.rglob("*.jpg"):
        name = photograph.relative_to(flower_photos).as_posix()
        contents.setdefault(photograph.read_bytes(), []).append(name)
    pairs = sorted(sorted(names) for names in contents.values() if len(names) > 1)
    assert len(pairs) == 3
    conflicting = ["roses/15922772266_1167a06620.jpg", "tulips/15922772266_1167a06620.jpg"]
    assert conflicting in pairs
    for first, second in pairs:
        cells = f'<td class="setting">{first}</td><td class="setting">{second}</td>'
        assert cells in texts["keep"]
        assert (cells in texts["leave_out"]) == ([first, second] != conflicting)
    for name in conflicting:
        reason = '<td class="setting">same image with labels roses and tulips</td>'
        assert f"{name}</td><td><bdi>{name.split('/')[0]}</bdi></td>{reason}" in texts["leave_out"]
    assert "2 of 752 images (0.3 %) are an exact copy of another." in texts["leave_out"]
    assert "3 of 754 images (0.4 %) are an exact copy of another." in texts["keep"]
    assert "1 of 754 images (0.1 %) is an exact copy with another label." in texts["keep"]


def test_records_of_an_archive_equal_those_of_a_folder(photos, tmp_path, write_records):
    archive = shutil.make_archive(str(tmp_path / "photos"), "gztar", photos)
    write_records(folder=tmp_path / "packed", train=scan.scan_images(archive).rows)
    write_records(folder=tmp_path / "plain", train=scan.scan_images(str(photos)).rows)
    (packed,), (plain,) = (list((tmp_path / kind / "train").glob("*.tfrecord")) for kind in ("packed", "plain"))
    assert packed.read_bytes() == plain.read_bytes()


def test_without_rejections_the_list_has_only_its_header(photos, tmp_path, write_records):
    write_records(train=scan.scan_images(str(photos)).rows[:2])
    assert read_rejections(tmp_path) == [["uri", "label", "reason"]]


def test_an_invalid_image_is_listed_and_the_others_are_written(photos, tmp_path, write_records, capsys):
    rows = scan.scan_images(str(photos)).rows
    bad = write_invalid_image(tmp_path / "more", "bellcup/page, saved.jpg")
    info = write_records(max_refused_ratio=0.05, train=[*rows[:10], bad, *rows[10:]])
    assert info["train"].images == 21
    assert [example["image/filename"].decode() for example in read_back(tmp_path / "train")] == [row.name for row in rows]
    assert read_rejections(tmp_path)[1:] == [[bad.uri, "bellcup", "not an image in a known format, but a web page"]]
    printed = capsys.readouterr().out
    assert f"rejected: {bad.uri} (bellcup): not an image in a known format, but a web page\n" in printed
    assert re.search(r"^train: \d+ images in (1 shard|([2-9]|\d\d+) shards)$", printed, re.MULTILINE)


def test_a_missing_and_a_changed_image_are_rejected_with_a_reason(photos, tmp_path, write_records):
    missing = write_invalid_image(tmp_path / "more", "bellcup/gone.jpg")
    changed = write_invalid_image(tmp_path / "more", "bellcup/changed.jpg")
    Path(missing.uri).unlink()
    Image.new("RGB", (20, 20)).save(changed.uri)
    write_records(max_refused_ratio=0.5, train=[*scan.scan_images(str(photos)).rows, missing], validation=[changed])
    assert read_rejections(tmp_path)[1:] == [
        [missing.uri, "bellcup", "No such file or directory"],
        [changed.uri, "bellcup", "changed since it was listed"],
    ]


def test_a_missing_archive_member_is_rejected_with_a_reason(photos, tmp_path, write_records):
    archive = shutil.make_archive(str(tmp_path / "photos"), "zip", photos)
    rows = scan.scan_images(archive).rows
    missing = ImageRow(f"{archive}#bellcup/none.jpg", "bellcup", 1, "0" * 32, "bellcup/none.jpg")
    write_records(train=[*rows, missing])
    assert read_rejections(tmp_path)[1:] == [[missing.uri, "bellcup", f"{archive} has no member bellcup/none.jpg"]]


def test_too_many_rejected_images_are_an_error_that_names_the_first(photos, tmp_path, write_records):
    bad = [write_invalid_image(tmp_path / "more", f"bellcup/{number:02}.jpg") for number in range(12)]
    with pytest.raises(InputError) as refusal:
        write_records(max_refused_ratio=0.05, train=[*scan.scan_images(str(photos)).rows, *bad])
    line = str(refusal.value)
    assert line.startswith(
        "error: at most 5% of the images may be rejected; got 12 of 33. Fix or remove them, or raise max_refused_ratio. "
        f"First: {bad[0].uri}: not an image in a known format, but a web page; {bad[1].uri}: not"
    )
    assert "\n" not in line
    assert [row[0] for row in read_rejections(tmp_path)[1:]] == [row.uri for row in bad]


@pytest.mark.parametrize(("max_refused_ratio", "accepted"), [(0.25, True), (0.24, False)])
def test_exactly_max_refused_ratio_is_accepted(photos, tmp_path, write_records, max_refused_ratio, accepted):
    rows = [*scan.scan_images(str(photos)).rows[:3], write_invalid_image(tmp_path / "more", "bellcup/1.jpg")]
    if accepted:
        assert write_records(max_refused_ratio=max_refused_ratio, train=rows)["train"].images == 3
    else:
        with pytest.raises(InputError, match="at most 24% of the images may be rejected; got 1 of 4"):
            write_records(max_refused_ratio=max_refused_ratio, train=rows)


def test_an_error_leaves_the_list_of_rejections_and_no_records(photos, tmp_path, write_records):
    rows = [*scan.scan_images(str(photos)).rows[:3], write_invalid_image(tmp_path / "more", "bellcup/1.jpg")]
    with pytest.raises(InputError):
        write_records(max_refused_ratio=0.0, train=rows, folder=tmp_path / "outputs")
    remaining = sorted(path.name for path in (tmp_path / "outputs").iterdir())
    assert remaining == ["label_map", "refused.csv", "test.csv", "train.csv", "validation.csv"]
    assert [row[0] for row in read_rejections(tmp_path / "outputs")[1:]] == [rows[-1].uri]


def test_writing_records_does_not_import_tensorflow():
    program = (
        "import sys; from kfp_vision.dataset.images import ValidImage; from kfp_vision.dataset.table import ImageRow; "
        "from kfp_vision.records.example import encode_example; "
        "encode_example(ImageRow('', 'a', 0, '', ''), ValidImage(b'', 'png', 1, 1), 0); print('tensorflow' in sys.modules)"
    )
    process = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert process.stdout == "False\n"


def test_records_are_read_by_number(photos, tmp_path, write_records):
    write_records(8, train=scan.scan_images(str(photos)).rows)
    paths = sorted(str(path) for path in (tmp_path / "train").glob("*.tfrecord"))
    expected = [record.numpy() for record in tf.data.TFRecordDataset(paths)]
    numbered = RandomAccessRecords(tmp_path / "train")
    assert len(numbered) == len(expected) == 21
    assert [numbered.read(number) for number in reversed(range(21))] == expected[::-1]


def test_a_record_is_read_in_one_request_and_its_place_is_found_in_few(photos, tmp_path, write_records, monkeypatch):
    write_records(8, train=scan.scan_images(str(photos)).rows)
    requests: list[int] = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, at: requests.append(length) or pread(file, length, at))
    numbered = RandomAccessRecords(tmp_path / "train")
    assert len(requests) == 3  # one for each shard, all of which are small
    expected = [numbered.read(number) for number in range(21)]
    assert len(requests) == 3 + 21
    monkeypatch.setattr(tfrecord, "WRITE_BUFFER", tfrecord.FRAME_HEAD + 1)  # every record is longer than a piece
    assert [RandomAccessRecords(tmp_path / "train").read(number) for number in range(21)] == expected


def test_a_truncated_shard_is_rejected_and_a_damaged_record_is_not_returned(photos, tmp_path, write_records):
    write_records(8, train=scan.scan_images(str(photos)).rows)
    shard = tmp_path / "train" / "train-00001-of-00003.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content[:-9] + b"x" + content[-8:])
    numbered = RandomAccessRecords(tmp_path / "train")
    assert numbered.read(14)
    with pytest.raises(ValueError, match=r"train-00001-of-00003\.tfrecord: the record at byte \d+ is damaged"):
        numbered.read(15)
    shard.write_bytes(content[:-9])
    with pytest.raises(InputError, match=r"a TFRecord file must be intact; got \S+train-00001-of-00003\.tfrecord"):
        RandomAccessRecords(tmp_path / "train")


@pytest.fixture
def records_folder(photos, tmp_path, write_records) -> Path:
    """Writes the records of all splits, as a run does."""
    rows = scan.scan_images(str(photos)).rows
    write_records(images_per_shard=5, folder=tmp_path / "run", train=rows[:12], validation=rows[12:])
    for name in ("label_map", "train.csv", "validation.csv", "test.csv"):
        path = tmp_path / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return tmp_path / "run"


def fetch(uri: object, root: Path) -> dict[str, bytes]:
    """Fetches records, and returns each file by its path in the folder."""
    copy_records(str(uri), {split: root / split for split in ("train", "validation", "test")}, root / "label_map")
    return contents(root)


def contents(root: Path) -> dict[str, bytes]:
    return {file.relative_to(root).as_posix(): file.read_bytes() for file in root.rglob("*") if file.is_file()}


def test_fetched_records_equal_those_in_a_folder_or_an_archive(records_folder, tmp_path):
    stored = {name: content for name, content in contents(records_folder).items() if "/" in name}
    expected = stored | {"label_map/labels.txt": "0:bellcup\n1:globelet\n2:花, wild\n".encode()}
    assert len(expected) == 3 + 3 + 2 + 1
    assert fetch(records_folder, tmp_path / "of a folder") == expected
    (records_folder / "train").rename(records_folder / "first_records")
    check_records_uri(str(records_folder), "records_uri")
    assert fetch(records_folder, tmp_path / "of folders with other names") == expected
    packed = shutil.make_archive(str(tmp_path / "packed"), "gztar", records_folder.parent, records_folder.name)
    assert fetch(packed, tmp_path / "of an archive") == expected


def test_records_without_a_test_split_have_no_images_in_it(records_folder, tmp_path):
    shutil.rmtree(records_folder / "test")
    check_records_uri(str(records_folder), "records_uri")
    fetched = fetch(records_folder, tmp_path / "new")
    empty = read_records_info(tmp_path / "new" / "test")
    assert (empty.images, empty.labels) == (0, read_records_info(records_folder / "train").labels)
    assert [name for name in fetched if name.startswith("test/")] == ["test/records.json"]


def test_a_split_that_has_lost_its_description_is_not_taken_for_an_empty_one(records_folder):
    (records_folder / "test" / "records.json").unlink()
    shutil.copy(next((records_folder / "train").glob("*.tfrecord")), records_folder / "test")
    with pytest.raises(InputError, match=f"a folder of records must have its records.json; got none in {records_folder}/test"):
        check_records_uri(str(records_folder), "records_uri")


def damage(folder: Path, fault: str) -> None:
    train = folder / "train"
    if fault == "gone":
        shutil.rmtree(train)
    elif fault == "twice":
        shutil.copytree(train, folder / "copy")
    elif fault.startswith("nothing"):
        for split in ("validation", "test") if fault.endswith("evaluate on") else ("train",):
            info = json.loads((folder / split / "records.json").read_text())
            (folder / split / "records.json").write_text(json.dumps(info | {"images": 0, "shards": [], "files": {}}))
            for shard in damaged_records.shards(folder / split):
                shard.unlink()
    elif fault == "nested too deeply":
        (train / "records.json").write_text("[" * 100_000)
    elif fault in damaged_records.FAULTS:
        damaged_records.FAULTS[fault][0](train)
    else:
        info = json.loads((train / "records.json").read_text())
        info = info | {"labels": ["bellcup"]} if fault == "of other classes" else {"images": 7}
        (train / "records.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("gone", r"there must be records of train and validation; got no train in .*\. Use the folder `records` of"),
        ("twice", r"each split must have one folder of records; got train in copy and in train, of .*\. Use the folder"),
        ("of other classes", r"records of all splits must have the same classes; got .*train: bellcup.* Use the folder"),
        ("of another kind", r"records\.json must describe the records; got .*train/records\.json \(.*\)\. Write the"),
        ("nothing to train on", r"there must be images to train on; got none in .*\. Look at the list of rejected images\."),
        ("nothing to evaluate on", r"there must be held-out images to evaluate on; got none in .*\. Write the records again"),
        ("nested too deeply", r"records\.json must describe the records; got .*nested too deeply.*\. Write the"),
        *((fault, line) for fault, (_, line) in damaged_records.FAULTS.items()),
    ],
)
def test_fetching_damaged_records_is_rejected_and_leaves_no_files(records_folder, tmp_path, fault, line):
    damage(records_folder, fault)
    with pytest.raises(InputError, match=line) as refusal:
        fetch(records_folder, tmp_path / "new")
    assert "partial" not in str(refusal.value)  # the message names the source, not the temporary copy
    assert contents(tmp_path / "new") == {}


@pytest.mark.parametrize("fault", ["cut in the middle", "cut between two records", "lost", "added"])
def test_damage_visible_in_sizes_is_rejected_before_fetching(records_folder, fault):
    damage(records_folder, fault)
    with pytest.raises(InputError, match=damaged_records.FAULTS[fault][1]):
        check_records_uri(str(records_folder), "records_uri")


@pytest.mark.parametrize(
    ("fault", "line"), [("nothing to train on", "to train on"), ("nothing to evaluate on", "held-out images")]
)
def test_records_without_images_for_a_stage_are_rejected_before_the_run(records_folder, fault, line):
    damage(records_folder, fault)
    with pytest.raises(InputError, match=f"there must be .*{line}.*; got none in {records_folder}"):
        check_records_uri(str(records_folder), "records_uri")


@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_damaged_records_are_rejected_with_the_name_of_the_file(records_folder, fault):
    assert verify_records(records_folder / "train") == read_records_info(records_folder / "train")
    change, line = damaged_records.FAULTS[fault]
    change(records_folder / "train")
    with pytest.raises(InputError, match=line):
        verify_records(records_folder / "train")


@pytest.mark.parametrize("fault", damaged_records.FAULTS)
def test_reading_damaged_records_fails(records_folder, fault):
    assert len(list(read_examples(records_folder / "train"))) == 12
    damaged_records.FAULTS[fault][0](records_folder / "train")
    with pytest.raises(InputError, match=r"TFRecord file must be intact|records must be intact|must list every shard"):
        list(read_examples(records_folder / "train"))


def test_swapped_shards_of_equal_size_are_detected_by_checksums(tmp_path, write_records):
    for number in range(2):
        (tmp_path / "photos" / "bellcup").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30, 20), (100 + number, 0, 0)).save(tmp_path / "photos" / "bellcup" / f"{number}.png")
    write_records(images_per_shard=1, train=scan.scan_images(str(tmp_path / "photos")).rows)
    assert len({shard.stat().st_size for shard in damaged_records.shards(tmp_path / "train")}) == 1
    damaged_records.swap(tmp_path / "train")
    with pytest.raises(InputError, match=r"train-00000-of-00002\.tfrecord with \d+ bytes and the checksum"):
        verify_records(tmp_path / "train")


def remove_checksums(folder: Path) -> Path:
    """Removes the checksums, as in records of older versions."""
    info = json.loads((folder / "records.json").read_text())
    assert info.pop("files")
    (folder / "records.json").write_text(json.dumps(info))
    return folder


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (
            "cut in the middle",
            r"a TFRecord file must be intact; got \S+-00000-of-00003\.tfrecord, damaged after byte \d+\. Copy",
        ),
        ("cut between two records", r"records must be intact; got 11 of them in \S+, where its records\.json says 12\. Copy"),
        ("lost", damaged_records.FAULTS["lost"][1]),
        ("a byte flipped", r"a TFRecord file must be intact; got \S+-00000-of-00003\.tfrecord, damaged after byte \d+\. Copy"),
        ("added", damaged_records.FAULTS["added"][1]),
    ],
)
def test_without_checksums_every_record_is_verified(records_folder, capsys, fault, line):
    train = remove_checksums(records_folder / "train")
    assert verify_records(train).images == 12
    assert capsys.readouterr().out == "train: records.json has no checksums; checking every record instead\n"
    damaged_records.FAULTS[fault][0](train)
    with pytest.raises(InputError, match=line):
        verify_records(train)


def test_records_without_checksums_are_fetched(records_folder, tmp_path):
    for split in ("train", "validation"):
        remove_checksums(records_folder / split)
    fetch(records_folder, tmp_path / "new")
    assert contents(tmp_path / "new" / "train") == contents(records_folder / "train")


def test_unknown_metadata_of_later_versions_is_ignored(records_folder):
    info = json.loads((records_folder / "train" / "records.json").read_text())
    (records_folder / "train" / "records.json").write_text(json.dumps(info | {"colour": "blue"}))
    assert verify_records(records_folder / "train").images == 12


def test_other_files_beside_the_shards_are_ignored(records_folder):
    for name in ("_SUCCESS", "._train-00000-of-00003.tfrecord", "notes.txt"):
        (records_folder / "train" / name).write_text("no records")
    assert verify_records(records_folder / "train").images == 12


def test_a_number_of_records_different_from_the_metadata_is_rejected(records_folder):
    info = json.loads((records_folder / "train" / "records.json").read_text())
    (records_folder / "train" / "records.json").write_text(json.dumps(info | {"images": 13}))
    with pytest.raises(InputError, match=r"records must be intact; got 12 of them in \S+, where its records\.json says 13\."):
        RandomAccessRecords(records_folder / "train")


def test_object_detection_records_are_rejected(records_folder, tmp_path):
    example = tf.train.Example()
    example.features.feature["image/object/class/label"].int64_list.value.append(1)
    with tf.io.TFRecordWriter(str(records_folder / "train" / "train-00000-of-00003.tfrecord")) as writer:
        writer.write(example.SerializeToString())
    info = json.loads((remove_checksums(records_folder / "train") / "records.json").read_text())
    (records_folder / "train" / "records.json").write_text(json.dumps(info | {"images": 12 - 5 + 1}))
    with pytest.raises(
        InputError, match=r"records must be for classification; got records without classes in .*\. Use records that were"
    ):
        fetch(records_folder, tmp_path / "new")
    assert contents(tmp_path / "new") == {}
