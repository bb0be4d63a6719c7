"""Which folders are classes and which are splits: every layout of docs/data.md, and those in which a rule must not apply."""

import io
import tarfile
import zipfile
from dataclasses import dataclass, field

import pytest
from support import data_page, sample_images

from kfp_vision.core import values
from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, scan
from kfp_vision.dataset.class_folders import BESIDE_SPLITS, UNLABELLED, split_of_name, splits_by_folder

LOOSE = "not in a class folder"


def write_images(folder, names):
    """Writes a file for each name, with contents that differ; a name that ends in `/` is an empty folder."""
    for number, name in enumerate(names):
        if name.endswith("/"):
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(f"image {number}".encode())
    return str(folder)


def scan_names(folder, names, **advanced):
    return scan.scan_images(write_images(folder, names), Advanced.parse(advanced))


@dataclass
class Case:
    """A layout and how it is read: label and split of each image, reasons of skipped files, or the error, and a note."""

    names: list[str]
    read_as: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    error: str = ""
    note: str = ""
    advanced: dict[str, object] = field(default_factory=dict)


def numbered(folders, each=2):
    return [f"{folder}/{number}.jpg" for folder in folders for number in range(each)]


def flat(*folders):
    """A case in which each folder is a class."""
    return {name: folder.rpartition("/")[2] for folder in folders for name in numbered([folder])}


TWELVE = [str(number) for number in range(12)]
TEN = [f"kind{number}" for number in range(10)]
SLIDES = [f"{kind}/SOB/{patient}/40X" for kind, patient in (("benign", "14-1"), ("malignant", "14-2"))]
TRAINED = {"train/daisy/1.jpg": "daisy", "train/tulip/1.jpg": "tulip"}

