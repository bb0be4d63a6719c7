"""Data of several labels from the table to the split: one row an image, sets described, rare labels, the sample."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from support import several_labels as drawn

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, label_map, scan
from kfp_vision.dataset.several_labels import check_names, hidden_notes, set_notes
from kfp_vision.dataset.split import split_images
from kfp_vision.dataset.table import Catalog, ImageRow, read_table, read_unused, write_table
from kfp_vision.storage import several_sample


@pytest.fixture
def folders(tmp_path) -> Path:
    """Makes class folders, where one image is in two of them, and three in each alone."""
    for label in ("blue", "red"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "photos" / label / f"{number}.jpg").write_bytes(drawn.draw((label,), number))
        (tmp_path / "photos" / label / "both.jpg").write_bytes(drawn.draw(("blue", "red"), 9))
    return tmp_path / "photos"


def ingested(uri, folder: Path, **how) -> Catalog:
    outputs = {"table": folder / "images.csv", "page": folder / "page.html"}
    return ingest.ingest_images(str(uri), check_images=True, splits=2, labels="several", **outputs, **how)


def test_an_image_in_the_folders_of_two_classes_has_both_labels(folders, tmp_path, capsys):
    found = ingested(folders, tmp_path)
    assert {row.name: row.labels for row in found.rows if "both" in row.name} == {"blue/both.jpg": ["blue", "red"]}
    assert found.classes == {"blue": 4, "red": 4} and len(found.rows) == 7
    printed = capsys.readouterr().out
    assert (
        "1 image is a byte-for-byte copy of others, and not used a second time; 1 image has the labels of several copies."
        in printed
    )
    assert "Labels on an image: 1 on 6 images, 2 on 1 image." in printed
    assert "Labels most often together: blue and red (1)." in printed
    assert [row.label for row in read_table(tmp_path / "images.csv") if "both" in row.name] == ["blue\tred"]


def test_a_table_coco_and_label_studio_give_the_same_data(tmp_path):
    tables = []
    for write in (drawn.write_folder, drawn.write_coco, drawn.write_label_studio):
        ingested(write(tmp_path / "images", 16), tmp_path)
        tables.append((tmp_path / "images.csv").read_bytes())
    assert tables[0].count(b"\n") == 17
    assert tables[0] == tables[1] == tables[2]


def test_an_excluded_copy_gives_no_label(folders, tmp_path):
    (tmp_path / "out.csv").write_text("path\nred/both.jpg\n")
    found = ingested(folders, tmp_path, leave_out_uri=str(tmp_path / "out.csv"))
    assert {row.name: row.labels for row in found.rows if "both" in row.name} == {"blue/both.jpg": ["blue"]}


def test_with_one_label_the_note_on_such_an_image_names_several(folders, tmp_path, capsys):
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html"}
    ingest.ingest_images(str(folders), check_images=True, splits=2, **outputs)
    assert "or set labels to several if all are right." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("labels", "sentences"),
    [
        (["daisy", "daisy|rose", "rose"], ["Labels such as daisy|rose seem to be several: set labels to several if they are."]),
        (["a, b", "b, c", "a, c"], ["Labels such as a, b seem to be several: set labels to several if they are."]),
        (["tench, Tinca tinca", "goldfish, Carassius auratus"], []),
        (["daisy|white", "rose|red"], []),
        (["daisy", "rose"], []),
    ],
)
def test_with_one_label_such_that_seem_to_be_several_are_told(labels, sentences):
    found = Catalog([ImageRow("", label, 1, str(number), str(number)) for number, label in enumerate(labels)])
    assert hidden_notes(found) == sentences


def test_with_several_labels_such_of_another_separator_are_told(tmp_path, capsys):
    table = drawn.write_folder(tmp_path / "photos", 40)
    lines = table.read_text().splitlines()
    table.write_text("\n".join([*lines[:21], *(line.replace("|", ";") for line in lines[21:])]) + "\n")
    ingested(table, tmp_path, advanced=Advanced.parse({"min_images_per_class": 2}))
    remedy = "separate all labels by one character, and set label_separator of advanced to it."
    (note,) = [line for line in capsys.readouterr().out.splitlines() if "seem to be several" in line]
    assert ";" in note and note.startswith("Labels such as ") and note.endswith(f" seem to be several: {remedy}")


@pytest.mark.parametrize(
    ("lines", "value"),
    [
        (["1.jpg,[]", "2.jpg,[]"], "none at {uri} (2 images without a label)"),
        (["1.jpg,red", "2.jpg,[]"], "one at {uri} (red, 1 image without a label)"),
    ],
)
def test_fewer_than_two_labels_are_rejected(tmp_path, lines, value):
    for name in ("1", "2"):
        (tmp_path / f"{name}.jpg").write_bytes(drawn.draw(("red",), int(name)))
    table = tmp_path / "a.csv"
    table.write_text("\n".join(["uri,label", *lines]) + "\n")
    with pytest.raises(InputError) as refused:
        ingested(table, tmp_path)
    rule = "error: images_uri must contain at least two classes; got"
    assert str(refused.value) == f"{rule} {value.format(uri=table)}. List images of at least two classes."


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_predefined_split_without_any_label_is_rejected_before_the_training(tmp_path, split):
    lines = ["uri,label,split"]
    for number, label in enumerate(("red", "blue", "[]", "[]")):
        (tmp_path / f"{number}.jpg").write_bytes(drawn.draw(("red",), number))
        lines.append(f"{number}.jpg,{label},{split if label == '[]' else 'train'}")
    table = tmp_path / "a.csv"
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(
        InputError, match=f"a predefined {split} split must hold an image with a label; got none among 2 images"
    ):
        ingested(table, tmp_path)


def test_lines_and_copies_of_an_image_add_their_labels_and_the_last_split_counts(tmp_path):
    for name, seed in (("1", 1), ("2", 1), ("3", 3), ("4", 4)):
        (tmp_path / f"{name}.jpg").write_bytes(drawn.draw(("red",), seed))
    lines = ["1.jpg,red,training", "1.jpg,blue,training", "2.jpg,green,test", "3.jpg,[],training", "4.jpg,red|blue,"]
    (tmp_path / "a.csv").write_text("uri,label,split\n" + "\n".join(lines) + "\n")
    found = ingest.ingest_images(
        str(tmp_path / "a.csv"),
        check_images=False,
        splits=2,
        labels="several",
        table=tmp_path / "t.csv",
        page=tmp_path / "p.html",
    )
    assert [(row.name, row.labels, row.split) for row in found.rows] == [
        ("1.jpg", ["blue", "green", "red"], "test"),
        ("3.jpg", [], "train"),
        ("4.jpg", ["blue", "red"], ""),
    ]
    assert "1 image has none of the labels: a negative example for all." in set_notes(found)


def test_a_label_that_holds_the_separator_of_tables_is_rejected():
    found = Catalog([ImageRow("", "daisy|rose", 1, "a", "a"), ImageRow("", "tulip", 1, "b", "b")])
    with pytest.raises(InputError, match=r"a label must not hold \|.*; got daisy\|rose. Rename it"):
        check_names(found)


TO_FOLDERS = (
    "Rename the folder; if it is a list of labels, put a copy of each image in the folder of each of its labels, "
    "or list the images in a table with their labels."
)
TO_A_BAR = 'Rename it; if it is a list of labels, set advanced to {"label_separator": "|"}.'
TO_EACH = "Rename it; if it is a list of labels, give each of them by itself."


@pytest.mark.parametrize(
    ("name", "content", "labels_of", "separator", "remedy"),
    [
        ("", "", "", "", TO_FOLDERS),
        ("", "", "", "|", TO_FOLDERS),
        ("", "", "uri,label\n2/b.jpg,blue\n", ";", TO_FOLDERS),
        ("", "", "uri,label\nred|pale/a.jpg,blue|pale\n", ";", TO_A_BAR),
        ("a.csv", "uri,label\nred|pale/a.jpg,blue|pale;red\n2/b.jpg,red\n", "", ";", TO_A_BAR),
        ("a.csv", 'uri,label\nred|pale/a.jpg,"[""blue|pale""]"\n2/b.jpg,red\n', "", "|", TO_EACH),
        ("a.csv", 'uri,label\nred|pale/a.jpg,"[""blue|pale""]"\n2/b.jpg,red\n', "", "", TO_EACH),
    ],
)
def test_the_remedy_for_a_bar_in_a_label_works_where_the_label_is_from(tmp_path, name, content, labels_of, separator, remedy):
    for number, place in enumerate(("red|pale/a.jpg", "2/b.jpg")):
        (tmp_path / "photos" / place).parent.mkdir(parents=True)
        (tmp_path / "photos" / place).write_bytes(drawn.draw(("red",), number))
    if name:
        (tmp_path / "photos" / name).write_text(content)
    (tmp_path / "labels.csv").write_text(labels_of)
    how = {"labels_uri": str(tmp_path / "labels.csv")} if labels_of else {}
    with pytest.raises(InputError) as refusal:
        ingested(tmp_path / "photos" / name, tmp_path, advanced=Advanced.parse({"label_separator": separator}), **how)
    assert "a label must not hold |" in str(refusal.value) and str(refusal.value).endswith(f"|pale. {remedy}")


def test_of_a_rare_label_only_that_label_is_left_out(tmp_path):
    table = drawn.write_folder(tmp_path / "photos", 40)
    lines = table.read_text().splitlines()
    lines[2] = lines[2].replace("blue", "blue|teal")  # 0001.jpg
    lines[4] = lines[4].replace("red", "pink")  # 0003.jpg
    table.write_text("\n".join(lines) + "\n")
    found = ingested(table, tmp_path, advanced=Advanced.parse({"min_images_per_class": 3}))
    assert {row.name: row.labels for row in found.rows if row.name in ("0001.jpg", "0003.jpg")} == {"0001.jpg": ["blue"]}
    found = ingested(table, tmp_path, advanced=Advanced.parse({"min_images_per_class": 3, "rare_classes": "train"}))
    assert {row.name: (row.labels, row.split) for row in found.rows if row.name in ("0001.jpg", "0003.jpg")} == {
        "0001.jpg": (["blue", "teal"], "train"),
        "0003.jpg": (["pink"], "train"),
    }


def test_the_sample_of_several_labels_is_read_as_such(tmp_path, monkeypatch):
    monkeypatch.setattr(several_sample, "IMAGES", 12)
    found = scan.scan_images("sample?labels=several", labels="several")
    assert {row.name: row.labels for row in found.rows} == {
        name: several_sample.labels_of(name) for name in several_sample.image_names()
    }
    assert scan.scan_images("sample", labels="several").fingerprint == found.fingerprint
    assert scan.fingerprint_images("sample", "", "several") == scan.fingerprint_images("sample?labels=several", "", "several")
    assert scan.fingerprint_images("sample") != scan.fingerprint_images("sample", "", "several")
    with pytest.raises(InputError, match=r"sample\?labels=several must be read with labels=several; got labels=one"):
        scan.scan_images("sample?labels=several")


@pytest.mark.parametrize("kind", ["csv", "coco", "label_studio"])
def test_the_same_images_give_the_same_data_from_every_format(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(several_sample, "IMAGES", 12)
    several_sample.write_images(tmp_path / "photos")
    table = tmp_path / "photos" / "labels.csv"
    labels_of = {row["uri"]: row["label"].split("|") for row in csv.DictReader(table.read_text().splitlines())}
    names = sorted({label for labels in labels_of.values() for label in labels})
    if kind == "coco":
        images = [{"id": number, "file_name": name} for number, name in enumerate(labels_of)]
        marks = [
            {"image_id": number, "category_id": names.index(one)}
            for number, held in enumerate(labels_of.values())
            for one in held
        ]
        content = {
            "images": images,
            "annotations": marks,
            "categories": [{"id": at, "name": one} for at, one in enumerate(names)],
        }
        table = tmp_path / "photos" / "coco.json"
        table.write_text(json.dumps(content))
    if kind == "label_studio":
        content = [
            {
                "data": {"image": f"/data/upload/1/0f9e8d7c-{name}"},
                "annotations": [{"result": [{"type": "choices", "value": {"choices": held}}]}],
            }
            for name, held in labels_of.items()
        ]
        table = tmp_path / "photos" / "export.json"
        table.write_text(json.dumps(content))
    assert (
        scan.scan_images(str(table), labels="several").fingerprint == scan.scan_images("sample", labels="several").fingerprint
    )


def test_the_split_writes_the_label_map_and_the_labels_of_images_it_leaves_out(tmp_path):
    rows = [ImageRow("", "", 1, f"{number:032x}", f"{number}", "") for number in range(20)]
    rows += [ImageRow("", "blue\tred", 1, f"{number + 100:032x}", f"{number + 100}", "") for number in range(20)]
    rows += [ImageRow("train", "blue\tred", 1, "a", "1", "train"), ImageRow("test", "blue\tred", 1, "a", "2", "test")]
    write_table(tmp_path / "images.csv", rows)
    tables = {name: tmp_path / f"{name}.csv" for name in ("train", "validation", "test")}
    outputs = {"label_map": tmp_path / "labels", "left_out": tmp_path / "left_out.csv"}
    counts = split_images(tmp_path / "images.csv", validation_ratio=0.2, test_ratio=0.1, labels="several", **tables, **outputs)
    assert counts == {"train": 28, "validation": 8, "test": 5, "left_out": 1}
    assert label_map.read_labels(tmp_path / "labels") == ["blue", "red"]
    assert label_map.has_several_labels(tmp_path / "labels")
    assert read_unused(tmp_path / "left_out.csv") == [("train", "blue|red", "same image in the test split")]


def test_a_label_only_in_a_predefined_test_split_is_rejected(tmp_path):
    rows = [ImageRow("", "blue", 1, f"{number:032x}", f"{number}") for number in range(20)]
    rows += [ImageRow("", "blue\tred", 1, "a", "a", "test")]
    write_table(tmp_path / "images.csv", rows)
    tables = {name: tmp_path / f"{name}.csv" for name in ("train", "validation", "test")}
    outputs = {"label_map": tmp_path / "labels", "left_out": tmp_path / "left_out.csv"}
    with pytest.raises(InputError, match="every class must keep an image to train on; got none of red"):
        split_images(tmp_path / "images.csv", validation_ratio=0.2, test_ratio=0.1, labels="several", **tables, **outputs)
    shutil.rmtree(tmp_path)
