"""The images that the page asks about, and the list that its answers are saved in."""

import json
import shutil
from pathlib import Path

import httpx
import pytest
from support import coroutines, sample_images

from kfp_vision.core.errors import FieldError, InputError
from kfp_vision.dataset import ingest
from kfp_vision.review import label_page
from kfp_vision.review.label_page import ImageToLabel, LabelPage, Labels
from kfp_vision.storage import retry


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


def test_what_others_write_to_the_list_meanwhile_is_kept(tmp_path):
    """Two pages with one list, and a spreadsheet."""
    first, second = (Labels(tmp_path / "labels.csv", several=False) for _ in range(2))
    for number, page in enumerate((first, second, first)):
        page.give(f"/{number}.jpg", ["daisy"])
    (tmp_path / "labels.csv").write_text((tmp_path / "labels.csv").read_text() + "/typed.jpg,tulip\n")
    second.give("/1.jpg", ["rose"])
    expected = {"/0.jpg": "daisy", "/2.jpg": "daisy", "/typed.jpg": "tulip", "/1.jpg": "rose"}
    assert Labels(tmp_path / "labels.csv", several=False).given == second.given == expected


@pytest.mark.parametrize("name", ["labels", "labels.json", "labels.txt.gz", "folder.csv"])
def test_the_list_must_have_a_name_that_can_be_read_again(tmp_path, name):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(FieldError, match=r"must be saved in a file that ends in .csv; got .*Set --labels to labels.csv"):
        Labels(tmp_path / name, several=False)


def ask(page: LabelPage, path: str, body: bytes = b"", **answer: object) -> httpx.Response:
    """Asks for a path below the key, or posts an answer or a body to it."""

    async def asked() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(page.app), base_url=f"http://page/{page.key}/") as client:
            body_of_answer = body or (json.dumps(answer).encode() if answer else b"")
            return await (client.post(path, content=body_of_answer) if body_of_answer else client.get(path))

    return coroutines.result(asked())


@pytest.fixture
def page(tmp_path) -> LabelPage:
    """A page of four images: one that is whole, one that is none, one that is not there, and one whose store is down."""
    photo = sample_images.pictures(tmp_path / "photos", classes=1, each=1) / "bellcup" / "0001.jpg"
    (tmp_path / "none.jpg").write_bytes(b"no image")
    uris = [photo, tmp_path / "none.jpg", tmp_path / "missing.jpg", "s3://bucket/1.jpg?endpoint=http://127.0.0.1:9"]
    images = [ImageToLabel(str(uri)) for uri in uris]
    return LabelPage(images, Labels(tmp_path / "labels.csv", several=False), ["daisy"])


def test_an_image_that_cannot_be_read_does_not_end_the_server(page, monkeypatch):
    monkeypatch.setattr(retry, "PERSON_SECONDS", 0.1)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    assert [ask(page, f"images/{number}").status_code for number in range(5)] == [200, 415, 415, 415, 404]


def test_an_archive_is_unpacked_once(tmp_path):
    archive = Path(shutil.make_archive(str(tmp_path / "packed"), "zip", sample_images.pictures(tmp_path / "photos", each=1)))
    page = LabelPage(label_page.read_images_to_label(str(archive)), Labels(tmp_path / "labels.csv", several=False))
    with page.reader:
        first = ask(page, "images/0").status_code
        archive.write_bytes(b"none")
        assert (first, ask(page, "images/1").status_code) == (200, 200)


def test_labels_in_any_language_are_read_again_and_others_are_refused(page, tmp_path):
    names = ["数学", "שלום", "e\u0301", "a|b", 'a,"b', "[x", "=1+1", "?"]
    for name in names:
        assert ask(page, "labels/0", labels=[name]).status_code == 200
        assert list(Labels(tmp_path / "labels.csv", several=False).given.values()) == [name]
    for name in ["nan", "NaN", "#N/A", " <NA> ", "", " ", "a\nb", "a\u2028b", "x" * 201]:
        assert ask(page, "labels/0", labels=[name]).status_code == 400
    assert list(Labels(tmp_path / "labels.csv", several=False).given.values()) == ["?"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 30_000 + b"]" * 30_000, "lists or objects too deep in each other"),
        (b'{"labels": ' + b"[" * 30_000 + b"]" * 30_000 + b"}", "lists or objects too deep in each other"),
        (b'{"labels": ', "Expecting value"),
        (b'{"label": []}', "'labels'"),
        (b'{"labels": [1]}', "labels must be a list of texts"),
        (b'{"labels": [" [] "]}', "a label that cannot be saved"),
    ],
    ids=["deep", "deep labels", "truncated", "another name", "numbers", "none of several"],
)
def test_a_body_that_is_no_answer_is_refused(page, tmp_path, body, said):
    refused = ask(page, "labels/0", body)
    assert refused.status_code == 400 and refused.json()["error"].startswith(f"not an answer: {said}")
    assert not (tmp_path / "labels.csv").exists()


def test_of_several_labels_none_may_be_read_again_as_a_list(tmp_path):
    page = LabelPage([ImageToLabel("/1.jpg")], Labels(tmp_path / "labels.csv", several=True), several=True)
    names = ("tulip", "[x", "{x", "a|b", "nan")
    assert [ask(page, "labels/0", labels=["daisy", name]).status_code for name in names] == [200, 400, 400, 400, 400]


def test_a_list_that_somebody_breaks_meanwhile_is_not_overwritten(page, tmp_path):
    ask(page, "labels/0", labels=["daisy"])
    (tmp_path / "labels.csv").write_bytes(b"path,label\n\xff\xfe\x00")
    refused = ask(page, "labels/1", labels=["daisy"])
    assert refused.status_code == 507 and "labels.csv" in refused.json()["error"]
    assert (tmp_path / "labels.csv").read_bytes() == b"path,label\n\xff\xfe\x00"


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