CASES = {
    "`daisy/1.jpg`, `tulip/2.jpg`": Case([*numbered(["daisy", "tulip"])], flat("daisy", "tulip")),
    "`photos/daisy/1.jpg`, `photos/tulip/2.jpg`": Case(
        numbered(["a/b/daisy", "a/b/tulip"]), flat("a/b/daisy", "a/b/tulip"), advanced={"class_folder": "highest"}
    ),
    "`1.jpg` beside class folders": Case(["1.jpg", *numbered(["daisy"])], flat("daisy"), {LOOSE: 1}),
    "`0/1.jpg` to `11/1.jpg`": Case(numbered(TWELVE), flat(*TWELVE)),
    "`train/daisy/1.jpg`, `test/daisy/2.jpg`": Case(
        ["train/daisy/1.jpg", "test/daisy/2.jpg"], {"train/daisy/1.jpg": "daisy train", "test/daisy/2.jpg": "daisy test"}
    ),
    "`training_set/daisy/1.jpg`, `test_set/daisy/2.jpg`": Case(
        ["training_set/training_set/daisy/1.jpg", "test_set/test_set/daisy/2.jpg", "evalset/daisy/3.jpg"],
        {
            "training_set/training_set/daisy/1.jpg": "daisy train",
            "test_set/test_set/daisy/2.jpg": "daisy test",
            "evalset/daisy/3.jpg": "daisy validation",
        },
    ),
    "`dogs_train/pug/1.jpg`, `dogs_test/pug/2.jpg`": Case(
        ["dogs_train/pug/1.jpg", "dogs_test/pug/2.jpg", "dogs_val/3.jpg"],
        {"dogs_train/pug/1.jpg": "pug train", "dogs_test/pug/2.jpg": "pug test"},
        {UNLABELLED: 1},
        note="1 images have no label and are not used, since they are in a split folder without class folders: dogs_val. ",
    ),
    "`train/daisy/1.jpg` without another split": Case([*TRAINED], TRAINED),
    "`daisy/train/1.jpg`, `daisy/test/2.jpg`, and so for `tulip`": Case(
        ["daisy/train/1.jpg", "daisy/test/2.jpg", "tulip/Train/1.jpg", "tulip/val/2.jpg", "rose/1.jpg"],
        {
            "daisy/train/1.jpg": "daisy train",
            "daisy/test/2.jpg": "daisy test",
            "tulip/Train/1.jpg": "tulip train",
            "tulip/val/2.jpg": "tulip validation",
            "rose/1.jpg": "rose",
        },
        note="The folders Train, test, train, val within the classes are splits.",
    ),
    "`train/daisy/1.jpg`, `test/2.jpg`": Case(
        [*TRAINED, "test/2.jpg", "test/3.jpg"],
        TRAINED,
        {UNLABELLED: 2},
        note="2 images have no label and are not used, since they are in a split folder without class folders: test. "
        "Rename the folder if it is a class.",
    ),
    "`daisy/1.jpg`, `tulip/2.jpg`, `test/3.jpg`": Case(
        numbered(["daisy", "tulip", "test"]),
        flat("daisy", "tulip"),
        {UNLABELLED: 2},
        note="2 images have no label and are not used, since they are in a split folder without class folders: test. ",
    ),
    "`train/daisy/1.jpg`, `test/daisy/2.jpg`, `test/3.jpg`": Case(
        ["train/daisy/1.jpg", "test/daisy/2.jpg", "test/3.jpg"],
        {"train/daisy/1.jpg": "daisy train", "test/daisy/2.jpg": "daisy test"},
        {LOOSE: 1},
    ),
    "`train/daisy/1.jpg`, `test/daisy/2.jpg`, `unlabeled/3.jpg`": Case(
        ["seg_train/seg_train/daisy/1.jpg", "seg_test/seg_test/daisy/2.jpg", "seg_pred/seg_pred/3.jpg"],
        {"seg_train/seg_train/daisy/1.jpg": "daisy train", "seg_test/seg_test/daisy/2.jpg": "daisy test"},
        {UNLABELLED: 1},
        note="since they are in a split folder without class folders: seg_pred/seg_pred. ",
    ),
    "`train/daisy/1.jpg`, `test/images/2.jpg`": Case(
        [*TRAINED, "test/images/2.jpg"], TRAINED, {UNLABELLED: 1}, note="without class folders: test/images. Rename"
    ),
    "`dogs_train/dogs_train/pug/1.jpg`, `dogs_test/dogs_test/2.jpg`": Case(
        [*numbered(["dogs_train/dogs_train/pug", "dogs_train/dogs_train/corgi"]), "dogs_test/dogs_test/2.jpg"],
        flat("dogs_train/dogs_train/pug", "dogs_train/dogs_train/corgi"),
        {UNLABELLED: 1},
        note="without class folders: dogs_test/dogs_test. Rename",
    ),
    "`Training/daisy/1.jpg`, `test-of-many/2.jpg`": Case(
        ["Training/daisy/1.jpg", "Test/daisy/2.jpg", "test-of-many/3.jpg"],
        {"Training/daisy/1.jpg": "daisy train", "Test/daisy/2.jpg": "daisy test"},
        {UNLABELLED: 1},
        note="without class folders: test-of-many. Rename",
    ),
    "`train/daisy/1.jpg`, `test/daisy/2.jpg`, `Meta/3.jpg`": Case(
        [*TRAINED, "test/daisy/2.jpg", *numbered(["Meta", "extra/daisy", "docs/figures"])],
        {
            "train/daisy/1.jpg": "daisy train",
            "train/tulip/1.jpg": "tulip train",
            "test/daisy/2.jpg": "daisy test",
            **flat("extra/daisy"),
        },
        {BESIDE_SPLITS: 4},
        note="4 images are not used, since they are beside the split folders that hold the classes: Meta, docs. "
        "Move the folder into one of them if it is a class.",
    ),
    "`train/good/1.png`, `test/bad/2.png`, `ground_truth/bad/3.png`": Case(
        ["bottle/train/good/1.png", "bottle/test/good/2.png", "bottle/test/bad/2.png", "bottle/ground_truth/bad/3.png"],
        {
            "bottle/train/good/1.png": "good train",
            "bottle/test/good/2.png": "good test",
            "bottle/test/bad/2.png": "bad test",
        },
        {BESIDE_SPLITS: 1},
        note="the classes: bottle/ground_truth. Move",
    ),
    "`train/daisy/1.jpg`, `rose/2.jpg`": Case(
        [*TRAINED, *numbered(["rose"])],
        error="got rose beside the split folder train, which holds daisy, tulip, at .* Move rose elsewhere if it is no class, "
        'or set advanced to {"class_folder": "lowest"} if it is one',
    ),
    "`train/cat.1.jpg`, `test1/2.jpg`": Case(
        ["train/cat.1.jpg", "train/dog.1.jpg", "test1/2.jpg"], error=r"class folders in test1, train at .* \(3 images\)\. Put"
    ),
    "`images/train/1.jpg`, `images/val/2.jpg`": Case(
        ["images/train/1.jpg", "images/val/2.jpg", "labels/train/1.txt"], error="no class folders in images/train, images/val"
    ),
    "`train/images/1.jpg`, `train/masks/1.png`": Case(
        ["train/images/1.jpg", "train/masks/1.png", "test/images/2.jpg"], error="in test/images, train/images, train/masks"
    ),
    "`train/1.jpg`, `car/2.jpg`, `bus/3.jpg`": Case(
        numbered(["train", "car", "bus"]),
        flat("train", "car", "bus"),
        note="The folder train is a class, since class folders and no other split are beside it. Move it elsewhere if it ",
    ),
    "`valid/1.jpg`, `invalid/2.jpg`": Case(
        numbered(["Valid", "Invalid"]), flat("Valid", "Invalid"), note="The folder Valid is a class, since class folders and no"
    ),
    "`spring/daisy/1.jpg`, `summer/aster/2.jpg`": Case(
        numbered(["spring/daisy", "summer/aster"]),
        flat("spring/daisy", "summer/aster"),
        note="The classes are the lowest folders (aster, daisy), not those above them (spring, summer). "
        "Set class_folder of advanced to highest if it is the highest that are meant.",
    ),
    "`daisy/1.jpg`, `wild/aster/2.jpg`": Case(
        numbered(["daisy", "wild/aster"]), flat("daisy", "wild/aster"), note="The classes are the lowest folders (aster, daisy)"
    ),
    "`images_part_1/1.jpg`, `images_part_2/2.jpg`": Case(
        numbered(["skin/SKIN10_images_part_1", "skin/SKIN10_images_part_2"]),
        error=r"tell no class at .* \(SKIN10_images_part_1, SKIN10_images_part_2\)\. Put .* in an import file\. If each",
    ),
    "the same with `class_folder` lowest": Case(
        numbered(["images_part_1", "images_part_2"]),
        flat("images_part_1", "images_part_2"),
        advanced={"class_folder": "lowest"},
    ),
    "`rose/1.jpg`, `masks/rose/2.png`": Case(
        numbered(["daisy", "rose", "masks/rose"]),
        error="got images in masks/rose, which may be annotations at .*Move annotations elsewhere, or set advanced to",
    ),
    "`COVID/images/1.png`, `Normal/images/2.png`": Case(
        numbered(["COVID/images", "COVID/masks", "Normal/images", "Normal/masks"]),
        error=r"got folders named images in COVID and Normal \(and 1 more such names\) at .*; the lowest are images, masks, "
        r'the highest COVID, Normal\. Set advanced to {"class_folder": "highest"} or {"class_folder": "lowest"}\.$',
    ),
    "`cat/2019/1.jpg`, `dog/2020/2.jpg`": Case(
        numbered(["cat/2019", "dog/2020"]), error="numbers as names in cat and dog at .*; the lowest are 2019, 2020, the"
    ),
    "`cat/1.jpg`, `cat/more/2.jpg`, `dog/3.jpg`": Case(
        ["cat/1.jpg", "cat/more/2.jpg", "dog/3.jpg"],
        error="got images both in cat and in cat/more at .*; the lowest are cat, dog, more, the highest cat, dog",
    ),
    "these with `class_folder` highest": Case(
        ["cat/1.jpg", "cat/more/2.jpg", "dog/3.jpg"],
        {"cat/1.jpg": "cat", "cat/more/2.jpg": "cat", "dog/3.jpg": "dog"},
        note="The classes are the highest folders, as class_folder of advanced says.",
        advanced={"class_folder": "highest"},
    ),
    "`benign/SOB/14-1/40X/1.png` and so on with `class_folder` 3": Case(
        [*numbered(SLIDES), "benign/SOB/overview.png"],
        {name: name.split("/")[2] for name in numbered(SLIDES)},
        {LOOSE: 1},
        note="The classes are the folders at level 3, as class_folder of advanced says.",
        advanced={"class_folder": "3"},
    ),
    "`daisy/`, empty, beside class folders": Case(
        ["daisy/", "rose/test/", *numbered(TEN)],
        flat(*TEN),
        note="Folders that are no class, since they hold no usable image: daisy (empty), rose (empty).",
    ),
    "`daisy/1.psd` alone in its folder": Case(
        ["daisy/1.psd", "daisy/.DS_Store", *numbered(TEN)],
        flat(*TEN),
        {"a format that is not read; convert it to PNG": 1, "hidden": 1},
        note="Folders that are no class, since they hold no usable image: "
        "daisy (1 skipped: a format that is not read; convert it to PNG, 1 skipped: hidden).",
    ),
    "`docs/`, `annotations/` and the like beside class folders": Case(
        ["docs/", "annotations/1.xml", *numbered(["daisy", "tulip"])],
        flat("daisy", "tulip"),
        {"not an image": 1},
        note="no usable image: annotations (1 skipped: not an image), docs (empty).",
    ),
    "`.git`, `__MACOSX`, `@eaDir`, `Thumbs`, `#recycle`": Case(
        [".git/", "__MACOSX/daisy/1.jpg", "daisy/@eaDir/1.jpg", "Thumbs/1.jpg", "#recycle/1.jpg", *numbered(["daisy"])],
        flat("daisy"),
        {"hidden": 1, "thumbnail": 2, "deleted": 1},
    ),
    "one image in `rose/`, and `min_images_per_class` 2": Case(
        ["rose/1.jpg", *numbered(["daisy", "tulip"])],
        flat("daisy", "tulip"),
        {"in a class of fewer than 2 images": 1},
        note="1 of 3 classes, of fewer than 2 images, are left out (1 image): rose (1).",
        advanced={"min_images_per_class": 2},
    ),
}


