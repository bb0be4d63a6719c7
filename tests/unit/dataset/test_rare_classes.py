"""Classes with too few images: all named at once, left out, or kept in training alone."""

import pytest

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, split
from kfp_vision.dataset.label_map import read_labels
from kfp_vision.dataset.table import Catalog, ImageRow, read_table
from kfp_vision.dataset.table_checks import check_classification

TAIL = {"w_1": 1, "w_2": 1, "w_3": 2, "cat": 10, "dog": 10}


def write_classes(folder, classes):
    for label, count in classes.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.jpg").write_bytes(f"{label} {number}".encode())
    return str(folder)


def rows_of(classes, split=""):
    return [
        ImageRow(f"/{label}/{number}.jpg", label, 1, f"{label} {number} {split}", f"{label}/{number}.jpg", split)
        for label, count in classes.items()
        for number in range(count)
    ]


def prepare(tmp_path, classes, check_images=True, splits=3, **advanced):
    """Runs the stages up to the split; returns the catalog, the page, and the number of images of each class by split."""
    uri = write_classes(tmp_path / "photos", classes)
    table, page = tmp_path / "images.csv", tmp_path / "summary.html"
    parsed = Advanced.parse(advanced)
    found = ingest.ingest_images(uri, check_images=check_images, splits=splits, table=table, page=page, advanced=parsed)
    ratios = {"validation_ratio": 0.2, "test_ratio": 0.1 if splits == 3 else 0.0}
    split.write_split_tables(table, tmp_path / "tables", tmp_path / "labels", **ratios)
    counts = {label: [0, 0, 0] for label in read_labels(tmp_path / "labels")}
    for position, name in enumerate(("train", "validation", "test")):
        for row in read_table(split.split_table(tmp_path / "tables", name)):
            counts[row.label][position] += 1
    return found, page.read_text(encoding="utf-8"), counts


def test_all_classes_with_too_few_images_are_named_with_remedies_that_work(tmp_path):
    with pytest.raises(InputError) as refusal:
        prepare(tmp_path / "refused", TAIL)
    assert str(refusal.value) == (
        "error: every class must have at least 3 images, one per split; got 3 of 5 classes with fewer, the least 1: "
        'w_1 (1), w_2 (1), w_3 (2). Add images of them, or set advanced to {"min_images_per_class": 3} to leave them out, '
        'and "rare_classes": "train" besides to keep them in training alone.'
    )
    *_, counts = prepare(tmp_path / "left_out", TAIL, min_images_per_class=3)
    assert counts == {"cat": [7, 2, 1], "dog": [7, 2, 1]}
    *_, counts = prepare(tmp_path / "train", TAIL, min_images_per_class=3, rare_classes="train")
    assert counts == {"cat": [7, 2, 1], "dog": [7, 2, 1], "w_1": [1, 0, 0], "w_2": [1, 0, 0], "w_3": [2, 0, 0]}


def test_only_the_first_ten_classes_are_named():
    tail = {f"w_{number:02}": 1 for number in range(25)}
    with pytest.raises(InputError, match=r"got 25 of 27 classes with fewer, the least 1: w_00 .*, w_09 \(1\) and 15 more\."):
        check_classification(Catalog(rows_of(tail | {"cat": 10, "dog": 10})), "/photos", 2)


def test_leaving_out_is_not_offered_if_one_class_would_remain():
    with pytest.raises(InputError, match=r"got 1 of rose\. Add images of it\.$"):
        check_classification(Catalog(rows_of({"cat": 10, "rose": 1})), "/photos", 2)


def test_classes_left_out_are_counted_and_named(tmp_path):
    found, page, _ = prepare(tmp_path, TAIL, min_images_per_class=3)
    assert found.classes == {"cat": 10, "dog": 10}
    assert found.skipped == {"in a class of fewer than 3 images": 4}
    assert found.skipped.names == {
        "in a class of fewer than 3 images": ["w_1/0.jpg", "w_2/0.jpg", "w_3/0.jpg", "w_3/1.jpg"],
    }
    note = "3 of 5 classes, of fewer than 3 images, are left out (4 images): w_1 (1), w_2 (1), w_3 (2)."
    assert found.notes == [note]
    assert note in page


def test_classes_kept_in_training_are_named_and_the_page_shows_no_predefined_splits(tmp_path, capsys):
    found, page, _ = prepare(tmp_path, TAIL, min_images_per_class=3, rare_classes="train")
    note = "3 of 5 classes, of fewer than 3 images, are kept in training alone (4 images): w_1 (1), w_2 (1), w_3 (2)."
    assert found.notes == [note]
    assert note in page
    assert note in capsys.readouterr().out
    assert "Splits in the data" not in page


def test_without_the_check_a_class_of_one_image_is_trained_on(tmp_path):
    *_, counts = prepare(tmp_path, TAIL, check_images=False)
    assert counts == {"cat": [7, 2, 1], "dog": [7, 2, 1], "w_1": [1, 0, 0], "w_2": [1, 0, 0], "w_3": [1, 0, 1]}


def test_classes_above_the_limit_must_still_have_an_image_per_split(tmp_path):
    with pytest.raises(InputError, match=r"at least 3 images, one per split; got 2 of w_3\. Add images of it, or set advanced"):
        prepare(tmp_path, TAIL, min_images_per_class=2, rare_classes="train")


def test_a_limit_below_all_classes_changes_nothing(tmp_path):
    found, _, counts = prepare(tmp_path, {"cat": 10, "dog": 10}, min_images_per_class=10)
    assert found.notes == []
    assert counts == {"cat": [7, 2, 1], "dog": [7, 2, 1]}


@pytest.mark.parametrize(
    ("choice", "least", "rule"), [("leave_out", 10, "at least two classes"), ("train", 11, "a class to hold out")]
)
def test_a_limit_that_leaves_too_few_classes_is_rejected(tmp_path, choice, least, rule):
    line = f"must leave {rule}; got {least}, but the largest of 2 classes, cat, has 10 images. Lower it, or add images."
    with pytest.raises(InputError, match=line):
        prepare(tmp_path, {"cat": 10, "dog": 9}, min_images_per_class=least, rare_classes=choice)


def test_rare_classes_of_predefined_splits_are_moved_to_training(tmp_path):
    classes = {f"{part}/{label}": count for part in ("train", "test") for label, count in (("cat", 3), ("dog", 3), ("rose", 1))}
    _, page, counts = prepare(tmp_path, classes, min_images_per_class=3, rare_classes="train")
    assert counts == {"cat": [3, 0, 3], "dog": [3, 0, 3], "rose": [2, 0, 0]}
    assert "Splits in the data" in page


def test_every_class_without_training_images_is_named():
    rows = [*rows_of({"cat": 2}, "train"), *rows_of({"cat": 1, "lily": 1, "rose": 1}, "test")]
    with pytest.raises(InputError, match="must have an image to train on; got none of lily, rose in train at /photos"):
        check_classification(Catalog(rows), "/photos", 2)


def test_rare_classes_without_a_limit_is_rejected():
    with pytest.raises(InputError, match="rare_classes of advanced must be left out unless min_images_per_class is above"):
        Advanced.parse({"rare_classes": "train"})


@pytest.mark.parametrize("value", [-1, 1.5, "3"])
def test_a_limit_that_is_no_whole_number_from_0_is_rejected(value):
    with pytest.raises(InputError, match="min_images_per_class of advanced must"):
        Advanced.parse({"min_images_per_class": value})
