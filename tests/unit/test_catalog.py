"""The table of pictures: labels from folders, contents by their hash, and data refused on which nothing can be learnt."""

import hashlib
import os
import re
import shutil

import drawn
import pytest

from kfp_vision import catalog
from kfp_vision.catalog import Catalog, Row
from kfp_vision.errors import InputError
from kfp_vision.reports import Picture, Thumbnail

# Contents and their MD5, from RFC 1321, section A.5.
A, ABC, DIGEST = b"a", b"abc", b"message digest"
MD5 = {
    A: "0cc175b9c0f1b6a831c399e269772661",
    ABC: "900150983cd24fb0d6963f7d28e17f72",
    DIGEST: "f96b697d7cb7938d525a2f31aaf161d0",
}


def lay(folder, files):
    """Writes files, path below the folder to content, and gives the folder as a URI."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return str(folder)


def rows_of(classes):
    """A picture a row, all different: label to how many."""
    return [
        Row(f"/photos/{label}/{n}.jpg", label, 1, f"{label}{n}", f"{label}/{n}.jpg")
        for label, most in classes.items()
        for n in range(most)
    ]


def test_a_picture_has_the_name_of_its_folder_and_the_hash_of_its_bytes(tmp_path):
    uri = lay(tmp_path / "photos", {"tulip/b.PNG": DIGEST, "daisy/z.jpg": ABC, "wild/daisy/a.jpeg": A})
    assert catalog.scan(uri).rows == [
        Row(f"{uri}/daisy/z.jpg", "daisy", 3, MD5[ABC], "daisy/z.jpg"),
        Row(f"{uri}/tulip/b.PNG", "tulip", 14, MD5[DIGEST], "tulip/b.PNG"),
        Row(f"{uri}/wild/daisy/a.jpeg", "daisy", 1, MD5[A], "wild/daisy/a.jpeg"),
    ]


def test_classes_are_counted_and_sorted(tmp_path):
    uri = lay(tmp_path / "photos", {"tulip/1.gif": A, "daisy/1.webp": A, "daisy/2.tiff": ABC, "daisy/3.bmp": DIGEST})
    assert list(catalog.scan(uri).classes.items()) == [("daisy", 3), ("tulip", 1)]


def test_what_is_no_picture_of_a_class_is_passed_over_and_counted(tmp_path):
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
    found = catalog.scan(lay(tmp_path / "photos", files))
    assert [row.name for row in found.rows] == ["daisy/1.jpg"]
    assert found.passed_over == {
        "hidden": 7,
        "thumbnail": 3,
        "deleted": 2,
        "not a picture": 4,
        "not in a class folder": 1,
        "control character in the name": 2,
    }


def test_a_name_that_is_no_utf8_is_passed_over(tmp_path):
    (tmp_path / os.fsdecode(b"L\xf6wenzahn")).mkdir()
    (tmp_path / os.fsdecode(b"L\xf6wenzahn/1.jpg")).write_bytes(A)
    found = catalog.scan(str(tmp_path))
    assert found.rows == []
    assert found.passed_over.total() == 1


LABELS = ['comma, "quote"', "'single'", "two  spaces", "花 雏菊", "全角\u3000空格", "گل\u200cرز", "0:daisy", "=1+1", "-"]


@pytest.mark.parametrize("label", LABELS)
def test_a_table_gives_back_what_was_written(tmp_path, label):
    uri = lay(tmp_path / "photos", {f"{label}/a, \"b\" 'c' 花.jpg": A, f"{label}/2.jpg": ABC, "other/1.jpg": DIGEST})
    rows = catalog.scan(uri).rows
    assert {row.label for row in rows} == {label, "other"}
    catalog.write(tmp_path / "images.csv", rows)
    assert list(catalog.read(tmp_path / "images.csv")) == rows


def test_a_table_is_plain_csv(tmp_path):
    row = Row("/photos/a, b/1.jpg", "a, b", 3, MD5[ABC], 'a, b/"1".jpg')
    catalog.write(tmp_path / "images.csv", [row])
    assert (tmp_path / "images.csv").read_bytes() == (
        b"uri,label,bytes,content_id,name,split,objects\n"
        b'"/photos/a, b/1.jpg","a, b",3,900150983cd24fb0d6963f7d28e17f72,"a, b/""1"".jpg",,\n'
    )


def test_the_fingerprint_follows_labels_and_contents_alone(tmp_path):
    one = catalog.scan(lay(tmp_path / "one", {"daisy/1.jpg": A, "tulip/1.jpg": ABC})).fingerprint
    renamed = catalog.scan(lay(tmp_path / "two", {"daisy/zz.jpg": A, "deep/tulip/a.png": ABC})).fingerprint
    relabelled = catalog.scan(lay(tmp_path / "three", {"daisy/1.jpg": ABC, "tulip/1.jpg": A})).fingerprint
    grown = catalog.scan(lay(tmp_path / "four", {"daisy/1.jpg": A, "daisy/2.jpg": A, "tulip/1.jpg": ABC})).fingerprint
    assert one == renamed
    assert len({one, relabelled, grown}) == 3


@pytest.mark.parametrize(
    ("files", "splits", "line"),
    [
        (
            {"LICENSE.txt": A},
            2,
            "error: images_uri must hold pictures; got none at {uri} (1 other files). "
            "Put the pictures into one folder a class, as in photos/daisy/1.jpg, photos/tulip/2.jpg.",
        ),
        (
            {"daisy/1.jpg": A, "daisy/2.jpg": ABC},
            2,
            "error: images_uri must hold at least two classes; got one at {uri} (daisy). "
            "Put the pictures into one folder a class, as in photos/daisy/1.jpg, photos/tulip/2.jpg.",
        ),
        (
            {"daisy/1.jpg": A, "daisy/2.jpg": ABC, "daisy/3.jpg": DIGEST, "tulip/1.jpg": b"1", "tulip/2.jpg": b"2"},
            3,
            "error: every class must have at least 3 pictures, one a split; got 2 of tulip. "
            "Add pictures to it, or take it out.",
        ),
    ],
)
def test_data_on_which_nothing_can_be_learnt_is_refused(tmp_path, files, splits, line):
    uri = lay(tmp_path / "photos", files)
    table, page = tmp_path / "images.csv", tmp_path / "summary.html"
    with pytest.raises(InputError) as refusal:
        catalog.ingest(uri, check_images=True, splits=splits, table=table, page=page)
    assert str(refusal.value) == line.format(uri=uri)
    assert not table.exists()
    assert not page.exists()


def test_an_empty_folder_is_refused(tmp_path):
    uri = lay(tmp_path / "photos", {})
    with pytest.raises(InputError, match=r"must hold pictures; got none at .*photos \(0 other files\)\. Put the pictures"):
        catalog.check(catalog.scan(uri), uri, 2)


def test_a_class_with_just_a_picture_for_each_split_is_let_pass():
    catalog.check(Catalog(rows_of({"daisy": 3, "tulip": 4})), "/photos", 3)


def test_without_the_check_any_data_is_listed(tmp_path):
    uri = lay(tmp_path / "photos", {"daisy/1.jpg": A})
    found = catalog.ingest(uri, check_images=False, splits=2, table=tmp_path / "t.csv", page=tmp_path / "p.html")
    assert list(catalog.read(tmp_path / "t.csv")) == found.rows
    assert len(found.rows) == 1


def test_notes_name_copies_pictures_under_two_labels_and_rare_classes():
    rows = [
        *rows_of({"daisy": 3, "tulip": 16}),
        Row("/photos/tulip/again.jpg", "tulip", 1, "tulip0", "tulip/again.jpg"),
        Row("/photos/tulip/wrong.jpg", "tulip", 1, "daisy1", "tulip/wrong.jpg"),
    ]
    assert catalog.notes(Catalog(rows)) == [
        "2 pictures are copies of another, byte for byte; copies always stay on one side of the split.",
        "The same picture stands under daisy and tulip: daisy/1.jpg, tulip/wrong.jpg. "
        "It is left out, unless conflicting_labels of advanced is keep; delete the wrong one.",
        "tulip has 18 pictures and daisy only 3: add pictures of daisy if you can.",
    ]


def test_of_ordinary_data_there_is_nothing_to_note():
    assert catalog.notes(Catalog(rows_of({"daisy": 10, "tulip": 50}))) == []
    assert catalog.notes(Catalog([])) == []


def test_the_summary_page_shows_the_classes_and_what_was_passed_over(tmp_path):
    photos = drawn.pictures(tmp_path / "photos", classes=2, each=3)
    (photos / "readme.txt").write_text("hello")
    page = tmp_path / "summary.html"
    catalog.ingest(str(photos), check_images=True, splits=2, table=tmp_path / "images.csv", page=page)
    text = page.read_text(encoding="utf-8")
    for words in ("bellcup", "globelet", "not a picture", str(photos)):
        assert words in text
    assert len(re.findall("<img", text)) == 6


def test_the_flower_photographs(flower_photos, tmp_path, capsys):
    table, page = tmp_path / "images.csv", tmp_path / "summary.html"
    found = catalog.ingest(str(flower_photos), check_images=True, splits=2, table=table, page=page)
    assert found.classes == {"daisy": 150, "dandelion": 150, "roses": 151, "sunflowers": 152, "tulips": 151}
    assert found.passed_over == {"not a picture": 1}
    assert catalog.several(found.rows, "label") == {"75a3d8ee9f189811e3c1b1730ff7e1f5": ["roses", "tulips"]}
    note = "roses and tulips: roses/15922772266_1167a06620.jpg, tulips/15922772266_1167a06620.jpg. It is left out"
    assert any(note in said for said in catalog.notes(found))
    assert list(catalog.read(table)) == found.rows
    assert note in page.read_text(encoding="utf-8")
    assert capsys.readouterr().out == "754 pictures in 5 classes, 1 files passed over\n"


def splits_of(found):
    return {row.name: row.split for row in found.rows}


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [("train", "validation", "test"), ("Training", "val", "testing"), ("TRAIN", "valid", "Test")],
)
@pytest.mark.parametrize("top", ["", "flowers/", "all/of/them/"])
def test_folders_that_are_split_already_keep_their_splits(tmp_path, top, train, validation, test):
    files = {f"{top}{train}/daisy/1.jpg": A, f"{top}{validation}/daisy/1.jpg": ABC, f"{top}{test}/wild/daisy/1.jpg": DIGEST}
    found = catalog.scan(lay(tmp_path / "photos", files))
    assert splits_of(found) == dict(zip(files, ("train", "validation", "test"), strict=True))
    assert found.classes == {"daisy": 3}
    assert found.splits == {"train": 1, "validation": 1, "test": 1}


@pytest.mark.parametrize(
    "files",
    [
        {"train/daisy/1.jpg": A, "train/tulip/1.jpg": ABC},
        {"test/daisy/1.jpg": A, "validation/tulip/1.jpg": ABC},
        {"one/train/daisy/1.jpg": A, "other/test/daisy/1.jpg": ABC},
        {"train/1.jpg": A, "test/1.jpg": ABC},
    ],
    ids=["one folder", "nothing to train on", "in different places", "classes of these names"],
)
def test_folders_that_only_look_like_splits_are_folders(tmp_path, files):
    found = catalog.scan(lay(tmp_path / "photos", files))
    assert splits_of(found) == dict.fromkeys(files, "")
    assert found.splits == {}


def test_pictures_of_no_class_in_a_folder_of_a_split_are_passed_over(tmp_path):
    files = {"a/train/daisy/1.jpg": A, "a/test/daisy/1.jpg": ABC, "a/test/7.jpg": DIGEST, "a/more/daisy/1.jpg": b"1"}
    found = catalog.scan(lay(tmp_path / "photos", files))
    assert splits_of(found) == {"a/train/daisy/1.jpg": "train", "a/test/daisy/1.jpg": "test", "a/more/daisy/1.jpg": ""}
    assert found.passed_over == {"not in a class folder": 1}


def test_the_fingerprint_changes_with_the_splits(tmp_path):
    one = catalog.scan(lay(tmp_path / "one", {"train/daisy/1.jpg": A, "test/daisy/1.jpg": ABC})).fingerprint
    other = catalog.scan(lay(tmp_path / "two", {"train/daisy/1.jpg": ABC, "test/daisy/1.jpg": A})).fingerprint
    none = catalog.scan(lay(tmp_path / "three", {"daisy/1.jpg": ABC, "daisy/2.jpg": A})).fingerprint
    assert len({one, other, none}) == 3


def test_the_fingerprint_of_data_without_splits_is_what_it_was():
    rows = [Row("/1.jpg", "daisy", 1, MD5[A], "1.jpg"), Row("/2.jpg", "tulip", 3, MD5[ABC], "2.jpg")]
    text = f"daisy {MD5[A]}\ntulip {MD5[ABC]}"
    assert Catalog(rows).fingerprint == hashlib.sha256(text.encode()).hexdigest()


def test_a_table_keeps_the_splits(tmp_path):
    rows = catalog.scan(lay(tmp_path / "photos", {"train/daisy/1.jpg": A, "val/daisy/1.jpg": ABC})).rows
    catalog.write(tmp_path / "images.csv", rows)
    assert list(catalog.read(tmp_path / "images.csv")) == rows
    assert {row.split for row in rows} == {"train", "validation"}


def test_the_table_of_a_run_is_an_import_file(tmp_path):
    rows = catalog.scan(lay(tmp_path / "photos", {"train/daisy/1.jpg": A, "val/tulip/1.jpg": ABC})).rows
    catalog.write(tmp_path / "images.csv", rows)
    again = catalog.scan(str(tmp_path / "images.csv")).rows
    assert [(row.uri, row.label, row.content_id, row.split) for row in again] == [
        (row.uri, row.label, row.content_id, row.split) for row in rows
    ]


def test_the_pictures_of_an_import_file_have_their_bytes_and_its_names(tmp_path):
    lay(tmp_path / "photos", {"x/1.jpg": ABC, "2 ü.png": DIGEST})
    (tmp_path / "photos" / "list.csv").write_text(f"x/1.jpg,daisy,test\n{tmp_path}/photos/2 ü.png,<script>\n", encoding="utf-8")
    assert catalog.scan(str(tmp_path / "photos" / "list.csv")).rows == [
        Row(f"{tmp_path}/photos/2 ü.png", "<script>", 14, MD5[DIGEST], f"{tmp_path}/photos/2 ü.png", ""),
        Row(f"{tmp_path}/photos/x/1.jpg", "daisy", 3, MD5[ABC], "x/1.jpg", "test"),
    ]


def test_a_picture_of_an_import_file_that_is_not_there_is_refused_with_its_line(tmp_path):
    lay(tmp_path, {"1.jpg": A})
    (tmp_path / "list.csv").write_text("1.jpg,daisy\n\nnone.jpg,daisy\n")
    with pytest.raises(InputError) as refusal:
        catalog.scan(str(tmp_path / "list.csv"))
    assert str(refusal.value) == (
        "error: every picture of an import file must be there; got [Errno 2] No such file or directory: "
        f"'{tmp_path}/none.jpg' in {tmp_path}/list.csv, line 3. "
        "Mend the line or take it out; a relative URI is relative to the file."
    )


def test_what_could_not_stand_in_a_label_map_is_refused_with_its_line(tmp_path):
    lay(tmp_path, {"1.jpg": A})
    (tmp_path / "list.csv").write_text('1.jpg,"two\nlines"\n')
    with pytest.raises(InputError, match=r"got a control character in .*list\.csv, line 2\. Write lines such as"):
        catalog.scan(str(tmp_path / "list.csv"))


def split_rows(*splits):
    """A picture of daisy in each, all different."""
    return [Row(f"/{n}.jpg", "daisy", 1, f"{n:032}", f"{n}.jpg", split) for n, split in enumerate(splits)]


def test_data_that_brings_its_splits_is_let_pass_with_whatever_number_of_pictures():
    tulip = Row("/t.jpg", "tulip", 1, MD5[A], "t.jpg", "train")
    catalog.check(Catalog([*split_rows("train", "test"), tulip]), "/photos", 3)


@pytest.mark.parametrize(
    ("splits", "line"),
    [
        (
            ("train", "train"),
            r"split already must hold pictures out for validation or test; got all in train at /photos\. Give",
        ),
        (("test", "validation"), r"every class must have a picture to train on; got none of daisy in train at /photos\. Add"),
    ],
)
def test_splits_that_cannot_train_or_measure_are_refused(splits, line):
    tulip = Row("/t.jpg", "tulip", 1, MD5[A], "t.jpg", "train")
    with pytest.raises(InputError, match=line):
        catalog.check(Catalog([*split_rows(*splits), tulip]), "/photos", 2)


def test_notes_name_pictures_in_several_splits_and_labels_that_look_the_same():
    one, two = split_rows("train", "test")
    again = Row("/again.jpg", "daisy", 1, one.content_id, "again.jpg", "validation")
    assert catalog.notes(Catalog([one, two, again])) == [
        "1 pictures are copies of another, byte for byte.",
        "The same picture stands in more than one split: 0.jpg, again.jpg. Only the last is used: test, else validation.",
    ]
    assert catalog.notes(Catalog(rows_of({"Gänse": 2, "ga\u0308nse": 2, "rose": 2}))) == [
        "Gänse and ga\u0308nse differ in nothing but case or the form of a letter: are they one class?"
    ]


def test_pictures_of_telephones_that_are_not_supported_are_named(tmp_path):
    found = catalog.scan(lay(tmp_path / "photos", {"daisy/IMG_1.HEIC": A, "daisy/2.avif": A, "daisy/3.jpg": A}))
    assert found.passed_over == {
        "HEIC, which is not supported; convert it to JPEG": 1,
        "AVIF, which is not supported; convert it to JPEG": 1,
    }


def test_the_summary_page_shows_the_splits_that_the_data_brings(tmp_path):
    photos = drawn.pictures(tmp_path / "photos" / "train", classes=2, each=3).parent
    drawn.pictures(photos / "test", classes=2, each=2)
    page = tmp_path / "summary.html"
    catalog.ingest(str(photos), check_images=True, splits=2, table=tmp_path / "images.csv", page=page)
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert '<tr><th scope="row">train</th><td class="number">6</td></tr> <tr><th scope="row">test</th>' in text
    assert "The same picture stands in more than one split" in text


def test_a_page_shows_a_few_of_each_class_and_of_so_many_classes_one_of_the_first(tmp_path):
    def shown_as(encoded: bytes, row: Row) -> Picture:
        return Picture(row.name, encoded)

    few = [Row(str(tmp_path / f"{number}.jpg"), f"{number % 2}", 1, f"{number}", f"{number}.jpg") for number in range(20)]
    assert {label: len(shown) for label, shown in catalog._samples(Catalog(few), shown_as).items()} == {"0": 6, "1": 6}
    many = [Row(str(tmp_path / f"{number}.jpg"), f"{number:03d}", 1, f"{number}", f"{number}.jpg") for number in range(400)]
    shown = catalog._samples(Catalog(many), shown_as)
    assert list(shown) == [f"{number:03d}" for number in range(300)]
    # None of them is there any more, which is no reason for the stage to fail.
    assert all(pictures == [Thumbnail(f"{int(label)}.jpg", None, 0, 0)] for label, pictures in shown.items())


@pytest.mark.parametrize("part", [range(0), range(2), range(1, 3), range(2, 5), range(5)])
def test_a_part_of_a_table_is_the_table_of_those_rows(tmp_path, part):
    rows = [Row(f"/a, b/{number}.jpg", '"x"', number, f"{number}", "line\nend" * (number % 2)) for number in range(5)]
    catalog.write(tmp_path / "whole", rows)
    catalog.write(tmp_path / "expected", [rows[number] for number in part])
    catalog.write_part(tmp_path / "whole", part, tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == (tmp_path / "expected").read_bytes()
    assert (catalog.count(tmp_path / "whole"), catalog.count(tmp_path / "part")) == (5, len(part))


THREE = {"daisy/1.jpg": A, "daisy/2.jpg": ABC, "tulip/1.jpg": DIGEST}


def without(tmp_path, found, listed):
    """The names that are left, what was passed over, and what is said of the list."""
    (tmp_path / "list.csv").write_text(listed)
    said = catalog.leave_out(found, str(tmp_path / "list.csv"))
    return [row.name for row in found.rows], dict(found.passed_over), said


def test_pictures_of_a_list_are_left_out_by_name_and_by_uri(tmp_path, capsys):
    uri = lay(tmp_path / "photos", THREE | {"readme.txt": A})
    listed = f"path,leave_out\ndaisy/1.jpg,yes\n{uri}/tulip/1.jpg,yes\n{uri}/daisy/1.jpg,yes\ndaisy/2.jpg,no\n"
    names, passed_over, said = without(tmp_path, catalog.scan(uri), listed)
    assert names == ["daisy/2.jpg"]
    assert passed_over == {"not a picture": 1, "in the list of pictures to leave out": 2}
    assert said == []
    assert capsys.readouterr().out == f"pictures left out, as {tmp_path}/list.csv says: 2\n"


@pytest.mark.parametrize("kind", ["zip", "gztar"])
def test_a_picture_in_an_archive_is_left_out(tmp_path, kind):
    archive = shutil.make_archive(str(tmp_path / "photos"), kind, lay(tmp_path / "photos", THREE))
    names, *_ = without(tmp_path, catalog.scan(archive), f"path\n{archive}#daisy/1.jpg\ntulip/1.jpg\n")
    assert names == ["daisy/2.jpg"]


def test_a_picture_of_an_import_file_is_left_out_as_it_is_named_there(tmp_path):
    lay(tmp_path / "photos", THREE)
    (tmp_path / "images.csv").write_text("photos/daisy/1.jpg,daisy\nphotos/daisy/2.jpg,daisy\nphotos/tulip/1.jpg,tulip\n")
    listed = f"path\nphotos/daisy/1.jpg\n{tmp_path}/photos/tulip/1.jpg\n"
    names, *_ = without(tmp_path, catalog.scan(str(tmp_path / "images.csv")), listed)
    assert names == ["photos/daisy/2.jpg"]


def test_what_a_list_names_and_the_data_has_not_is_said(tmp_path, capsys):
    uri = lay(tmp_path / "photos", THREE)
    more = "".join(f"gone/{number:02}.jpg\n" for number in range(11))
    names, passed_over, said = without(tmp_path, catalog.scan(uri), f"path\ndaisy/1.jpg\n{more}")
    assert names == ["daisy/2.jpg", "tulip/1.jpg"]
    assert passed_over == {"in the list of pictures to leave out": 1}
    first = ", ".join(f"gone/{number:02}.jpg" for number in range(10))
    assert said == [f"The list of pictures to leave out names 11 that are not in the data: {first} and 1 more."]
    assert capsys.readouterr().out.splitlines()[1:] == said


def test_a_list_that_names_nothing_of_the_data_is_refused(tmp_path):
    uri = lay(tmp_path / "photos", THREE)
    with pytest.raises(InputError) as refusal:
        without(tmp_path, catalog.scan(uri), "path\nrose/1.jpg\nphotos/daisy/1.jpg\n")
    assert str(refusal.value) == (
        f"error: leave_out_uri must name pictures of images_uri; got none of them in {tmp_path}/list.csv "
        "(photos/daisy/1.jpg, rose/1.jpg). "
        "Name each by its path below the root of the data, such as daisy/1.jpg, or by its URI."
    )


def test_a_list_of_nothing_leaves_nothing_out(tmp_path):
    found = catalog.scan(lay(tmp_path / "photos", THREE))
    assert without(tmp_path, found, "path,leave_out\nrose/1.jpg,no\n") == (sorted(THREE), {}, [])


def test_what_is_left_is_what_is_checked_written_and_shown(tmp_path):
    photos = drawn.pictures(tmp_path / "photos", classes=3, each=3)
    (tmp_path / "list.csv").write_text("path\nbellcup/0001.jpg\nglobelet/0002.jpg\nrose/1.jpg\n")
    made = {"table": tmp_path / "images.csv", "page": tmp_path / "p.html", "leave_out_uri": str(tmp_path / "list.csv")}
    found = catalog.ingest(str(photos), check_images=True, splits=2, **made)
    assert list(catalog.read(tmp_path / "images.csv")) == found.rows
    assert sorted(found.classes.values()) == [2, 2, 3]
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "The list of pictures to leave out names 1 that are not in the data: rose/1.jpg." in page
    assert len(re.findall("<img", page)) == 7
    with pytest.raises(InputError, match=r"every class must have at least 3 pictures, one a split; got 2 of bellcup\."):
        catalog.ingest(str(photos), check_images=True, splits=3, **made)


def test_data_is_as_if_what_is_left_out_were_not_there(tmp_path):
    whole = catalog.scan(lay(tmp_path / "photos", THREE))
    without(tmp_path, whole, "path\ndaisy/2.jpg\n")
    fewer = catalog.scan(lay(tmp_path / "fewer", {"daisy/1.jpg": A, "tulip/1.jpg": DIGEST}))
    assert whole.fingerprint == fewer.fingerprint


def test_the_fingerprint_changes_with_what_a_list_names_and_with_nothing_else_of_it(tmp_path):
    uri, listing = lay(tmp_path / "photos", THREE), tmp_path / "list.csv"

    def fingerprint(listed):
        listing.write_text(listed)
        os.utime(listing, (0, 0))  # the time is no help: a store may keep another
        return catalog.fingerprint(uri, str(listing))

    one, other = fingerprint("path\ndaisy/1.jpg\n"), fingerprint("path\ndaisy/2.jpg\n")
    both = fingerprint("path\ndaisy/1.jpg\ndaisy/2.jpg\n")
    none = catalog.fingerprint(uri)
    assert len({one, other, both, none}) == 4
    assert fingerprint("path,leave_out,finding\ndaisy/2.jpg,x,blurred\ndaisy/1.jpg,yes,\ntulip/1.jpg,no,\n") == both
    assert fingerprint("path\n") == catalog.fingerprint(uri, "") == none
    listing.rename(tmp_path / "moved.csv")
    (tmp_path / "moved.csv").write_text("path\ndaisy/1.jpg\n")
    assert catalog.fingerprint(uri, str(tmp_path / "moved.csv")) == one
