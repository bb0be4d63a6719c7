"""Records of images with several labels hold lists, say so in records.json, and are read without and with TensorFlow."""

import json
from pathlib import Path

import pytest
import tensorflow as tf
from support import several_labels

from kfp_vision.core.errors import InputError
from kfp_vision.dataset.images import validate_image
from kfp_vision.dataset.table import ImageRow, join_labels
from kfp_vision.records import tf_dataset
from kfp_vision.records.convert import write_shards
from kfp_vision.records.example import encode_example, encode_several_labels
from kfp_vision.records.records_folder import RandomAccessRecords, read_examples, read_fields, read_records_info

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