def test_every_layout_of_the_page_is_a_case():
    assert list(CASES) == data_page.first_cells("Folders")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_layout_is_read_as_the_page_says(tmp_path, case, capsys):
    uri = write_images(tmp_path / "photos", case.names)
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "summary.html"}

    def ingested():
        return ingest.ingest_images(uri, check_images=False, splits=2, advanced=Advanced.parse(case.advanced), **outputs)

    if case.error:
        with pytest.raises(InputError, match=case.error):
            ingested()
        assert not outputs["table"].exists()
        return
    found = ingested()
    assert {row.name: f"{row.label} {row.split}".rstrip() for row in found.rows} == case.read_as
    assert found.skipped == case.skipped
    assert case.note in capsys.readouterr().out
    assert case.note in outputs["page"].read_text(encoding="utf-8")
    if not case.note:
        assert found.notes == []


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("TRAIN", "train"),
        ("Training", "train"),
        ("train2017", "train"),
        ("train_1", "train"),
        ("training_set", "train"),
        ("trainset", "train"),
        ("TrainImages", "train"),
        ("train-images-resized", "train"),
        ("stage1_train", "train"),
        ("trainval", "train"),
        ("Val", "validation"),
        ("val_2012", "validation"),
        ("validation_data", "validation"),
        ("dev", "validation"),
        ("eval1", "validation"),
        ("testing", "test"),
        ("test1", "test"),
        ("test_stg1", "test"),
        ("seg_test", "test"),
        ("TestSet", "test"),
        ("tests", ""),
        ("trains", ""),
        ("train_station", ""),
        ("test tube", ""),
        ("protest", ""),
        ("contest_images", ""),
        ("validated", ""),
        ("valley", ""),
        ("invalid", ""),
        ("devil", ""),
        ("train_test_split", ""),
        ("steam-train", ""),
        ("images", ""),
        ("2017", ""),
        ("火车train", ""),
    ],
)
def test_a_folder_is_named_after_a_split_by_its_words(name, split):
    assert split_of_name(name) == split


