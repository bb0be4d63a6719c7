"""Lists of labels that people gave: they add images, correct labels, and leave out what nobody is sure of."""

import hashlib
import json
import os
import shutil
from collections import Counter

import pytest
from support import sample_images

from kfp_vision.core.advanced import Advanced
from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest, scan
from kfp_vision.dataset.table import read_table
from kfp_vision.storage import reading

COUNTED = "Images by labels_uri: {} added, {} corrected, {} confirmed, {} left out as not sure."


@pytest.fixture
def photos(tmp_path):
    """Class folders of drawn images: bellcup and globelet, of eight each."""
    return sample_images.pictures(tmp_path / "photos", classes=2, each=8)


def ingested(photos, tmp_path, listed, name="labels.csv", **options):
    """Ingests a folder with a list of labels; returns the label of each image by name, and the catalog."""
    (tmp_path / name).write_text(listed)
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html"}
    found = ingest.ingest_images(
        str(photos), check_images=True, splits=2, labels_uri=str(tmp_path / name), **outputs, **options
    )
    return {row.name: row.label for row in read_table(tmp_path / "images.csv")}, found


def page_of(tmp_path):
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_labels_are_corrected_added_and_left_out(photos, tmp_path, capsys):
    before = {f"{path.parent.name}/{path.name}": path.parent.name for path in photos.glob("*/*.jpg")}
    (tmp_path / "new").mkdir()
    (photos / "bellcup" / "0003.jpg").rename(tmp_path / "new" / "a.jpg")
    del before["bellcup/0003.jpg"]
    listed = (
        "path,label\nbellcup/0001.jpg,globelet\nnew/a.jpg,globelet\n"
        f"{photos}/globelet/0001.jpg,globelet\nbellcup/0002.jpg,?\nglobelet/0002.jpg,\n"
    )
    labels, found = ingested(photos, tmp_path, listed)
    before |= {"bellcup/0001.jpg": "globelet", "new/a.jpg": "globelet"}
    del before["bellcup/0002.jpg"]
    assert labels == before
    assert found.skipped == {"of an unsure label in labels_uri": 1}
    assert COUNTED.format(1, 1, 1, 1) in capsys.readouterr().out
    assert COUNTED.format(1, 1, 1, 1) in page_of(tmp_path)


def test_a_label_counts_for_all_copies_and_its_last_line_for_it(photos, tmp_path):
    shutil.copy(photos / "bellcup" / "0001.jpg", photos / "globelet" / "copy.jpg")
    labels, _ = ingested(photos, tmp_path, "path,label\nbellcup/0001.jpg,globelet\nbellcup/0001.jpg,bellcup\n")
    assert labels["bellcup/0001.jpg"] == labels["globelet/copy.jpg"] == "bellcup"
    labels, _ = ingested(photos, tmp_path, "path,label\nbellcup/0001.jpg,?\n")
    assert not {"bellcup/0001.jpg", "globelet/copy.jpg"} & labels.keys()


def test_a_new_image_that_the_data_holds_under_another_name_corrects_it(photos, tmp_path):
    shutil.copy(photos / "bellcup" / "0001.jpg", tmp_path / "seen.jpg")
    count = len(list(photos.glob("*/*.jpg")))
    labels, _ = ingested(photos, tmp_path, "path,label\nseen.jpg,globelet\n")
    assert labels["bellcup/0001.jpg"] == "globelet"
    assert len(labels) == count


def test_entries_without_an_image_are_told_and_new_classes_too(photos, tmp_path):
    (tmp_path / "list").mkdir()
    listed = "path,label\ngone/1.jpg,bellcup\nbellcup/0001.jpg,starlet\nbellcup/0002.jpg,starlet\n"
    labels, _ = ingested(photos, tmp_path, listed, "list/labels.csv")
    assert labels["bellcup/0002.jpg"] == "starlet"
    assert "Entries of labels_uri that match no image: 1 (gone/1.jpg)." in page_of(tmp_path)
    assert "1 class is new by labels_uri: starlet." in page_of(tmp_path)
    with pytest.raises(InputError) as refusal:
        ingested(photos, tmp_path, "path,label\ngone/1.jpg,bellcup\n", "list/labels.csv")
    assert str(refusal.value) == (
        "error: labels_uri must name images of images_uri, or others that exist; "
        f"got none of them in {tmp_path}/list/labels.csv (gone/1.jpg). Name each by its path below the root of the data, "
        "such as bellcup/0001.jpg, by its path beside the list, or by its URI."
    )


def test_an_image_in_both_lists_is_excluded(photos, tmp_path):
    (tmp_path / "out.csv").write_text("path\nbellcup/0001.jpg\n")
    labels, found = ingested(
        photos, tmp_path, "path,label\nbellcup/0001.jpg,globelet\n", leave_out_uri=str(tmp_path / "out.csv")
    )
    assert "bellcup/0001.jpg" not in labels
    assert found.skipped == {"excluded by leave_out_uri": 1}


def test_several_labels_replace_all_that_the_image_had(photos, tmp_path):
    listed = "path,label\nbellcup/0001.jpg,bellcup|globelet\nbellcup/0002.jpg,[]\nbellcup/0003.jpg,bellcup|?\n"
    labels, _ = ingested(photos, tmp_path, listed, labels="several")
    assert (labels["bellcup/0001.jpg"], labels["bellcup/0002.jpg"]) == ("bellcup\tglobelet", "")
    assert "bellcup/0003.jpg" not in labels


