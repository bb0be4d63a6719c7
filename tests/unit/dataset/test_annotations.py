"""Pascal VOC annotations: parsed whatever the XML holds, matched, split, and written for the Object Detection API."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import boxed_images

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import annotations, label_map, table
from kfp_vision.dataset.annotations import Annotation, Box
from kfp_vision.dataset.images import Rejected
from kfp_vision.dataset.ingest import ingest_images
from kfp_vision.dataset.split import split_images
from kfp_vision.dataset.table import ImageRow
from kfp_vision.records import convert

SPLITS = ("train", "validation", "test")
quickly = settings(database=None, deadline=None, max_examples=200)
BOX = ("gate", 10, 20, 30, 40)
GATE = Box("gate", 10, 20, 30, 40, 0, 1, "Left")
# The features that TfExampleDecoder of the Object Detection API reads.
NUMBERS, SHARES, TEXTS = (tf.io.VarLenFeature(kind) for kind in (tf.int64, tf.float32, tf.string))
SCHEMA = {
    "image/height": tf.io.FixedLenFeature((), tf.int64),
    "image/width": tf.io.FixedLenFeature((), tf.int64),
    "image/filename": tf.io.FixedLenFeature((), tf.string),
    "image/source_id": tf.io.FixedLenFeature((), tf.string),
    "image/key/sha256": tf.io.FixedLenFeature((), tf.string),
    "image/encoded": tf.io.FixedLenFeature((), tf.string),
    "image/format": tf.io.FixedLenFeature((), tf.string),
    "image/object/bbox/xmin": SHARES,
    "image/object/bbox/xmax": SHARES,
    "image/object/bbox/ymin": SHARES,
    "image/object/bbox/ymax": SHARES,
    "image/object/class/label": NUMBERS,
    "image/object/class/text": TEXTS,
    "image/object/difficult": NUMBERS,
    "image/object/truncated": NUMBERS,
    "image/object/view": TEXTS,
}


def reason(function, *arguments) -> str:
    """Returns the reason of a rejection."""
    with pytest.raises(Rejected) as refusal:
        function(*arguments)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def objects(folder: Path) -> dict[str, object]:
    """Returns the boxes of each image in a folder, or why there are none."""
    return {row.name: json.loads(row.objects) for row in annotations.scan_annotated_images(str(folder)).rows}


def boxes_of_one_image(folder: Path, xml: str, size: tuple[int, int] = (120, 80), **how: object) -> object:
    """Returns the boxes of an image with the given annotation, or why there are none."""
    boxed_images.picture(folder / "1.jpg", [], size, **how)
    (folder / "1.xml").write_text(xml, encoding="utf-8")
    return objects(folder)["1.jpg"]


def test_an_annotation_from_labelimg_is_parsed():
    read = annotations.parse_annotation(boxed_images.xml([BOX, ("red ball", 1, 2, 3, 4)]).encode())
    assert read == Annotation(120, 80, [GATE, Box("red ball", 1, 2, 3, 4, 0, 1, "Left")])


def test_optional_elements_have_defaults():
    bounds = "<bndbox><xmax>30.5</xmax><xmin> 10 </xmin><ymin>20</ymin><ymax>40</ymax></bndbox>"
    part = "<part><name>latch</name><bndbox><xmin>1</xmin></bndbox></part>"
    xml = f"<annotation><object><name>\n gate  door </name>{bounds}{part}<difficult>1</difficult></object></annotation>"
    assert annotations.parse_annotation(xml.encode()) == Annotation(
        0, 0, [Box("gate door", 10, 20, 30.5, 40, 1, 0, "Unspecified")]
    )


ENTITY = (
    '<!DOCTYPE annotation [<!ENTITY e SYSTEM "file:///etc/passwd">]><annotation><object><name>&e;</name></object></annotation>'
)
LAUGHS = "".join(f'<!ENTITY {name} "{f"&{before};" * 10}">' for before, name in zip("abcdefgh", "bcdefghi", strict=True))
BOMB = f'<!DOCTYPE annotation [<!ENTITY a "ha">{LAUGHS}]><annotation><folder>&i;</folder></annotation>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (" \n", "an empty annotation"),
        ("<annotation>", "an annotation that is not XML (no element found: line 1, column 12)"),
        ("{}", "an annotation that is not XML (not well-formed (invalid token): line 1, column 0)"),
        ("<html/>", "an annotation that is not Pascal VOC: its root element is html"),
        (ENTITY, "an annotation with a DOCTYPE, which is not allowed"),
        (BOMB, "an annotation with a DOCTYPE, which is not allowed"),
        ('<?xml version="1.0" encoding="nowhere"?><annotation/>', "an annotation that is not XML (unknown encoding"),
        (boxed_images.xml([BOX]).replace("<name>gate</name>", ""), "an object without a name"),
        (
            boxed_images.xml([BOX]).replace("gate", "ga\x9bte"),
            "a control character in the",
        ),
        (boxed_images.xml([BOX]).replace("bndbox", "robndbox"), "gate without a bndbox"),
        (boxed_images.xml([BOX]).replace("<xmax>30</xmax>", ""), 'a box of gate with xmax ""'),
        (boxed_images.xml([BOX]).replace("<xmax>30", "<xmax>wide"), "a box of gate with xmax wide"),
        (boxed_images.xml([BOX]).replace("<xmax>30", "<xmax>nan"), "a box of gate with xmax nan"),
        (boxed_images.xml([BOX]).replace("<ymin>20", "<ymin>-1e999"), "a box of gate with ymin -1e999"),
    ],
)
def test_an_invalid_annotation_is_rejected_in_one_line(xml, message):
    assert reason(annotations.parse_annotation, xml.encode()).startswith(message)


VALID = boxed_images.xml([BOX, ("red ball", 1, 2, 3, 4)]).encode()


def parse_or_reject(encoded: bytes) -> None:
    try:
        read = annotations.parse_annotation(encoded)
    except Rejected as refusal:
        assert str(refusal) and "\n" not in str(refusal) and len(str(refusal)) < 300
        return
    assert all(box.label for box in read.boxes)
    try:
        fitted = annotations.normalize_boxes(read, 120, 80)
    except Rejected as refusal:
        assert str(refusal) and "\n" not in str(refusal)
        return
    for box in fitted:
        assert 0 <= box.xmin < box.xmax <= 1 and 0 <= box.ymin < box.ymax <= 1


@quickly
@given(st.binary(max_size=300))
def test_any_bytes_are_parsed_or_rejected(encoded):
    parse_or_reject(encoded)


@quickly
@given(st.data(), st.integers(0, len(VALID)), st.integers(0, 30), st.binary(max_size=20))
def test_a_damaged_annotation_gives_boxes_or_a_reason(data, at, length, instead):
    parse_or_reject(VALID[:at] + instead + VALID[at + length :])


texts = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=12) | st.floats().map(str) | st.integers().map(str)


@quickly
@given(st.lists(st.tuples(*[texts] * 5), max_size=4), texts, texts)
def test_any_values_in_an_annotation_give_boxes_or_a_reason(boxes, width, height):
    xml = boxed_images.xml(boxes, (width, height)) if "<" not in f"{boxes}{width}{height}" else ""
    parse_or_reject(xml.replace("&", "&amp;").encode())


def test_deep_and_large_annotations_are_parsed(tmp_path):
    deep = "<a>" * 20000 + "</a>" * 20000
    assert annotations.parse_annotation(f"<annotation>{deep}</annotation>".encode()) == Annotation(0, 0, [])
    assert len(annotations.parse_annotation(boxed_images.xml([BOX] * 3000).encode()).boxes) == 3000
    assert boxes_of_one_image(tmp_path, boxed_images.xml([BOX] * 6000)) == "an annotation over 1 MB"


def test_boxes_are_normalized_and_clipped(tmp_path):
    (box, edge) = boxes_of_one_image(tmp_path, boxed_images.xml([("gate", 30, 20, 90, 60), ("sea", -5, 40, 121, 80)]))
    assert box == ["gate", 0.25, 0.25, 0.75, 0.75, 0, 1, "Left"]
    assert edge == ["sea", 0, 0.5, 1, 1, 0, 1, "Left"]


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (("gate", 30, 20, 30, 60), "an empty box of gate: 30, 20, 30, 60"),
        (("gate", 30, 60, 90, 20), "an empty box of gate: 30, 60, 90, 20"),
        (("gate", 120, 20, 140, 60), "a box of gate outside the image: 120, 20, 140, 60"),
        (("gate", 10, -20, 40, 0), "a box of gate outside the image: 10, -20, 40, 0"),
    ],
)
def test_an_invalid_box_rejects_its_image(tmp_path, box, message):
    assert boxes_of_one_image(tmp_path, boxed_images.xml([BOX, box])) == message


def test_an_annotation_for_another_size_is_rejected_but_a_missing_size_is_accepted(tmp_path):
    message = "an annotation for 500 x 375 pixels, but the image has 120 x 80"
    assert boxes_of_one_image(tmp_path, boxed_images.xml([BOX], size=(500, 375))) == message
    assert len(boxes_of_one_image(tmp_path, boxed_images.xml([BOX], size=None))) == 1
    assert len(boxes_of_one_image(tmp_path, boxed_images.xml([BOX], size=(0, 0)))) == 1


def exif_options(orientation: int) -> dict[str, Image.Exif]:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return {"exif": exif}


@pytest.mark.parametrize(
    ("orientation", "stored", "annotated_size", "keeps_boxes"),
    [
        (1, (120, 80), (120, 80), True),
        (6, (80, 120), (120, 80), True),  # drawn on the upright image
        (6, (120, 80), (120, 80), False),  # drawn on the image as stored
        (8, (100, 100), (100, 100), False),  # ambiguous
        (3, (120, 80), (120, 80), False),
        (6, (80, 120), None, False),
    ],
)
def test_a_rotated_image_keeps_its_boxes_only_if_they_refer_to_the_upright_image(
    tmp_path, orientation, stored, annotated_size, keeps_boxes
):
    found = boxes_of_one_image(tmp_path, boxed_images.xml([BOX], size=annotated_size), stored, **exif_options(orientation))
    if keeps_boxes:
        assert found == [["gate", 10 / 120, 20 / 80, 30 / 120, 40 / 80, 0, 1, "Left"]]
    else:
        assert found == (
            f"EXIF orientation {orientation}: the boxes may refer to the image before or after rotation; save it upright"
        )


def test_annotations_are_matched_in_the_same_folder_and_in_the_folders_of_voc(tmp_path):
    for name in ("a/1.jpg", "a/2.PNG", "VOC/JPEGImages/3.jpg", "own/images/4.jpg", "a/left.jpg", "VOC/SegmentationClass/3.png"):
        boxed_images.picture(tmp_path / name, [])
    for name in ("a/1.xml", "a/2.XML", "VOC/Annotations/3.xml", "own/annotations/4.xml", "a/right.xml", "a/.hidden.xml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(boxed_images.xml([BOX]))
    (tmp_path / "README.txt").write_text("read me")
    found = annotations.scan_annotated_images(str(tmp_path))
    assert [row.name for row in found.rows] == ["VOC/JPEGImages/3.jpg", "a/1.jpg", "a/2.PNG", "own/images/4.jpg"]
    assert found.skipped == {
        "no annotation": 2,
        "annotation without an image": 1,
        "hidden": 1,
        "not an image": 1,
    }


def test_two_images_with_the_same_annotation_are_rejected(tmp_path):
    boxed_images.picture(tmp_path / "1.png", [])
    boxes_of_one_image(tmp_path, boxed_images.xml([BOX]))
    assert set(objects(tmp_path).values()) == {"one of 2 images with the same annotation"}


def test_an_annotated_file_that_is_not_an_image_has_the_reason(tmp_path):
    (tmp_path / "1.jpg").write_bytes(b"<html>404</html>")
    (tmp_path / "1.xml").write_text(boxed_images.xml([BOX]))
    assert objects(tmp_path) == {"1.jpg": "not an image in a known format, but a web page"}


def test_an_archive_gives_the_same_table_as_a_folder_in_any_order_of_its_files(tmp_path):
    boxed_images.data(tmp_path / "data", pictures=12)
    plain = annotations.scan_annotated_images(str(tmp_path / "data"))
    for kind in ("zip", "gztar"):
        packed = annotations.scan_annotated_images(shutil.make_archive(str(tmp_path / "packed"), kind, tmp_path / "data"))
        assert packed.fingerprint == plain.fingerprint
        assert [(row.name, row.label, row.objects) for row in packed.rows] == [
            (row.name, row.label, row.objects) for row in plain.rows
        ]


def test_the_fingerprint_changes_with_a_box(tmp_path):
    boxes_of_one_image(tmp_path, boxed_images.xml([BOX]))
    before = annotations.scan_annotated_images(str(tmp_path)).fingerprint
    (tmp_path / "1.xml").write_text(boxed_images.xml([("gate", 10, 20, 30, 41)]))
    assert annotations.scan_annotated_images(str(tmp_path)).fingerprint != before


def test_splits_come_from_folders_as_roboflow_exports_them(tmp_path):
    for name in ("train/1", "valid/2", "test/3"):
        boxed_images.picture(tmp_path / f"{name}.jpg", [BOX])
        (tmp_path / f"{name}.xml").write_text(boxed_images.xml([BOX]))
    rows = annotations.scan_annotated_images(str(tmp_path)).rows
    assert {row.name: row.split for row in rows} == {"test/3.jpg": "test", "train/1.jpg": "train", "valid/2.jpg": "validation"}


def test_splits_come_from_the_lists_of_voc_and_unlisted_images_are_skipped(tmp_path):
    voc = tmp_path / "VOCdevkit" / "VOC2012"
    for number in range(6):
        boxed_images.picture(voc / "JPEGImages" / f"{number}.jpg", [BOX])
        (voc / "Annotations").mkdir(exist_ok=True)
        (voc / "Annotations" / f"{number}.xml").write_text(boxed_images.xml([BOX]))
    lists = voc / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    texts = {"train": "0\n1\n", "val": "2\r\n", "trainval": "0\n1\n2\n4\n", "test": "3", "gate_train": "5 1\n"}
    for name, text in texts.items():
        (lists / f"{name}.txt").write_text(text)
    found = annotations.scan_annotated_images(str(tmp_path))
    splits = {Path(row.name).stem: row.split for row in found.rows}
    assert splits == {"0": "train", "1": "train", "2": "validation", "3": "test", "4": ""}
    assert found.skipped == {"not listed in ImageSets/Main": 1, "not an image": 1}


@pytest.fixture(scope="module")
def boxed_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    boxed_images.data(folder, pictures=60)
    return folder


def test_an_image_is_labelled_by_its_rarest_class(boxed_folder):
    found = annotations.scan_annotated_images(str(boxed_folder))
    assert found.classes == {"gate": 18, "red ball": 54, "sea": 12}
    labels = {row.name: row.label for row in found.rows}
    assert [labels[f"some/{name}"] for name in ("015.jpg", "003.jpg", "001.jpg", "007.jpg")] == ["sea", "gate", "red ball", ""]


def test_the_rarest_class_is_determined_after_exclusions(tmp_path):
    sea, both = ("sea", 40, 50, 60, 70), [BOX, ("sea", 40, 50, 60, 70)]
    for name, boxes in {"1": both, "2": both, "3": [sea], "4": [BOX], "5": [BOX], "6": [BOX]}.items():
        boxed_images.picture(tmp_path / "data" / f"{name}.jpg", boxes)
        (tmp_path / "data" / f"{name}.xml").write_text(boxed_images.xml(boxes))
    (tmp_path / "list.csv").write_text("path\n4.jpg\n5.jpg\n6.jpg\n")
    outputs = {"table": tmp_path / "t.csv", "page": tmp_path / "p.html", "leave_out_uri": str(tmp_path / "list.csv")}
    found = ingest_images(str(tmp_path / "data"), task="detection", check_images=True, splits=2, **outputs)
    assert {row.name: row.label for row in found.rows} == {"1.jpg": "gate", "2.jpg": "gate", "3.jpg": "sea"}
    assert annotations.scan_annotated_images(str(tmp_path / "data")).rows[0].label == "sea"  # of all six
    assert found.skipped == {"excluded by leave_out_uri": 3}


def split_rows(rows: list[ImageRow], folder: Path) -> dict[str, list[ImageRow]]:
    """Writes the tables of the splits and the label map, and returns the rows of each split."""
    folder.mkdir(exist_ok=True)
    table.write_table(folder / "images", rows)
    outputs = {name: folder / name for name in (*SPLITS, "label_map", "left_out")}
    split_images(folder / "images", validation_ratio=0.2, test_ratio=0.1, **outputs)
    return {split: list(table.read_table(folder / split)) for split in SPLITS}


def test_every_class_is_in_every_split_in_about_its_ratio(boxed_folder, tmp_path):
    parts = split_rows(annotations.scan_annotated_images(str(boxed_folder)).rows, tmp_path)
    assert {split: len(rows) for split, rows in parts.items()} == {"train": 42, "validation": 12, "test": 6}
    for label, pictures in (("gate", 18), ("red ball", 54), ("sea", 12)):
        on = {split: sum(label in row.labels for row in rows) for split, rows in parts.items()}
        assert on["train"] >= 0.5 * pictures
        assert on["validation"] > 0 and on["test"] > 0
    assert sum(not row.labels for row in parts["train"]) == 4


def test_copies_stay_together_and_are_excluded_with_different_boxes(boxed_folder, tmp_path, capsys):
    folder = shutil.copytree(boxed_folder, tmp_path / "data")
    for name, xml in (("000", None), ("001", boxed_images.xml([("sea", 1, 2, 3, 4)]))):
        original = next(folder.glob(f"some/{name}.*g"))
        shutil.copyfile(original, folder / f"copy{name}{original.suffix}")
        (folder / f"copy{name}.xml").write_text(xml or original.with_suffix(".xml").read_text())
    parts = split_rows(annotations.scan_annotated_images(str(folder)).rows, tmp_path / "cut")
    names = {row.name: split for split, rows in parts.items() for row in rows}
    assert names["copy000.png"] == names["some/000.png"]
    assert "copy001.jpg" not in names and "some/001.jpg" not in names
    assert sorted((tmp_path / "cut" / "left_out").read_text().splitlines()[1:]) == [
        f"{folder}/copy001.jpg,sea,same image with different boxes",
        f"{folder}/some/001.jpg,red ball,same image with different boxes",
    ]
    assert "excluded, same image with different boxes: " in capsys.readouterr().out


def label_map_of_the_api(text: str) -> dict[str, int]:
    """Parses a label map as the API does: string_int_label_map.proto in protobuf's text format."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="label_map.proto", package="object_detection.protos", syntax="proto2")
    item = file.message_type.add(name="StringIntLabelMapItem")
    for name, number, kind in (("name", 1, kinds.TYPE_STRING), ("id", 2, kinds.TYPE_INT32)):
        item.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL)
    label_map_message = file.message_type.add(name="StringIntLabelMap")
    of = ".object_detection.protos.StringIntLabelMapItem"
    label_map_message.field.add(name="item", number=1, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_REPEATED, type_name=of)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    message = message_factory.GetMessageClass(pool.FindMessageTypeByName("object_detection.protos.StringIntLabelMap"))()
    text_format.Parse(text, message)
    return {item.name: item.id for item in message.item}


names = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=20)


@quickly
@given(st.lists(names, unique=True, min_size=1, max_size=5))
def test_the_label_map_is_read_by_protobuf(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("labels")
    label_map.write_label_map(folder, labels)
    expected = {label: number for number, label in enumerate(labels, start=1)}
    assert label_map_of_the_api((folder / "label_map.pbtxt").read_text(encoding="utf-8")) == expected
    assert label_map.read_label_map(folder) == expected


def test_the_label_map_is_formatted_as_in_the_api(tmp_path):
    label_map.write_label_map(tmp_path, ["daisy", "rose o' the sea"])
    assert (tmp_path / "label_map.pbtxt").read_text() == (
        "item {\n  id: 1\n  name: 'daisy'\n}\n\nitem {\n  id: 2\n  name: 'rose o\\' the sea'\n}\n"
    )


@pytest.mark.parametrize("max_side", [0, 60])
def test_the_records_are_read_by_the_object_detection_api(boxed_folder, tmp_path, max_side):
    rows = annotations.scan_annotated_images(str(boxed_folder)).rows
    parts = split_rows(rows, tmp_path)
    outputs = {split: tmp_path / f"{split}_records" for split in SPLITS}
    tables = {split: tmp_path / split for split in SPLITS}
    limits = {"images_per_shard": 20, "max_refused_ratio": 0.0, "max_side": max_side}
    convert.write_tfrecords(tables, tmp_path / "label_map", outputs, tmp_path / "refused", **limits)
    number_of = label_map_of_the_api((tmp_path / "label_map" / "label_map.pbtxt").read_text())
    assert number_of == {"gate": 1, "red ball": 2, "sea": 3}
    truth = boxed_images.data(tmp_path / "again", pictures=60)
    for split, of_split in parts.items():
        shards = sorted(str(file) for file in outputs[split].glob("*.tfrecord"))
        found = [tf.io.parse_single_example(record, SCHEMA) for record in tf.data.TFRecordDataset(shards)]
        assert [example["image/filename"].numpy().decode() for example in found] == [row.name for row in of_split]
        for row, example in zip(of_split, found, strict=True):
            dense = {
                name: tf.sparse.to_dense(value).numpy().tolist()
                for name, value in example.items()
                if isinstance(value, tf.sparse.SparseTensor)
            }
            expected = truth[row.name]
            edges = [dense[f"image/object/bbox/{side}"] for side in ("xmin", "ymin", "xmax", "ymax")]
            shares = [(xmin / 120, ymin / 80, xmax / 120, ymax / 80) for _, xmin, ymin, xmax, ymax in expected]
            assert list(zip(*edges, strict=True)) == [pytest.approx(share) for share in shares]
            assert [text.decode() for text in dense["image/object/class/text"]] == [label for label, *_ in expected]
            assert dense["image/object/class/label"] == [number_of[label] for label, *_ in expected]
            assert dense["image/object/difficult"] == [0] * len(expected)
            assert dense["image/object/truncated"] == [1] * len(expected)
            assert dense["image/object/view"] == [b"Left"] * len(expected)
            encoded = example["image/encoded"].numpy()
            assert example["image/key/sha256"].numpy().decode() == hashlib.sha256(encoded).hexdigest()
            assert example["image/source_id"].numpy() == example["image/filename"].numpy()
            size = (60, 40) if max_side else (120, 80)
            assert (int(example["image/width"]), int(example["image/height"])) == size
            pixels = tf.io.decode_image(encoded).numpy()
            assert pixels.shape == (size[1], size[0], 3)
            if not max_side:
                assert encoded == (boxed_folder / row.name).read_bytes()
            for (label, *_), xmin, ymin, xmax, ymax in zip(expected[-1:], *(edge[-1:] for edge in edges), strict=True):
                middle = pixels[int((ymin + ymax) / 2 * size[1]), int((xmin + xmax) / 2 * size[0])]
                assert middle.argmax() == ["red", "green", "blue"].index(boxed_images.COLOURS[label])


def test_an_image_with_an_unusable_annotation_is_rejected_and_counted(boxed_folder, tmp_path):
    folder = shutil.copytree(boxed_folder, tmp_path / "data")
    (folder / "some" / "001.xml").write_text(boxed_images.xml([("gate", 9, 9, 3, 10)]))
    split_rows(annotations.scan_annotated_images(str(folder)).rows, tmp_path)
    outputs = {split: tmp_path / f"{split}_records" for split in SPLITS}
    tables = {split: tmp_path / split for split in SPLITS}
    write = (tables, tmp_path / "label_map", outputs, tmp_path / "refused")
    convert.write_tfrecords(*write, images_per_shard=100, max_refused_ratio=0.02)
    assert (tmp_path / "refused").read_text().splitlines()[1:] == [
        f'{folder}/some/001.jpg,,"an empty box of gate: 9, 9, 3, 10"'
    ]
    with pytest.raises(InputError, match="at most 1% of the images may be rejected; got 1 of 60"):
        convert.write_tfrecords(*write, images_per_shard=100, max_refused_ratio=0.01)


def test_a_detection_label_map_is_rejected_by_a_classifier(tmp_path):
    label_map.write_label_map(tmp_path, ["gate"])
    with pytest.raises(InputError, match=r"the label map must be for classification; got label_map\.pbtxt"):
        label_map.read_labels(tmp_path)


def ingest(folder: Path, root: Path, check_images: bool = True) -> table.Catalog:
    outputs = {"table": root / "t.csv", "page": root / "p.html"}
    return ingest_images(str(folder), task="detection", check_images=check_images, splits=3, **outputs)


def test_the_page_reports_objects_and_unusable_annotations(boxed_folder, tmp_path, capsys):
    folder = shutil.copytree(boxed_folder, tmp_path / "data")
    (folder / "some" / "001.xml").write_text("")
    ingest(folder, tmp_path)
    page = (tmp_path / "p.html").read_text()
    assert "83 annotated objects: gate 18, red ball 53, sea 12." in page
    assert "6 images have an annotation without objects;" in page
    assert "1 annotations cannot be used; their images will be rejected. First: some/001.jpg: an empty annotation." in page
    assert ">60</p>" in page
    assert capsys.readouterr().out.endswith("60 images in 3 classes, 0 files skipped\n")


def test_samples_on_the_page_show_their_boxes(boxed_folder):
    (row,) = (row for row in annotations.scan_annotated_images(str(boxed_folder)).rows if row.name == "some/009.jpg")
    annotated = annotations.draw_boxes((boxed_folder / row.name).read_bytes(), row)
    pixels = tf.io.decode_jpeg(annotated.encoded).numpy()
    red, green, _ = pixels[45, 61]  # the left edge of the gate
    assert red > 150 and green < 100
    assert pixels[45, 80].argmax() == 1


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        ([], "images_uri of detection must contain annotated objects; got none in 4 images at "),
        ([BOX], "every class must appear in at least 3 images, one per split; got 1 of sea. Add images of it, or remove it"),
    ],
)
def test_insufficient_data_for_a_detector_is_rejected(tmp_path, boxes, message):
    for number in range(4):
        boxed_images.picture(tmp_path / "data" / f"{number}.jpg", boxes)
        (tmp_path / "data" / f"{number}.xml").write_text(
            boxed_images.xml([*boxes, ("sea", 1, 1, 9, 9)] if boxes and not number else boxes)
        )
    with pytest.raises(InputError) as refusal:
        ingest(tmp_path / "data", tmp_path)
    assert str(refusal.value).startswith(f"error: {message}")
    assert len(ingest(tmp_path / "data", tmp_path, check_images=False).rows) == 4


@pytest.mark.parametrize("uri", ["sample", "pictures.csv"])
def test_sources_without_boxes_are_rejected(uri):
    with pytest.raises(InputError, match=f"images_uri of detection must be a folder or an archive; got {uri}"):
        annotations.scan_annotated_images(uri)