@pytest.mark.parametrize(
    "folders",
    [
        ["DCIM/100APPLE", "DCIM/101APPLE"],
        ["Photos from 2019", "Photos from 2020"],
        ["images_001", "images_002"],
        ["batch 1", "batch 2"],
        ["photos", "pictures"],
    ],
)
def test_folders_whose_names_tell_only_a_part_are_rejected_as_classes(tmp_path, folders):
    with pytest.raises(InputError, match="got folders whose names tell no class at"):
        scan_names(tmp_path, numbered(folders))


@pytest.mark.parametrize(
    "folders", [["Class 1", "Class 2"], ["grade_1", "grade_2"], ["0", "1"], ["n01440", "n01441"], ["images", "rose"]]
)
def test_folders_that_are_numbered_otherwise_stay_classes(tmp_path, folders):
    assert set(scan_names(tmp_path, numbered(folders)).classes) == set(folders)


def test_a_class_of_masks_holds_classes_unless_their_names_are_elsewhere_too(tmp_path):
    found = scan_names(tmp_path, numbered(["mask/cloth", "mask/paper", "no_mask"]))
    assert found.classes == {"cloth": 2, "no_mask": 2, "paper": 2}


def test_a_folder_beside_the_only_split_is_a_class_if_class_folder_says_so(tmp_path):
    found = scan_names(tmp_path, [*TRAINED, "rose/1.jpg"], class_folder="lowest")
    assert found.classes == {"daisy": 1, "rose": 1, "tulip": 1}