def annotated(image, *choices, **about):
    result = [{"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": list(choices)}}]
    annotation = {"result": result, "was_cancelled": False, "updated_at": "2026-01-01T00:00:00Z"} | about
    return {"id": 1, "data": {"image": image}, "annotations": [annotation], "predictions": []}


def test_a_list_of_several_labels_is_not_taken_for_one_of_single_labels(photos, tmp_path):
    line = (
        "error: where an image has one label, every line of labels_uri must give one; "
        rf"got \[\], none of several, in {tmp_path}/labels\.csv, line 3\. Set labels to several, or give --several"
    )
    with pytest.raises(InputError, match=line):
        ingested(photos, tmp_path, "path,label\nbellcup/0001.jpg,globelet|bellcup\nbellcup/0002.jpg,[]\n")


def test_an_export_of_label_studio_is_read(photos, tmp_path):
    shutil.copy(photos / "bellcup" / "0004.jpg", tmp_path / "unseen.jpg")
    (photos / "bellcup" / "0004.jpg").unlink()
    tasks = [
        annotated("/data/local-files/?d=photos/bellcup/0001.jpg", "globelet"),  # from the root of its documents
        annotated("/data/local-files/?d=bellcup/0002.jpg", "?"),
        annotated("/data/upload/1/0a1b2c3d-unseen.jpg", "globelet"),
        annotated(str(photos / "bellcup" / "0003.jpg"), "globelet", was_cancelled=True),
    ]
    labels, _ = ingested(photos, tmp_path, json.dumps(tasks), "project.json")
    assert labels["bellcup/0001.jpg"] == "globelet"
    assert "bellcup/0002.jpg" not in labels
    assert labels["bellcup/0003.jpg"] == "bellcup"
    assert Counter(labels.values())["globelet"] == len(list((photos / "globelet").iterdir())) + 2


@pytest.mark.parametrize("data", ["archive", "list"])
def test_archives_and_import_files_are_corrected_by_the_names_given_there(photos, tmp_path, data):
    if data == "archive":
        uri = shutil.make_archive(str(tmp_path / "packed" / "photos"), "zip", photos)
        shutil.rmtree(photos)
    else:
        lines = [f"photos/{path.parent.name}/{path.name},{path.parent.name}\n" for path in sorted(photos.glob("*/*.jpg"))]
        (tmp_path / "images.csv.txt").write_text("".join(lines))
        uri = str(tmp_path / "images.csv.txt")
    name = "bellcup/0001.jpg" if data == "archive" else "photos/bellcup/0001.jpg"
    labels, _ = ingested(uri, tmp_path, f"path,label\n{name},globelet\n")
    assert labels[name] == "globelet"


def test_the_fingerprint_covers_labels_and_new_images_and_nothing_else(photos, tmp_path):
    listing, new = tmp_path / "labels.csv", tmp_path / "new.jpg"
    shutil.copy(photos / "bellcup" / "0001.jpg", new)

    def fingerprint(listed, leave_out_uri=""):
        listing.write_text(listed)
        return scan.fingerprint_images(str(photos), leave_out_uri, labels_uri=str(listing))

    none = scan.fingerprint_images(str(photos))
    assert none == reading.fingerprint(str(photos))  # as before there were lists
    assert fingerprint("path,label\n") == fingerprint("path,label\nnew.jpg,\n") == none
    one = fingerprint("path,label\nnew.jpg,globelet\nbellcup/0001.jpg,?\n")
    assert fingerprint("label;path;by\n?;bellcup/0001.jpg;Ann\nglobelet;new.jpg;Bo\n") == one
    assert len({none, one, fingerprint("path,label\nnew.jpg,bellcup\nbellcup/0001.jpg,?\n")}) == 3
    os.utime(new, (0, 0))
    assert fingerprint("path,label\nnew.jpg,globelet\nbellcup/0001.jpg,?\n") != one
    (tmp_path / "out.csv").write_text("path\nbellcup/0002.jpg\n")
    excluded = hashlib.sha256(f"{none}\nbellcup/0002.jpg".encode()).hexdigest()  # as before there were lists of labels
    assert scan.fingerprint_images(str(photos), str(tmp_path / "out.csv")) == excluded
    assert fingerprint("path,label\nnew.jpg,globelet\n", str(tmp_path / "out.csv")) not in (excluded, one)


@pytest.mark.parametrize(
    ("name", "listed", "line"),
    [
        ("labels", "path,label\n", "labels_uri must be a file that ends in one of .csv, .tsv, "),
        (
            "labels.csv",
            "path,label\n1.jpg,a,b\n",
            "every line of an import file must give an image and its label; got 3 fields",
        ),
        ("labels.csv", "path,label\n,rose\n", "every line of an import file must give an image and its label; got no URI"),
    ],
)
def test_an_invalid_list_is_rejected(photos, tmp_path, name, listed, line):
    with pytest.raises(InputError) as refusal:
        ingested(photos, tmp_path, listed, name, advanced=Advanced())
    assert str(refusal.value).startswith(f"error: {line}")
    assert "\n" not in str(refusal.value)
