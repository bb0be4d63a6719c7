"""The images of an import file: missing ones, lines without a label, and names that are ids or lack their folder."""

import os

import pytest

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan

ANY_MISSING = Advanced(max_refused_ratio=1.0)


def write_files(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())


def write_list(folder, *lines, name="list.csv"):
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(folder / name)


def error_of(uri, advanced=Advanced()):  # noqa: B008
    with pytest.raises(InputError) as refusal:
        scan.scan_images(uri, advanced)
    return str(refusal.value)


def places_of(uri, **options):
    """Returns the path of each image below the folder of the import file, by its name there."""
    found = scan.scan_images(uri, **options)
    return {row.name: os.path.relpath(row.uri, os.path.dirname(uri)) for row in found.rows}  # noqa: PTH120


def test_missing_images_are_skipped_and_named_up_to_the_share_allowed(tmp_path):
    names = [f"cat/{number}.jpg" for number in range(20)]
    write_files(tmp_path, *names[:-1])
    uri = write_list(tmp_path, "uri,label", *(f"{name},cat" for name in names))
    found = scan.scan_images(uri, Advanced(max_refused_ratio=0.05))
    assert [row.name for row in found.rows] == sorted(names[:-1])
    assert found.skipped == {"missing": 1}
    assert found.skipped.names == {"missing": ["cat/19.jpg (line 21)"]}
    assert error_of(uri, Advanced(max_refused_ratio=0.04)) == (
        f"error: at most 4% of the images of an import file may be missing; got 1 of 20 in {uri}. Correct or remove their "
        "lines (names are relative to the folder of the file), or raise max_refused_ratio. Namely: cat/19.jpg (line 21)."
    )


def test_all_missing_images_are_named_at_once_up_to_ten(tmp_path):
    write_files(tmp_path, "cat/0.jpg")
    uri = write_list(tmp_path, "cat/0.jpg,cat", *(f"dog/{number}.jpg,dog" for number in range(12)))
    named = "; ".join(f"dog/{number}.jpg (line {number + 2})" for number in range(10))
    assert f"got 12 of 13 in {uri}." in error_of(uri)
    assert error_of(uri).endswith(f"First: {named} and 2 more.")


def test_a_folder_and_a_file_within_a_file_are_missing_images(tmp_path):
    write_files(tmp_path, "cat/0.jpg", "dog.jpg/1.jpg")
    uri = write_list(tmp_path, "cat/0.jpg,cat", "dog.jpg,dog", "cat/0.jpg/1.jpg,cat")
    found = scan.scan_images(uri, ANY_MISSING)
    assert found.skipped.names == {"missing": ["dog.jpg (line 2)", "cat/0.jpg/1.jpg (line 3)"]}


def test_what_cannot_be_reached_is_an_error_at_once(tmp_path):
    write_files(tmp_path, "cat/0.jpg")
    uri = write_list(tmp_path, "cat/0.jpg,cat", f"{'x' * 300}.jpg,cat")
    assert error_of(uri, ANY_MISSING).startswith(
        "error: every image of an import file must be readable; got [Errno 36] File name too long"
    )
    assert f"in {uri}, line 2. " in error_of(uri, ANY_MISSING)


def test_lines_without_a_label_are_skipped_and_named(tmp_path):
    write_files(tmp_path, "1.jpg", "2.jpg", "3.jpg")
    uri = write_list(tmp_path, "UNASSIGNED,1.jpg,cat", "2.jpg", "UNASSIGNED,3.jpg", "UNASSIGNED,4.jpg")
    found = scan.scan_images(uri)
    assert [(row.name, row.label) for row in found.rows] == [("1.jpg", "cat")]
    assert found.skipped == {"no label": 3}
    assert found.skipped.names == {"no label": ["2.jpg (line 2)", "3.jpg (line 3)", "4.jpg (line 4)"]}


def test_an_import_file_without_any_label_is_refused_except_for_search(tmp_path):
    write_files(tmp_path, "1.jpg", "2.jpg")
    uri = write_list(tmp_path, "filename", "1.jpg", "2.jpg")
    assert error_of(uri).startswith(
        f"error: an import file must give the labels of its images; got 2 lines without a label in {uri}. Write lines"
    )
    assert [(row.name, row.label) for row in scan.scan_images(uri, classes=False).rows] == [("1.jpg", ""), ("2.jpg", "")]


@pytest.mark.parametrize(("name", "content"), [("a.csv", ""), ("a.csv", "uri,label"), ("a.jsonl", "\n"), ("a.json", "[]")])
def test_an_import_file_without_lines_is_refused(tmp_path, name, content):
    uri = write_list(tmp_path, content, name=name)
    assert error_of(uri).startswith(f"error: an import file must list images; got nothing in {uri}. Write ")


def test_all_wrong_lines_are_named_at_once_up_to_ten(tmp_path):
    uri = write_list(tmp_path, ",cat", "1.jpg,cat,tulip", *["a,b,c,d"] * 9, "2.jpg,cat")
    assert f"every line of an import file must give an image and its label; got 11 wrong lines in {uri}. " in error_of(uri)
    first = "First: line 1: no URI; line 2: the ml_use tulip (not training, validation or test); line 3: 4 fields; "
    assert first in error_of(uri)
    assert error_of(uri).endswith("line 10: 4 fields and 1 more.")