def test_classes_that_only_contain_the_word_of_a_split_stay_classes(tmp_path):
    folders = ["train_station", "test_tube", "platform"]
    assert set(scan_names(tmp_path, numbered(folders)).classes) == set(folders)


def test_trains_are_a_class_within_predefined_splits_too(tmp_path):
    names = [f"{split}/{kind}/1.jpg" for split in ("train", "test") for kind in ("train", "car", "bus")]
    found = scan_names(tmp_path, names)
    assert {row.name: (row.label, row.split) for row in found.rows} == {
        name: (name.split("/")[1], name.split("/")[0]) for name in names
    }


@pytest.mark.parametrize("beside", [["car"], ["car", "bus", "test"]])
def test_train_is_a_split_beside_one_class_or_beside_another_split(tmp_path, beside):
    found = scan_names(tmp_path, numbered(["train", *beside]))
    assert set(found.classes) == {"car", "bus"} & set(beside)


def test_too_few_classes_beside_an_unlabelled_folder_are_rejected_with_its_images(tmp_path):
    uri = write_images(tmp_path / "photos", numbered(["train", "car"]))
    with pytest.raises(InputError, match=r"got one at .*photos \(car, 2 images skipped: in a split folder without class"):
        ingest.ingest_images(uri, check_images=True, splits=2, table=tmp_path / "t.csv", page=tmp_path / "p.html")


def test_the_images_folders_of_tiny_imagenet_are_no_classes(tmp_path):
    names = ["train/n01/images/1.jpg", "train/n02/images/2.jpg", "val/images/3.jpg", "test/images/4.jpg"]
    with pytest.raises(InputError, match=r"folders named images in n01 and n02 at .*; the lowest are images, the highest n01"):
        scan_names(tmp_path, names)
    found = scan.scan_images(str(tmp_path), Advanced.parse({"class_folder": "highest"}))
    assert found.classes == {"n01": 1, "n02": 1}
    assert found.skipped == {UNLABELLED: 2}


def test_masks_beside_none_are_classes_of_a_split(tmp_path):
    names = [f"{split}/{kind}/1.jpg" for split in ("train", "test") for kind in ("mask", "no_mask")]
    assert scan_names(tmp_path, names).classes == {"mask": 2, "no_mask": 2}


def test_folders_of_images_and_masks_only_are_rejected(tmp_path):
    with pytest.raises(InputError, match=r"images_uri must hold class folders; got only images, masks at .*\. Put the images"):
        scan_names(tmp_path, ["data/images/1.jpg", "data/masks/1.png"])


