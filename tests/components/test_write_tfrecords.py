import csv
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from support import run_component

from kfp_vision import components
from kfp_vision.dataset import table
from kfp_vision.records.records_folder import read_records_info

SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/format": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/class/text": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
}


def read_examples(folder: Path) -> list[dict[str, object]]:
    """Reads the records of a folder with TensorFlow."""
    shards = tf.data.TFRecordDataset(sorted(str(file) for file in folder.glob("*.tfrecord")))
    parsed = shards.map(lambda record: tf.io.parse_single_example(record, SCHEMA))
    return list(parsed.as_numpy_iterator())


def test_writes_the_original_bytes_in_table_order(image_folder, split, written):
    for part in ("train", "validation", "test"):
        with (split.folder / "tables" / f"{part}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        parsed_examples = read_examples(written.folder / f"{part}_records")
        assert [example["image/filename"].decode() for example in parsed_examples] == [row["name"] for row in rows]
        for example in parsed_examples:
            name = example["image/filename"].decode()
            assert example["image/encoded"] == (image_folder / name).read_bytes()
            assert example["image/class/text"].decode() == name.partition("/")[0]
            assert example["image/class/label"] == ["bellcup", "globelet"].index(name.partition("/")[0])


def test_reports_written_and_rejected_images(written):
    assert written.metadata["train_records"] == {"pictures": 14, "files": 2}
    assert written.metadata["validation_records"] == {"pictures": 4}
    assert written.metadata["test_records"] == {"pictures": 2}
    assert (written.folder / "refused").read_text() == "uri,label,reason\n"
    shards = sorted(file.name for file in (written.folder / "train_records").glob("*.tfrecord"))
    assert shards == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


@pytest.fixture(scope="module")
def inputs_with_a_truncated_image(image_folder, ratios, tmp_path_factory) -> dict[str, Path]:
    """Makes the inputs of the stage for the same images, one of them truncated."""
    root = tmp_path_factory.mktemp("broken")
    folder = shutil.copytree(image_folder, root / "pictures")
    (folder / "globelet" / "0002.jpg").write_bytes((image_folder / "globelet" / "0002.jpg").read_bytes()[:5000])
    values = run_component.ingest_arguments(folder) | ratios
    ingested = run_component.run(components.ingest_images, root / "ingest", **values)
    split = run_component.run(
        components.split_images, root / "split", {"images": ingested.folder / "images"}, labels="one", advanced={}, **ratios
    )
    return {name: split.folder / name for name in ("tables", "label_map")}


def read_rejections(ended: run_component.Result) -> list[dict[str, str]]:
    with (ended.folder / "refused").open(newline="") as file:
        return list(csv.DictReader(file))


def test_lists_an_invalid_image_with_its_reason(inputs_with_a_truncated_image, tmp_path):
    limits = {"images_per_shard": 100, "advanced": {"max_refused_ratio": 0.05}}
    ended = run_component.run(components.write_tfrecords, tmp_path, inputs_with_a_truncated_image, **limits)
    assert ended.succeeded
    assert sum(metadata.get("pictures", 0) for metadata in ended.metadata.values()) == 19
    (row,) = read_rejections(ended)
    assert row["uri"].endswith("/globelet/0002.jpg")
    assert row["label"] == "globelet"
    assert row["reason"].startswith("image file is truncated")
    page = (ended.folder / "summary").read_text()
    assert "/globelet/0002.jpg</td>" in page
    assert "1 of 20 images" in page


def test_resizes_images_larger_than_max_side(split, tmp_path):
    inputs = {name: split.folder / name for name in ("tables", "label_map")}
    limits = {"images_per_shard": 100, "advanced": {"max_side": 100}}
    ended = run_component.run(components.write_tfrecords, tmp_path, inputs, **limits)
    resized = read_examples(ended.folder / "train_records")
    assert len(resized) == 14
    for example in resized:
        assert max(example["image/height"], example["image/width"]) == 100
        assert tf.io.decode_jpeg(example["image/encoded"]).shape == (example["image/height"], example["image/width"], 3)


def test_rejects_too_many_invalid_images(inputs_with_a_truncated_image, tmp_path):
    limits = {"images_per_shard": 100, "advanced": {"max_refused_ratio": 0.01}}
    ended = run_component.run(components.write_tfrecords, tmp_path, inputs_with_a_truncated_image, **limits)
    line = run_component.error_line(ended, kept=("refused", "summary"))
    assert line.startswith("error: at most 1% of the images may be rejected; got 1 of 20. Fix or remove them, ")
    assert "/globelet/0002.jpg: image file is truncated" in line
    assert len(read_rejections(ended)) == 1
    assert not [name for name in ended.left_behind() if name.endswith(".partial")]


def test_a_partition_does_not_apply_max_refused_ratio(inputs_with_a_truncated_image, tmp_path):
    results = []
    for number in range(2):
        limits = {"images_per_shard": 4, "partition": number, "partitions": 2, "advanced": {"max_refused_ratio": 0.0}}
        ended = run_component.run(components.write_partition, tmp_path / str(number), inputs_with_a_truncated_image, **limits)
        assert ended.succeeded
        assert f"partition {number + 1} of 2" in ended.printed
        assert ended.metadata["part"] == {}  # KFP passes the metadata of all partitions in a single argument
        part = ended.folder / "part"
        results.append((read_records_info(part / "train").images, len(table.read_unused(part / "refused"))))
    assert sorted(sum(column) for column in zip(*results, strict=True)) == [1, 13]