def test_ids_are_images_with_any_ending_below_the_folder(tmp_path):
    write_files(tmp_path, "train/000bec.jpg", "train/000bec.xml", "__MACOSX/000bec.jpg", "train/img.001.png", "x/7")
    uri = write_list(tmp_path, "id,breed", "000bec,corgi", "img.001,pug", "x/7,pug")
    assert places_of(uri) == {"000bec": "train/000bec.jpg", "img.001": "train/img.001.png", "x/7": "x/7"}
    assert "2 images of the import file were found by name, such as 000bec at train/000bec.jpg." in scan.scan_images(uri).notes


def test_ids_are_found_below_the_folder_of_an_import_file_with_a_relative_path(tmp_path, monkeypatch):
    write_files(tmp_path, "train/000bec.jpg")
    write_list(tmp_path, "id,breed", "000bec,corgi")
    monkeypatch.chdir(tmp_path)
    assert [row.uri for row in scan.scan_images("list.csv").rows] == [f"{tmp_path}/train/000bec.jpg"]


def test_an_id_of_two_images_is_refused_with_both(tmp_path):
    write_files(tmp_path, "train/7.jpg", "test/7.png", "8.jpg")
    uri = write_list(tmp_path, "id,breed", "7,corgi", "8,pug")
    fault = f"got 7, which may be test/7.png and train/7.jpg in {uri}, line 2. "
    assert fault in error_of(uri)
    with pytest.raises(InputError, match=r"which may be test/7\.png and train/7\.jpg"):
        scan.fingerprint_images(uri)


def test_case_counts_only_if_an_image_of_that_very_name_is_there(tmp_path):
    write_files(tmp_path, "train/IMG_7.JPG", "train/img_8.jpg", "train/IMG_8.jpg", "train/Img_9.jpg", "train/IMG_9.jpg")
    uri = write_list(tmp_path, "id,breed", "img_7,corgi", "img_8,pug")
    assert places_of(uri) == {"img_7": "train/IMG_7.JPG", "img_8": "train/img_8.jpg"}
    uri = write_list(tmp_path, "id,breed", "img_7,corgi", "img_9,pug")
    assert "got img_9, which may be train/IMG_9.jpg and train/Img_9.jpg in " in error_of(uri)


def test_names_without_their_folder_are_found_if_most_are_not_where_they_are_named(tmp_path):
    write_files(tmp_path, "images/1.jpg", "images/deep/2.jpg", "3.jpg")
    uri = write_list(tmp_path, "1.jpg,cat", "deep/2.jpg,dog", "3.jpg,dog")
    assert places_of(uri) == {"1.jpg": "images/1.jpg", "deep/2.jpg": "images/deep/2.jpg", "3.jpg": "3.jpg"}


def test_a_missing_image_among_others_is_not_looked_for_elsewhere(tmp_path):
    write_files(tmp_path, "1.jpg", "2.jpg", "old/3.jpg")
    uri = write_list(tmp_path, "1.jpg,cat", "2.jpg,dog", "3.jpg,dog")
    assert places_of(uri, advanced=ANY_MISSING) == {"1.jpg": "1.jpg", "2.jpg": "2.jpg"}


def test_backslashes_are_separators_unless_a_file_is_called_so(tmp_path):
    write_files(tmp_path, "cat/1.jpg", "cat\\2.jpg", "cat/2.jpg")
    (tmp_path / "lists").mkdir()
    uri = write_list(tmp_path, "cat\\1.jpg,cat", "cat\\2.jpg,cat", ".\\cat\\1.jpg,cat")
    assert places_of(uri) == {"cat\\1.jpg": "cat/1.jpg", "cat\\2.jpg": "cat\\2.jpg", ".\\cat\\1.jpg": "cat/1.jpg"}
    above = write_list(tmp_path / "lists", "..\\cat\\1.jpg,cat")
    assert places_of(above) == {"..\\cat\\1.jpg": "../cat/1.jpg"}


def test_a_column_that_names_no_split_is_ignored_with_a_note(tmp_path):
    write_files(tmp_path, "1.jpg", "2.jpg")
    uri = write_list(tmp_path, "filename,label,dataset", "1.jpg,cat,zoo", "2.jpg,dog,farm")
    found = scan.scan_images(uri)
    assert [row.split for row in found.rows] == ["", ""]
    assert found.notes == [
        "Columns of the import file: the image from filename, the label from label, the split from dataset.",
        "Column dataset of the import file names no split; no split is read from it.",
    ]
    uri = write_list(tmp_path, "filename,label,dataset", "1.jpg,cat,train", "2.jpg,dog,farm")
    assert "got the ml_use farm (not training, validation or test) in " in error_of(uri)
    uri = write_list(tmp_path, "filename,label,split", "1.jpg,cat,zoo", "2.jpg,dog,zoo")
    assert "got 2 wrong lines in " in error_of(uri)


def test_the_fingerprint_follows_images_that_are_found_by_name(tmp_path):
    write_files(tmp_path, "train/a.jpg", "train/b.jpg", "unlisted.jpg")
    uri = write_list(tmp_path, "id,breed", "a,corgi", "b,pug", "c,pug", "d,")
    before = scan.fingerprint_images(uri)
    (tmp_path / "unlisted.jpg").write_bytes(b"other")
    assert scan.fingerprint_images(uri) == before
    (tmp_path / "train" / "b.jpg").write_bytes(b"longer than before")
    changed = scan.fingerprint_images(uri)
    assert changed != before
    write_files(tmp_path, "train/c.jpg")
    assert scan.fingerprint_images(uri) not in (before, changed)