@pytest.mark.parametrize(
    "folders", [["trainA", "trainB", "testA", "testB"], ["bounding_box_train", "bounding_box_test"], ["x/train", "x/dev"]]
)
def test_splits_of_other_tasks_are_no_classes(tmp_path, folders):
    with pytest.raises(InputError, match="must hold class folders, not only folders named after splits"):
        scan_names(tmp_path, numbered(folders))


def test_class_folders_that_are_also_called_as_sets_are_not_taken_for_classes_of_splits(tmp_path):
    names = [f"set{number}/{inner}" for number in (1, 2) for inner in ("train/daisy/1.jpg", "train/tulip/1.jpg", "test/1.jpg")]
    with pytest.raises(InputError, match="folders named daisy in set1 and set2"):
        scan_names(tmp_path, names)
    found = scan.scan_images(str(tmp_path), Advanced.parse({"class_folder": "lowest"}))
    assert found.classes == {"daisy": 2, "tulip": 2}
    assert found.skipped == {UNLABELLED: 2}


@pytest.mark.parametrize(
    ("choice", "classes"),
    [
        ("lowest", {"40X": 4}),
        ("highest", {"benign": 2, "malignant": 2}),
        ("1", {"benign": 2, "malignant": 2}),
        ("2", {"SOB": 4}),
        ("3", {"14-1": 2, "14-2": 2}),
        ("4", {"40X": 4}),
    ],
)
def test_class_folder_counts_below_folders_that_all_share_and_below_splits(tmp_path, choice, classes):
    names = [f"breast/{split}/{folder}/1.png" for split in ("train", "test") for folder in SLIDES]
    found = scan_names(tmp_path, names, class_folder=choice)
    assert found.classes == classes
    assert found.splits == {"train": 2, "test": 2}


def test_the_error_names_the_levels_between(tmp_path):
    with pytest.raises(InputError, match=r'a level, such as {"class_folder": "2"}: level 2 \(SOB\), level 3 \(14-1, 14-2\)\.$'):
        scan_names(tmp_path, numbered(SLIDES))


def test_a_level_below_all_folders_is_rejected(tmp_path):
    with pytest.raises(InputError, match=r"class_folder of advanced must be a level that has folders; got 3\. .* at level 1\."):
        scan_names(tmp_path, numbered(["daisy", "tulip"]), class_folder="3")


@pytest.mark.parametrize("value", ["", "0", "-1", "top", "1.5", "second", "٣"])
def test_a_value_of_class_folder_that_is_none_is_rejected(value):
    with pytest.raises(InputError, match="class_folder of advanced must be auto, lowest, highest or a level from the top"):
        Advanced.parse({"class_folder": value})


def test_a_wrapping_folder_with_images_of_its_own_is_asked_about(tmp_path):
    names = ["photos/1.jpg", *numbered(["photos/daisy", "photos/tulip"])]
    with pytest.raises(InputError, match=r'"2"}: level 2 \(daisy, tulip\)'):
        scan_names(tmp_path, names)
    found = scan.scan_images(str(tmp_path), Advanced.parse({"class_folder": "2"}))
    assert found.classes == {"daisy": 2, "tulip": 2}
    assert found.skipped == {LOOSE: 1}


def test_a_search_takes_images_from_any_layout(tmp_path):
    names = ["test/1.jpg", "2.jpg", "cat/2019/3.jpg", "dog/2019/4.jpg", "train/5.jpg"]
    rows = scan.scan_images(write_images(tmp_path, names), classes=False).rows
    assert {row.name: row.label for row in rows} == dict(zip(names, ["", "", "2019", "2019", ""], strict=True))


def test_splits_of_detectors_are_found_by_the_folders_of_the_images():
    folders = ["images/train2017", "images/val2017", "images/train2017/more", "other"]
    assert splits_by_folder(folders) == ["train", "validation", "train", ""]


# ---- empty classes


def rejection_of(tmp_path, uri):
    with pytest.raises(InputError) as refusal:
        ingest.ingest_images(uri, check_images=True, splits=2, table=tmp_path / "t.csv", page=tmp_path / "p.html")
    return str(refusal.value)


