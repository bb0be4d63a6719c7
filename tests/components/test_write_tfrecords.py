import csv
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from support import run_component

from kfp_vision import components
from kfp_vision.dataset import table
from kfp_vision.records.folder import read_records_info

SCHEMA = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/format": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/class/text": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
}


def examples(folder: Path) -> list[dict[str, object]]:
    """Reads the records of a folder with TensorFlow."""
    shards = tf.data.TFRecordDataset(sorted(str(file) for file in folder.glob("*.tfrecord")))
    parsed = shards.map(lambda record: tf.io.parse_single_example(record, SCHEMA))
    return list(parsed.as_numpy_iterator())


def test_writes_the_original_bytes_in_the_order_of_the_table(pictures, split, written):
    for part in ("train", "validation", "test"):
        with (split.folder / "tables" / f"{part}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        found = examples(written.folder / f"{part}_records")
        assert [example["image/filename"].decode() for example in found] == [row["name"] for row in rows]
        for example in found:
            name = example["image/filename"].decode()
            assert example["image/encoded"] == (pictures / name).read_bytes()
            assert example["image/class/text"].decode() == name.partition("/")[0]
            assert example["image/class/label"] == ["bellcup", "globelet"].index(name.partition("/")[0])


def test_says_how_many_it_wrote_and_refused(written):
    assert written.metadata["train_records"] == {"pictures": 14, "files": 2}
    assert written.metadata["validation_records"] == {"pictures": 4}
    assert written.metadata["test_records"] == {"pictures": 2}
    assert (written.folder / "refused").read_text() == "uri,label,reason\n"
    shards = sorted(file.name for file in (written.folder / "train_records").glob("*.tfrecord"))
    assert shards == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]


@pytest.fixture(scope="module")
def with_one_broken(pictures, ratios, tmp_path_factory) -> dict[str, Path]:
    """Makes the inputs of the stage for the same images, one of them cut off."""
    root = tmp_path_factory.mktemp("broken")
    folder = shutil.copytree(pictures, root / "pictures")
    (folder / "globelet" / "0002.jpg").write_bytes((pictures / "globelet" / "0002.jpg").read_bytes()[:5000])
    values = run_component.to_ingest(folder) | ratios
    ingested = run_component.run(components.ingest_images, root / "ingest", **values)
    split = run_component.run(
        components.split_images, root / "split", {"images": ingested.folder / "images"}, advanced={}, **ratios
    )
    return {name: split.folder / name for name in ("tables", "label_map")}


def refused(ended: run_component.Ended) -> list[dict[str, str]]:
    with (ended.folder / "refused").open(newline="") as file:
        return list(csv.DictReader(file))


def test_leaves_out_a_broken_picture_and_says_why(with_one_broken, tmp_path):
    limits = {"images_per_shard": 100, "advanced": {"max_refused_ratio": 0.05}}
    ended = run_component.run(components.write_tfrecords, tmp_path, with_one_broken, **limits)
    assert ended.succeeded
    assert sum(made.get("pictures", 0) for made in ended.metadata.values()) == 19
    (row,) = refused(ended)
    assert row["uri"].endswith("/globelet/0002.jpg")
    assert row["label"] == "globelet"
    assert row["reason"].startswith("image file is truncated")
    page = (ended.folder / "summary").read_text()
    assert "/globelet/0002.jpg</td>" in page
    assert "1 of 20 images" in page


def test_shrinks_what_is_larger_than_asked(split, tmp_path):
    inputs = {name: split.folder / name for name in ("tables", "label_map")}
    limits = {"images_per_shard": 100, "advanced": {"max_side": 100}}
    ended = run_component.run(components.write_tfrecords, tmp_path, inputs, **limits)
    found = examples(ended.folder / "train_records")
    assert len(found) == 14
    for example in found:
        assert max(example["image/height"], example["image/width"]) == 100
        assert tf.io.decode_jpeg(example["image/encoded"]).shape == (example["image/height"], example["image/width"], 3)


def test_refuses_when_too_many_pictures_are_broken(with_one_broken, tmp_path):
    limits = {"images_per_shard": 100, "advanced": {"max_refused_ratio": 0.01}}
    ended = run_component.run(components.write_tfrecords, tmp_path, with_one_broken, **limits)
    line = run_component.refusal(ended, kept=("refused", "summary"))
    assert line.startswith("error: at most 1% of the images may be rejected; got 1 of 20. Fix or remove them, ")
    assert "/globelet/0002.jpg: image file is truncated" in line
    assert len(refused(ended)) == 1
    assert not [name for name in ended.left_behind() if name.endswith(".partial")]


def test_writes_one_partition_and_leaves_the_judgement_on_refused_pictures_to_the_join(with_one_broken, tmp_path):
    found = []
    for number in range(2):
        limits = {"images_per_shard": 4, "partition": number, "partitions": 2, "advanced": {"max_refused_ratio": 0.0}}
        ended = run_component.run(components.write_partition, tmp_path / str(number), with_one_broken, **limits)
        assert ended.succeeded
        assert f"partition {number + 1} of 2" in ended.printed
        assert ended.metadata["part"] == {}  # KFP passes the metadata of all partitions in a single argument
        part = ended.folder / "part"
        found.append((read_records_info(part / "train").images, len(table.read_unused(part / "refused"))))
    assert sorted(sum(column) for column in zip(*found, strict=True)) == [1, 13]
