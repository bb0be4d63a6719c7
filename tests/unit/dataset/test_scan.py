"""The table of images: labels from folders, content ids, predefined splits, exclusions, and rejected data."""

import csv
import hashlib
import json
import os
import re
import shutil

import pytest
from support import sample_images

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, scan
from kfp_vision.dataset.table import (
    Catalog,
    ImageRow,
    conflicting_values,
    count_rows,
    read_table,
    write_table,
    write_table_slice,
)
from kfp_vision.dataset.table_checks import check_classification, classification_notes
from kfp_vision.reports.thumbnails import EncodedImage, Thumbnail

# Contents and their MD5, from RFC 1321, section A.5.
A, ABC, DIGEST = b"a", b"abc", b"message digest"
MD5 = {
    A: "0cc175b9c0f1b6a831c399e269772661",
    ABC: "900150983cd24fb0d6963f7d28e17f72",
    DIGEST: "f96b697d7cb7938d525a2f31aaf161d0",
}


def write_files(folder, files):
    """Writes files, given as path and content, and returns the folder's URI."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def rows_of(classes):
    """Makes the given number of rows per label, all with different contents."""
    return [
        ImageRow(f"/photos/{label}/{n}.jpg", label, 1, f"{label}{n}", f"{label}/{n}.jpg")
        for label, most in classes.items()
        for n in range(most)
    ]


def test_an_image_is_labelled_by_its_folder_and_identified_by_its_md5(tmp_path):
    uri = write_files(tmp_path / "photos", {"tulip/b.PNG": DIGEST, "daisy/z.jpg": ABC, "wild/daisy/a.jpeg": A})
    assert scan.scan_images(uri).rows == [
        ImageRow(f"{uri}/daisy/z.jpg", "daisy", 3, MD5[ABC], "daisy/z.jpg"),
        ImageRow(f"{uri}/tulip/b.PNG", "tulip", 14, MD5[DIGEST], "tulip/b.PNG"),
        ImageRow(f"{uri}/wild/daisy/a.jpeg", "daisy", 1, MD5[A], "wild/daisy/a.jpeg"),
    ]


def test_classes_are_counted_and_sorted(tmp_path):
    uri = write_files(tmp_path / "photos", {"tulip/1.gif": A, "daisy/1.webp": A, "daisy/2.tiff": ABC, "daisy/3.bmp": DIGEST})
    assert list(scan.scan_images(uri).classes.items()) == [("daisy", 3), ("tulip", 1)]


def test_other_files_are_skipped_and_counted(tmp_path):
    files = {
        "daisy/1.jpg": A,
        "daisy/.hidden.jpg": A,
        ".git/daisy/1.jpg": A,
        "__MACOSX/daisy/1.jpg": A,
        "LICENSE.txt": A,
        "daisy/Thumbs.db": A,
        "daisy/noending": A,
        "loose.jpg": A,
        "daisy/.DS_Store": A,
        "daisy/._1.jpg": A,
        "daisy/desktop.ini": A,
        "daisy/.ipynb_checkpoints/1-checkpoint.jpg": A,
        "daisy/.thumbnails/1.jpg": A,
        "daisy/@eaDir/1.jpg/SYNOPHOTO_THUMB_M.jpg": A,
        "daisy/Thumbs/1.jpg": A,
        "thumbnails/daisy/1.jpg": A,
        "#recycle/daisy/1.jpg": A,
        "$RECYCLE.BIN/S-1-5-21/$R1.jpg": A,
        "two\nlines/1.jpg": A,
        "end\u2028of line/1.jpg": A,
    }
    found = scan.scan_images(write_files(tmp_path / "photos", files))
    assert [row.name for row in found.rows] == ["daisy/1.jpg"]
    assert found.skipped == {
        "hidden": 7,
        "thumbnail": 3,
        "deleted": 2,
        "not an image": 4,
        "not in a class folder": 1,
        "control character in the name": 2,
    }


def test_a_name_that_is_not_utf8_is_skipped(tmp_path):
    (tmp_path / os.fsdecode(b"L\xf6wenzahn")).mkdir()
    (tmp_path / os.fsdecode(b"L\xf6wenzahn/1.jpg")).write_bytes(A)
    found = scan.scan_images(str(tmp_path))
    assert found.rows == []
    assert found.skipped.total() == 1


LABELS = ['comma, "quote"', "'single'", "two  spaces", "花 雏菊", "全角\u3000空格", "گل\u200cرز", "0:daisy", "=1+1", "-"]


@pytest.mark.parametrize("label", LABELS)
def test_a_table_round_trips(tmp_path, label):
    uri = write_files(tmp_path / "photos", {f"{label}/a, \"b\" 'c' 花.jpg": A, f"{label}/2.jpg": ABC, "other/1.jpg": DIGEST})
    rows = scan.scan_images(uri).rows
    assert {row.label for row in rows} == {label, "other"}
    write_table(tmp_path / "images.csv", rows)
    assert list(read_table(tmp_path / "images.csv")) == rows


def test_a_table_holds_an_image_of_any_number_of_boxes(tmp_path):
    objects = json.dumps([["person", 0.25, 0.25, 0.75, 0.75, 0, 0, "Unspecified"]] * 5000)
    row = ImageRow("/photos/1.jpg", "person", 3, MD5[ABC], "1.jpg", objects=objects)
    limit = csv.field_size_limit(1 << 17)  # Python's own, whichever test has run before
    try:
        write_table(tmp_path / "images.csv", [row])
        assert list(read_table(tmp_path / "images.csv")) == [row]
        csv.field_size_limit(1 << 17)
        assert count_rows(tmp_path / "images.csv") == 1
        csv.field_size_limit(1 << 17)
        write_table_slice(tmp_path / "images.csv", range(1), tmp_path / "part.csv")
        assert (tmp_path / "part.csv").read_bytes() == (tmp_path / "images.csv").read_bytes()
    finally:
        csv.field_size_limit(limit)


def test_a_table_is_plain_csv(tmp_path):
    row = ImageRow("/photos/a, b/1.jpg", "a, b", 3, MD5[ABC], 'a, b/"1".jpg')
    write_table(tmp_path / "images.csv", [row])
    assert (tmp_path / "images.csv").read_bytes() == (
        b"uri,label,bytes,content_id,name,split,objects\n"
        b'"/photos/a, b/1.jpg","a, b",3,900150983cd24fb0d6963f7d28e17f72,"a, b/""1"".jpg",,\n'
    )


def test_the_fingerprint_depends_only_on_labels_and_contents(tmp_path):
    first = scan.scan_images(write_files(tmp_path / "one", {"daisy/1.jpg": A, "tulip/1.jpg": ABC})).fingerprint
    renamed = scan.scan_images(write_files(tmp_path / "two", {"daisy/zz.jpg": A, "deep/tulip/a.png": ABC})).fingerprint
    relabelled = scan.scan_images(write_files(tmp_path / "three", {"daisy/1.jpg": ABC, "tulip/1.jpg": A})).fingerprint
    grown = scan.scan_images(
        write_files(tmp_path / "four", {"daisy/1.jpg": A, "daisy/2.jpg": A, "tulip/1.jpg": ABC})
    ).fingerprint
    assert first == renamed
    assert len({first, relabelled, grown}) == 3


@pytest.mark.parametrize(
    ("files", "splits", "line"),
    [
        (
            {"LICENSE.txt": A},
            2,
            "error: images_uri must contain images; got none at {uri} (1 file skipped: not an image (LICENSE.txt)). "
            "Give images as JPEG, PNG, GIF, BMP, WebP, TIFF, PPM, AVIF or HEIC, and convert others to JPEG or PNG. "
            "Put the images into one folder per class, such as photos/daisy/1.jpg and photos/tulip/2.jpg.",
        ),
        (
            {"daisy/1.jpg": A, "daisy/2.jpg": ABC},
            2,
            "error: images_uri must contain at least two classes; got one at {uri} (daisy). "
            "Put the images into one folder per class, such as photos/daisy/1.jpg and photos/tulip/2.jpg.",
        ),
        (
            {"daisy/1.jpg": A, "daisy/2.jpg": ABC, "daisy/3.jpg": DIGEST, "tulip/1.jpg": b"1", "tulip/2.jpg": b"2"},
            3,
            "error: every class must have at least 3 images, one per split; got 2 of tulip. Add images of it.",
        ),
        (
            {"daisy/1.jpg": A, "daisy/2.jpg": A, "tulip/1.jpg": ABC, "tulip/2.jpg": ABC, "tulip/3.jpg": ABC},
            2,
            "error: a class must have two different images, of which one can be held out; "
            "got copies of a single one in each. Add other images.",
        ),
    ],
)
def test_data_that_cannot_be_trained_on_is_rejected(tmp_path, files, splits, line):
    uri = write_files(tmp_path / "photos", files)
    table, page = tmp_path / "images.csv", tmp_path / "summary.html"
    with pytest.raises(InputError) as refusal:
        ingest.ingest_images(uri, check_images=True, splits=splits, table=table, page=page)
    assert str(refusal.value) == line.format(uri=uri)
    assert not table.exists()
    assert not page.exists()


def test_an_empty_folder_is_rejected(tmp_path):
    uri = write_files(tmp_path / "photos", {})
    with pytest.raises(InputError, match=r"must contain images; got none at .*photos \(no files\)\. Put the images"):
        check_classification(scan.scan_images(uri), uri, 2)


def test_a_class_with_one_image_per_split_is_accepted():
    check_classification(Catalog(rows_of({"daisy": 3, "tulip": 4})), "/photos", 3)


def test_without_the_check_any_data_is_accepted(tmp_path):
    uri = write_files(tmp_path / "photos", {"daisy/1.jpg": A})
    found = ingest.ingest_images(uri, check_images=False, splits=2, table=tmp_path / "t.csv", page=tmp_path / "p.html")
    assert list(read_table(tmp_path / "t.csv")) == found.rows
    assert len(found.rows) == 1


def test_notes_report_copies_conflicting_labels_and_rare_classes():
    rows = [
        *rows_of({"daisy": 3, "tulip": 16}),
        ImageRow("/photos/tulip/again.jpg", "tulip", 1, "tulip0", "tulip/again.jpg"),
        ImageRow("/photos/tulip/wrong.jpg", "tulip", 1, "daisy1", "tulip/wrong.jpg"),
    ]
    assert classification_notes(Catalog(rows)) == [
        "2 images are byte-for-byte copies of others; copies always go to the same split.",
        "The same image has the labels daisy and tulip: daisy/1.jpg, tulip/wrong.jpg. "
        "It is excluded unless conflicting_labels of advanced is keep; delete the wrong copy, "
        "or set labels to several if all are right.",
        "tulip has 18 images and daisy only 3: add images of daisy if you can.",
    ]


def test_ordinary_data_has_no_notes():
    assert classification_notes(Catalog(rows_of({"daisy": 10, "tulip": 50}))) == []
    assert classification_notes(Catalog([])) == []


def test_the_summary_page_shows_classes_and_skipped_files(tmp_path):
    photos = sample_images.pictures(tmp_path / "photos", classes=2, each=3)
    (photos / "readme.txt").write_text("hello")
    page = tmp_path / "summary.html"
    ingest.ingest_images(str(photos), check_images=True, splits=2, table=tmp_path / "images.csv", page=page)
    text = page.read_text(encoding="utf-8")
    for words in ("bellcup", "globelet", "not an image", str(photos)):
        assert words in text
    assert len(re.findall("<img", text)) == 6


def test_the_flower_photographs(flower_photos, tmp_path, capsys):
    table, page = tmp_path / "images.csv", tmp_path / "summary.html"
    found = ingest.ingest_images(str(flower_photos), check_images=True, splits=2, table=table, page=page)
    assert found.classes == {"daisy": 150, "dandelion": 150, "roses": 151, "sunflowers": 152, "tulips": 151}
    assert found.skipped == {"not an image": 1}
    assert conflicting_values(found.rows, "label") == {"75a3d8ee9f189811e3c1b1730ff7e1f5": ["roses", "tulips"]}
    note = "roses and tulips: roses/15922772266_1167a06620.jpg, tulips/15922772266_1167a06620.jpg. It is excluded"
    assert any(note in line for line in classification_notes(found))
    assert list(read_table(table)) == found.rows
    assert note in page.read_text(encoding="utf-8")
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == "754 images in 5 classes, 1 file skipped"
    assert any(note in line for line in printed)


def splits_by_name(found):
    return {row.name: row.split for row in found.rows}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "validation", "test"), ("Training", "val", "testing"), ("TRAIN", "valid", "Test")],
)
@pytest.mark.parametrize("top", ["", "flowers/", "all/of/them/"])
def test_predefined_splits_are_kept(tmp_path, top, train, validation, test):
    files = {f"{top}{train}/daisy/1.jpg": A, f"{top}{validation}/daisy/1.jpg": ABC, f"{top}{test}/wild/daisy/1.jpg": DIGEST}
    found = scan.scan_images(write_files(tmp_path / "photos", files))
    assert splits_by_name(found) == dict(zip(files, ("train", "validation", "test"), strict=True))
    assert found.classes == {"daisy": 3}
    assert found.splits == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    "files",
    [
        {"train/daisy/1.jpg": A, "train/tulip/1.jpg": ABC},
        {"test/daisy/1.jpg": A, "validation/tulip/1.jpg": ABC},
        {"one/train/daisy/1.jpg": A, "other/test/tulip/1.jpg": ABC},
    ],
    ids=["one folder", "nothing to train on", "in different places"],
)
def test_folders_that_only_look_like_splits_are_not_splits(tmp_path, files):
    found = scan.scan_images(write_files(tmp_path / "photos", files))
    assert splits_by_name(found) == dict.fromkeys(files, "")
    assert found.splits == {}


def test_images_in_a_split_folder_but_no_class_folder_are_skipped(tmp_path):
    files = {"a/train/daisy/1.jpg": A, "a/test/daisy/1.jpg": ABC, "a/test/7.jpg": DIGEST, "a/more/daisy/1.jpg": b"1"}
    found = scan.scan_images(write_files(tmp_path / "photos", files))
    assert splits_by_name(found) == {"a/train/daisy/1.jpg": "train", "a/test/daisy/1.jpg": "test", "a/more/daisy/1.jpg": ""}
    assert found.skipped == {"not in a class folder": 1}


def test_the_fingerprint_changes_with_the_splits(tmp_path):
    first = scan.scan_images(write_files(tmp_path / "one", {"train/daisy/1.jpg": A, "test/daisy/1.jpg": ABC})).fingerprint
    second = scan.scan_images(write_files(tmp_path / "two", {"train/daisy/1.jpg": ABC, "test/daisy/1.jpg": A})).fingerprint
    none = scan.scan_images(write_files(tmp_path / "three", {"daisy/1.jpg": ABC, "daisy/2.jpg": A})).fingerprint
    assert len({first, second, none}) == 3


def test_the_fingerprint_of_data_without_splits_does_not_mention_splits():
    rows = [ImageRow("/1.jpg", "daisy", 1, MD5[A], "1.jpg"), ImageRow("/2.jpg", "tulip", 3, MD5[ABC], "2.jpg")]
    text = f"daisy {MD5[A]}\ntulip {MD5[ABC]}"
    assert Catalog(rows).fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_a_table_keeps_the_splits(tmp_path):
    rows = scan.scan_images(write_files(tmp_path / "photos", {"train/daisy/1.jpg": A, "val/daisy/1.jpg": ABC})).rows
    write_table(tmp_path / "images.csv", rows)
    assert list(read_table(tmp_path / "images.csv")) == rows
    assert {row.split for row in rows} == {"train", "validation"}


def test_the_table_of_a_run_is_an_import_file(tmp_path):
    rows = scan.scan_images(write_files(tmp_path / "photos", {"train/daisy/1.jpg": A, "val/tulip/1.jpg": ABC})).rows
    write_table(tmp_path / "images.csv", rows)
    reread = scan.scan_images(str(tmp_path / "images.csv")).rows
    assert [(row.uri, row.label, row.content_id, row.split) for row in reread] == [
        (row.uri, row.label, row.content_id, row.split) for row in rows
    ]


def test_images_of_an_import_file_keep_the_names_given_there(tmp_path):
    write_files(tmp_path / "photos", {"x/1.jpg": ABC, "2 ü.png": DIGEST})
    (tmp_path / "photos" / "list.csv").write_text(f"x/1.jpg,daisy,test\n{tmp_path}/photos/2 ü.png,<script>\n", encoding="utf-8")
    assert scan.scan_images(str(tmp_path / "photos" / "list.csv")).rows == [
        ImageRow(f"{tmp_path}/photos/2 ü.png", "<script>", 14, MD5[DIGEST], f"{tmp_path}/photos/2 ü.png", ""),
        ImageRow(f"{tmp_path}/photos/x/1.jpg", "daisy", 3, MD5[ABC], "x/1.jpg", "test"),
    ]


def test_a_label_invalid_in_label_maps_is_rejected_with_its_line(tmp_path):
    write_files(tmp_path, {"1.jpg": A})
    (tmp_path / "list.csv").write_text('1.jpg,"two\nlines"\n')
    with pytest.raises(InputError, match=r"got a control character in .*list\.csv, line 2\. Write lines such as"):
        scan.scan_images(str(tmp_path / "list.csv"))


def rows_in_splits(*splits):
    """Makes a different image of daisy in each split."""
    return [ImageRow(f"/{n}.jpg", "daisy", 1, f"{n:032}", f"{n}.jpg", split) for n, split in enumerate(splits)]


def test_data_with_predefined_splits_may_have_any_number_of_images():
    tulip = ImageRow("/t.jpg", "tulip", 1, MD5[A], "t.jpg", "train")
    check_classification(Catalog([*rows_in_splits("train", "test"), tulip]), "/photos", 3)


@pytest.mark.parametrize(
    ("splits", "line"),
    [
        (
            ("train", "train"),
            r"predefined splits must hold images out for validation or test; got all in train at /photos\. Move",
        ),
        (("test", "validation"), r"every class must have an image to train on; got none of daisy in train at /photos\. Add"),
    ],
)
def test_predefined_splits_without_training_or_held_out_images_are_rejected(splits, line):
    tulip = ImageRow("/t.jpg", "tulip", 1, MD5[A], "t.jpg", "train")
    with pytest.raises(InputError, match=line):
        check_classification(Catalog([*rows_in_splits(*splits), tulip]), "/photos", 2)


def test_notes_report_leaks_and_labels_that_look_the_same():
    first, two = rows_in_splits("train", "test")
    third = ImageRow("/again.jpg", "daisy", 1, first.content_id, "again.jpg", "validation")
    assert classification_notes(Catalog([first, two, third])) == [
        "1 images are byte-for-byte copies of others.",
        "The same image is in several splits: 0.jpg, again.jpg. Only the copy in test is used, else that in validation.",
    ]
    assert classification_notes(Catalog(rows_of({"Gänse": 2, "ga\u0308nse": 2, "rose": 2}))) == [
        "Gänse and ga\u0308nse differ only in case or Unicode form: are they the same class?"
    ]


def test_the_summary_page_shows_predefined_splits(tmp_path):
    photos = sample_images.pictures(tmp_path / "photos" / "train", classes=2, each=3).parent
    sample_images.pictures(photos / "test", classes=2, each=2)
    page = tmp_path / "summary.html"
    ingest.ingest_images(str(photos), check_images=True, splits=2, table=tmp_path / "images.csv", page=page)
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert '<tr><th scope="row">train</th><td class="number">6</td></tr> <tr><th scope="row">test</th>' in text
    assert "The same image is in several splits" in text


def test_a_page_shows_a_few_samples_per_class_or_one_if_there_are_many_classes(tmp_path):
    def make_sample(encoded: bytes, row: ImageRow) -> EncodedImage:
        return EncodedImage(row.name, encoded)

    few = [ImageRow(str(tmp_path / f"{number}.jpg"), f"{number % 2}", 1, f"{number}", f"{number}.jpg") for number in range(20)]
    assert {label: len(shown) for label, shown in ingest._samples(Catalog(few), make_sample).items()} == {"0": 6, "1": 6}
    many = [
        ImageRow(str(tmp_path / f"{number}.jpg"), f"{number:03d}", 1, f"{number}", f"{number}.jpg") for number in range(400)
    ]
    shown = ingest._samples(Catalog(many), make_sample)
    assert list(shown) == [f"{number:03d}" for number in range(300)]
    # None of the files exists any more, which must not fail the stage.
    assert all(pictures == [Thumbnail(f"{int(label)}.jpg", None, 0, 0)] for label, pictures in shown.items())


@pytest.mark.parametrize("part", [range(0), range(2), range(1, 3), range(2, 5), range(5)])
def test_a_slice_of_a_table_is_the_table_of_those_rows(tmp_path, part):
    rows = [ImageRow(f"/a, b/{number}.jpg", '"x"', number, f"{number}", "line\nend" * (number % 2)) for number in range(5)]
    write_table(tmp_path / "whole", rows)
    write_table(tmp_path / "expected", [rows[number] for number in part])
    write_table_slice(tmp_path / "whole", part, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == (tmp_path / "expected").read_bytes()
    assert (count_rows(tmp_path / "whole"), count_rows(tmp_path / "part")) == (5, len(part))


THREE = {"daisy/1.jpg": A, "daisy/2.jpg": ABC, "tulip/1.jpg": DIGEST}


def exclude(tmp_path, found, listed):
    """Applies an exclusion list, and returns the remaining names, the skipped files and the sentences about the list."""
    (tmp_path / "list.csv").write_text(listed)
    notes = ingest.exclude_images(found, str(tmp_path / "list.csv"))
    return [row.name for row in found.rows], dict(found.skipped), notes


def test_images_are_excluded_by_name_and_by_uri(tmp_path, capsys):
    uri = write_files(tmp_path / "photos", THREE | {"readme.txt": A})
    listed = f"path,leave_out\ndaisy/1.jpg,yes\n{uri}/tulip/1.jpg,yes\n{uri}/daisy/1.jpg,yes\ndaisy/2.jpg,no\n"
    names, skipped, notes = exclude(tmp_path, scan.scan_images(uri), listed)
    assert names == ["daisy/2.jpg"]
    assert skipped == {"not an image": 1, "excluded by leave_out_uri": 2}
    assert notes == []
    assert capsys.readouterr().out == f"images excluded by {tmp_path}/list.csv: 2\n"


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_an_image_in_an_archive_is_excluded(tmp_path, kind):
    archive = shutil.make_archive(str(tmp_path / "photos"), kind, write_files(tmp_path / "photos", THREE))
    names, *_ = exclude(tmp_path, scan.scan_images(archive), f"path\n{archive}#daisy/1.jpg\ntulip/1.jpg\n")
    assert names == ["daisy/2.jpg"]


def test_an_image_of_an_import_file_is_excluded_by_the_name_given_there(tmp_path):
    write_files(tmp_path / "photos", THREE)
    (tmp_path / "images.csv").write_text("photos/daisy/1.jpg,daisy\nphotos/daisy/2.jpg,daisy\nphotos/tulip/1.jpg,tulip\n")
    listed = f"path\nphotos/daisy/1.jpg\n{tmp_path}/photos/tulip/1.jpg\n"
    names, *_ = exclude(tmp_path, scan.scan_images(str(tmp_path / "images.csv")), listed)
    assert names == ["photos/daisy/2.jpg"]


def test_exclusions_that_match_no_image_are_reported(tmp_path, capsys):
    uri = write_files(tmp_path / "photos", THREE)
    more = "".join(f"gone/{number:02}.jpg\n" for number in range(11))
    names, skipped, notes = exclude(tmp_path, scan.scan_images(uri), f"path\ndaisy/1.jpg\n{more}")
    assert names == ["daisy/2.jpg", "tulip/1.jpg"]
    assert skipped == {"excluded by leave_out_uri": 1}
    first = ", ".join(f"gone/{number:02}.jpg" for number in range(10))
    assert notes == [f"Entries of the exclusion list that match no image: 11 ({first} and 1 more)."]
    assert capsys.readouterr().out.splitlines()[1:] == notes


def test_an_exclusion_list_that_matches_no_image_is_rejected(tmp_path):
    uri = write_files(tmp_path / "photos", THREE)
    with pytest.raises(InputError) as refusal:
        exclude(tmp_path, scan.scan_images(uri), "path\nrose/1.jpg\nphotos/daisy/1.jpg\n")
    assert str(refusal.value) == (
        f"error: leave_out_uri must name images of images_uri; got none of them in {tmp_path}/list.csv "
        "(photos/daisy/1.jpg, rose/1.jpg). "
        "Name each by its path below the root of the data, such as daisy/1.jpg, or by its URI."
    )


def test_an_empty_exclusion_list_excludes_nothing(tmp_path):
    found = scan.scan_images(write_files(tmp_path / "photos", THREE))
    assert exclude(tmp_path, found, "path,leave_out\nrose/1.jpg,no\n") == (sorted(THREE), {}, [])


def test_the_remaining_images_are_checked_written_and_shown(tmp_path):
    photos = sample_images.pictures(tmp_path / "photos", classes=3, each=3)
    (tmp_path / "list.csv").write_text("path\nbellcup/0001.jpg\nglobelet/0002.jpg\nrose/1.jpg\n")
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "p.html", "leave_out_uri": str(tmp_path / "list.csv")}
    found = ingest.ingest_images(str(photos), check_images=True, splits=2, **outputs)
    assert list(read_table(tmp_path / "images.csv")) == found.rows
    assert sorted(found.classes.values()) == [2, 2, 3]
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "Entries of the exclusion list that match no image: 1 (rose/1.jpg)." in page
    assert len(re.findall("<img", page)) == 7
    rarest = r"got 2 of 3 classes with fewer, the least 2: bellcup \(2\), globelet \(2\)\. Add images of them\.$"
    with pytest.raises(InputError, match=f"every class must have at least 3 images, one per split; {rarest}"):
        ingest.ingest_images(str(photos), check_images=True, splits=3, **outputs)


def test_excluded_images_do_not_affect_the_fingerprint(tmp_path):
    catalog = scan.scan_images(write_files(tmp_path / "photos", THREE))
    exclude(tmp_path, catalog, "path\ndaisy/2.jpg\n")
    fewer = scan.scan_images(write_files(tmp_path / "fewer", {"daisy/1.jpg": A, "tulip/1.jpg": DIGEST}))
    assert catalog.fingerprint == fewer.fingerprint


def test_the_fingerprint_changes_only_with_the_images_that_a_list_excludes(tmp_path):
    uri, listing = write_files(tmp_path / "photos", THREE), tmp_path / "list.csv"

    def fingerprint(listed):
        listing.write_text(listed)
        os.utime(listing, (0, 0))  # modification times must not matter: a store may change them
        return scan.fingerprint_images(uri, str(listing))

    first, second = fingerprint("path\ndaisy/1.jpg\n"), fingerprint("path\ndaisy/2.jpg\n")
    both_excluded = fingerprint("path\ndaisy/1.jpg\ndaisy/2.jpg\n")
    none = scan.fingerprint_images(uri)
    assert len({first, second, both_excluded, none}) == 4
    assert fingerprint("path,leave_out,finding\ndaisy/2.jpg,x,blurred\ndaisy/1.jpg,yes,\ntulip/1.jpg,no,\n") == both_excluded
    assert fingerprint("path\n") == scan.fingerprint_images(uri, "") == none
    listing.rename(tmp_path / "moved.csv")
    (tmp_path / "moved.csv").write_text("path\ndaisy/1.jpg\n")
    assert scan.fingerprint_images(uri, str(tmp_path / "moved.csv")) == first
