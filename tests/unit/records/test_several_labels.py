"""Records of images with several labels hold lists, say so in records.json, and are read without and with TensorFlow."""

import json
from pathlib import Path

import pytest
import tensorflow as tf
from support import several_labels

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import label_map, scan, table
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.split import write_split_tables
from kfp_vision.dataset.table import SPLITS, ImageRow, join_labels
from kfp_vision.records import tf_dataset
from kfp_vision.records.convert import write_shards
from kfp_vision.records.example import encode_example, encode_several_labels
from kfp_vision.records.partitions import join_partitions, write_all_records, write_partition_folder
from kfp_vision.records.records_folder import (
    RandomAccessRecords,
    copy_records,
    read_examples,
    read_fields,
    read_records_info,
)

NUMBERS = [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return several_labels.write_records(tmp_path_factory.mktemp("several"), images=8) / "train"


def test_records_json_says_that_images_have_several_labels_and_only_then(folder, tmp_path):
    assert json.loads((folder / "records.json").read_text())["labels_per_image"] == "several"
    assert read_records_info(folder).several
    write_shards(tmp_path / "one", "train", iter(()), ["a", "b"], 10)
    assert list(json.loads((tmp_path / "one" / "records.json").read_text())) == ["split", "images", "shards", "labels", "files"]
    assert not read_records_info(tmp_path / "one").several


@pytest.fixture(scope="module")
def split(tmp_path_factory) -> Path:
    """Makes the split tables of eighty images, three of them damaged, and their label map."""
    root = tmp_path_factory.mktemp("split")
    listed = several_labels.write_folder(root / "photos", 80)
    rows = scan.scan_images(str(listed), labels="several").rows
    for row in rows[4:40:16]:
        Path(row.uri).write_bytes(b"no image")
    table.write_table(root / "images.csv", rows)
    write_split_tables(
        root / "images.csv", root / "tables", root / "label_map", validation_ratio=0.2, test_ratio=0.1, labels="several"
    )
    return root


def write_all(split: Path, folder: Path, partitions: int) -> Path:
    folder.mkdir()
    outputs = {name: folder / name for name in SPLITS}
    how = {"images_per_shard": 8, "max_refused_ratio": 0.1, "summary": folder / "page.html"}
    if partitions == 1:
        write_all_records(split / "tables", split / "label_map", outputs, folder / "refused.csv", **how)
        return folder
    limits = {"images_per_shard": 8, "max_refused_ratio": 0.1, "partitions": partitions}
    parts = [folder / f"part{number}" for number in range(partitions)]
    for number, part in enumerate(parts):
        write_partition_folder(split / "tables", split / "label_map", part, partition=number, **limits)
    join_partitions(parts, split / "tables", outputs, folder / "refused.csv", **how)
    return folder


def test_partitions_join_to_the_records_of_one_writer(split, tmp_path):
    whole, joined = (write_all(split, tmp_path / str(partitions), partitions) for partitions in (1, 3))
    for name in SPLITS:
        assert sorted(read_fields(whole / name)) == sorted(read_fields(joined / name))
        assert (joined / name / "records.json").read_bytes() == (whole / name / "records.json").read_bytes()
        assert read_records_info(joined / name).several
    assert (whole / "refused.csv").read_text() == (joined / "refused.csv").read_text()
    assert {reject[1] for reject in table.read_unused(whole / "refused.csv")} == {"blue|green"}
    for folder in (whole, joined):
        assert "Labels on an image: none on 10 images, 1 on 30 images, 2 on 27 images, 3 on 10 images." in page_text(folder)


def page_text(folder: Path) -> str:
    return " ".join((folder / "page.html").read_text().split())


def test_copied_records_keep_the_kind_and_splits_of_two_kinds_are_rejected(split, tmp_path):
    records = write_all(split, tmp_path / "records", 1)
    copied = copy_records(str(records), {name: tmp_path / "copy" / name for name in SPLITS}, tmp_path / "copy" / "labels")
    assert all(info.several for info in copied.values())
    assert label_map.has_several_labels(tmp_path / "copy" / "labels")
    about = json.loads((records / "test" / "records.json").read_text())
    del about["labels_per_image"]
    (records / "test" / "records.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="records of all splits must have the same number of labels for an image; got "):
        copy_records(str(records), {name: tmp_path / "again" / name for name in SPLITS}, tmp_path / "again" / "labels")


def test_records_json_of_another_kind_is_rejected(folder, tmp_path):
    about = json.loads((folder / "records.json").read_text()) | {"labels_per_image": "many"}
    (tmp_path / "records.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="must describe the records"):
        read_records_info(tmp_path)


def test_a_record_holds_the_numbers_and_names_of_all_labels_ascending(folder):
    fields = list(read_fields(folder))
    assert [one.numbers for one in fields] == NUMBERS
    assert [one.label.split("\t") for one in fields][4:] == [
        ["blue", "green"],
        ["blue", "red"],
        ["green", "red"],
        several_labels.LABELS,
    ]
    assert [(one.number, one.label) for one in fields[:3]] == [(-1, ""), (0, "blue"), (1, "green")]
    assert [label for _, _, label in read_examples(folder)] == [one.label for one in fields]


def test_names_follow_the_numbers_where_all_labels_of_an_image_are_numbers_but_others_are_not():
    row = ImageRow("", join_labels(["9", "10"]), 0, "", "a.jpg")
    image = validate_image(several_labels.draw(("red",), 0))
    record = b"".join(encode_several_labels(row, image, {"10": 0, "9": 1, "plain": 2}))
    feature = tf.train.Example.FromString(record).features.feature
    assert list(feature["image/class/label"].int64_list.value) == [0, 1]
    assert list(feature["image/class/text"].bytes_list.value) == [b"10", b"9"]


def test_a_record_of_one_label_has_the_same_bytes_as_without_several_labels():
    row, image = ImageRow("", "green", 0, "", "a.jpg"), validate_image(several_labels.draw(("green",), 0))
    assert b"".join(encode_several_labels(row, image, {"green": 1})) == b"".join(encode_example(row, image, 1))


def test_tensorflow_parses_any_number_of_labels(folder):
    records = RandomAccessRecords(folder)
    labels = [tf_dataset.parse_record(records.read(at), several=True)["image/class/label"].numpy() for at in range(8)]
    assert [tuple(one.tolist()) for one in labels] == NUMBERS