def test_more_than_a_tenth_of_empty_classes_is_rejected_with_their_names(tmp_path):
    uri = write_images(tmp_path / "photos", ["rose/", "lily/1.psd", *numbered(["daisy", "tulip"])])
    assert rejection_of(tmp_path, uri) == (
        f"error: at most 10% of the class folders must be without usable images; got 2 of 4 at {uri}: lily, rose. "
        "Add images to them, remove them if they are no classes, or set check_images to false."
    )


def test_one_empty_class_of_eleven_is_rejected_and_of_ten_full_ones_not(tmp_path):
    names = ["rose/", *numbered(TEN)]
    uri = write_images(tmp_path / "eleven", names)
    ingest.ingest_images(uri, check_images=True, splits=2, table=tmp_path / "t.csv", page=tmp_path / "p.html")
    assert "rose (empty)" in (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "got 1 of 9 at" in rejection_of(tmp_path, write_images(tmp_path / "nine", ["rose/", *numbered(TEN[:8])]))


def test_folders_that_hold_no_image_but_are_no_class_are_not_rejected(tmp_path):
    names = ["docs/readme.txt", "scripts/", "test/", ".cache/", "Thumbs/", "train2/", *numbered(["daisy", "tulip"])]
    uri = write_images(tmp_path / "photos", names)
    found = ingest.ingest_images(uri, check_images=True, splits=2, table=tmp_path / "t.csv", page=tmp_path / "p.html")
    assert found.empty_classes == []
    assert found.notes == [
        "Folders that are no class, since they hold no usable image: docs (1 skipped: not an image), scripts (empty)."
    ]


def test_a_class_that_is_empty_in_one_split_only_is_not_empty(tmp_path):
    names = ["test/tulip/", *[f"{split}/{kind}/1.jpg" for split in ("train", "test") for kind in ("daisy", "rose")]]
    found = scan_names(tmp_path, [*names, "train/tulip/1.jpg", "train/lily/", "test/lily/"])
    assert found.empty_classes == ["test/lily", "train/lily"]


def test_an_empty_folder_within_a_class_or_beside_other_levels_is_not_a_class(tmp_path):
    found = scan_names(tmp_path, ["winter/", "spring/daisy/", "spring/daisy/more/", *numbered(["spring/rose", "summer/aster"])])
    assert found.empty_classes == ["spring/daisy"]


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_empty_folder_of_an_archive_is_named(tmp_path, kind):
    archive = tmp_path / f"photos.{kind}"
    names = [*numbered(["daisy", "tulip"])]
    if kind == "zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.mkdir("rose")
            for name in names:
                zipped.writestr(name, name)
    else:
        with tarfile.open(archive, "w") as packed:
            folder = tarfile.TarInfo("./rose")
            folder.type = tarfile.DIRTYPE
            packed.addfile(folder)
            for name in names:
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(name)
                packed.addfile(member, io.BytesIO(name.encode()))
    found = scan.scan_images(str(archive))
    assert found.classes == {"daisy": 2, "tulip": 2}
    assert found.empty_classes == ["rose"]


def test_the_sample_has_no_empty_classes(tmp_path):
    found = scan.scan_images(str(sample_images.pictures(tmp_path / "photos", classes=2, each=2)))
    assert (found.empty_classes, found.notes) == ([], [])


# ---- numbers as names


def test_classes_named_by_numbers_are_listed_by_number(tmp_path):
    found = scan_names(tmp_path, numbered(["10", "9", "2", "00", "0", "101", "1"]))
    assert list(found.classes) == ["0", "00", "1", "2", "9", "10", "101"]


@pytest.mark.parametrize(
    "labels", [["0.0", "2.0", "10.0"], ["-10", "-9", "0", "9", "10"], ["0.5", "1", "1.5", "10"], ["7", "1" + "0" * 5000]]
)
def test_numbers_of_any_form_are_sorted_by_value(labels):
    assert values.sort_labels(reversed(labels)) == labels
    assert values.sort_labels(labels) == labels


def test_one_name_that_is_no_number_sorts_all_as_text(tmp_path):
    assert list(scan_names(tmp_path, numbered(["10", "9", "2", "other"])).classes) == ["10", "2", "9", "other"]
