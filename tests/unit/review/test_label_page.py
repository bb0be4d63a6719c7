"""The images that the page asks about, and the list that its answers are saved in."""

import shutil

import pytest
from support import sample_images

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import ingest
from kfp_vision.review import label_page
from kfp_vision.review.label_page import Labels


def test_a_folder_an_archive_and_a_table_name_the_images(tmp_path):
    photos = sample_images.pictures(tmp_path / "photos", classes=1, each=2)
    (photos / "notes.txt").write_text("no image")
    named = [str(photos / "bellcup" / f"000{number}.jpg") for number in (1, 2)]
    assert [one.uri for one in label_page.read_images_to_label(str(photos))] == named
    archive = shutil.make_archive(str(tmp_path / "packed"), "zip", photos)
    assert [one.uri for one in label_page.read_images_to_label(archive)] == [
        f"{archive}#bellcup/000{number}.jpg" for number in (1, 2)
    ]
    for name in ("chosen", "chosen.csv"):  # as an artifact, or downloaded
        (tmp_path / name).write_text(f"path,label,suggested\n{named[1]},,b|a\nphotos/bellcup/0001.jpg,,\n")
        found = label_page.read_images_to_label(str(tmp_path / name))
        assert [(one.uri, one.suggested) for one in found] == [(named[1], ("b", "a")), (named[0], ())]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("uri\n1.jpg\n", "every line of the images to label must name one; got no column path in {uri}, line 1."),
        ("path,label\n,a\n", "every line of the images to label must name one; got no URI in {uri}, line 2."),
        ("path\n", "there must be images to label; got none in {uri}. Give a folder of images, or the table of a review."),
    ],
)
def test_a_table_without_images_is_rejected(tmp_path, content, line):
    (tmp_path / "chosen.csv").write_text(content)
    with pytest.raises(InputError) as refusal:
        label_page.read_images_to_label(str(tmp_path / "chosen.csv"))
    assert str(refusal.value).startswith(f"error: {line.format(uri=tmp_path / 'chosen.csv')}")


def test_a_folder_that_does_not_exist_is_rejected(tmp_path):
    with pytest.raises(InputError, match="the images to label must name something that exists"):
        label_page.read_images_to_label(str(tmp_path / "none"))


def test_each_answer_is_saved_gone_on_with_and_taken_back(tmp_path):
    file = tmp_path / "labels.csv"
    labels = Labels(file, several=False)
    labels.give("/photos/a, b.jpg", ["daisy"])
    labels.give("s3://bucket/2.jpg", ["?"])
    assert file.read_text() == 'path,label\n"/photos/a, b.jpg",daisy\ns3://bucket/2.jpg,?\n'
    again = Labels(file, several=False)
    assert again.given == {"/photos/a, b.jpg": "daisy", "s3://bucket/2.jpg": "?"}
    again.give("/photos/a, b.jpg", None)
    assert file.read_text() == "path,label\ns3://bucket/2.jpg,?\n"


def test_several_labels_and_none_are_saved_and_read_again(tmp_path):
    file = tmp_path / "labels.csv"
    labels = Labels(file, several=True)
    labels.give("/1.jpg", ["rose, red", "daisy"])
    labels.give("/2.jpg", [])
    assert Labels(file, several=True).given == {"/1.jpg": "daisy\trose, red", "/2.jpg": ""}


def test_a_training_takes_the_list(tmp_path):
    photos = sample_images.pictures(tmp_path / "photos", classes=2, each=4)
    Labels(tmp_path / "labels.csv", several=False).give(str(photos / "bellcup" / "0001.jpg"), ["globelet"])
    outputs = {"table": tmp_path / "images.csv", "page": tmp_path / "page.html", "labels_uri": str(tmp_path / "labels.csv")}
    assert ingest.ingest_images(str(photos), check_images=True, splits=2, **outputs).classes == {"bellcup": 3, "globelet": 5}
