"""Archives within archives, shards and folders of archives are told for what they are, with the remedy."""

import io
import tarfile
import zipfile

import pytest

from kfp_vision.core.errors import InputError
from kfp_vision.dataset import scan, table_checks

UNPACK_SHARDS = "Unpack the shards into one folder per class, or list the images and their classes in an import file."
UNPACK_INNER = "Unpack the inner ones into one folder per class, and give that folder, or pack it as one archive."


def packed(path, files):
    """Writes files as a folder, a zip or a tar, by the ending of its path."""
    if not path.suffix:
        for name, content in files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(content)
    elif path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w") as archive:
            for name, content in files.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def refusal(path):
    with pytest.raises(InputError) as refused:
        table_checks.check_classification(scan.scan_images(str(path)), str(path), 1)
    return str(refused.value)


PICTURE = b"\xff\xd8\xff\xe0"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({"images/1.jpg": PICTURE, "labels.csv": b""}, " If labels.csv gives the labels, {unpack}set images_uri to it."),
        (
            {"train/1.jpg": PICTURE, "val/2.jpg": PICTURE, "train/metadata.jsonl": b"", "val/metadata.jsonl": b""},
            " If one of train/metadata.jsonl, val/metadata.jsonl gives the labels, {unpack}set images_uri to that file.",
        ),
    ],
)
@pytest.mark.parametrize(("name", "unpack"), [("photos", ""), ("photos.zip", "unpack the archive and ")])
def test_a_table_beside_images_without_class_folders_is_named(tmp_path, files, sentence, name, unpack):
    assert refusal(packed(tmp_path / name, files)).endswith(sentence.format(unpack=unpack))


def test_an_empty_answer_of_a_competition_is_not_named_as_a_table(tmp_path):
    files = {"train/1.jpg": PICTURE, "test1/2.jpg": PICTURE, "sampleSubmission.csv": b"id,label\n", "readme.txt": b""}
    assert refusal(packed(tmp_path / "photos", files)).endswith("list them with labels in an import file.")


def tar_bytes(tmp_path):
    return packed(tmp_path / "inner.tar", {"1.jpg": b"a"}).read_bytes()


@pytest.mark.parametrize("outer", ["photos.zip", "photos.tar"])
def test_an_archive_of_archives_is_told(tmp_path, outer):
    inner = {f"n0144076{n}.tar": tar_bytes(tmp_path) for n in range(3)} | {"readme.txt": b"", "__MACOSX/._n01440760.tar": b""}
    path = packed(tmp_path / outer, inner)
    assert refusal(path) == (
        "error: images_uri must contain images; got an archive of archives (n01440760.tar, n01440761.tar, n01440762.tar) "
        f"at {path}. {UNPACK_INNER}"
    )


@pytest.mark.parametrize("beside", ["cls", "json", "txt"])
def test_a_webdataset_shard_is_told(tmp_path, beside):
    picture = b"\xff\xd8\xff\xe0"
    shard = {}
    for number in range(20):
        shard |= {f"{number:06d}.jpg": picture, f"{number:06d}.{beside}": b"1"}
    path = packed(tmp_path / "shard-0000.tar", shard)
    assert refusal(path) == (
        f"error: images_uri must contain images; got a WebDataset shard (000000.jpg beside 000000.{beside}) at {path}. "
        f"{UNPACK_SHARDS}"
    )


def test_a_folder_of_shards_is_told(tmp_path):
    shards = {f"train-{n:04d}.tar": tar_bytes(tmp_path) for n in range(3)} | {"_stats.json": b"{}"}
    path = packed(tmp_path / "shards", shards)
    assert refusal(path) == (
        "error: images_uri must contain images; got a folder of shards as WebDataset writes them (train-0000.tar, "
        f"train-0001.tar, train-0002.tar) at {path}. {UNPACK_SHARDS}"
    )


def test_a_folder_that_holds_one_archive_is_told_with_its_path(tmp_path):
    path = packed(tmp_path / "data", {"photos.zip": b"PK", "LICENSE": b"free", ".DS_Store": b""})
    assert refusal(path) == (
        f"error: images_uri must contain images; got a folder that holds an archive (photos.zip) at {path}. "
        f"Give the archive: {path}/photos.zip."
    )


def test_a_folder_of_archives_is_told(tmp_path):
    path = packed(tmp_path / "data", {"train.zip": b"PK", "test.zip": b"PK", "sampleSubmission.csv": b"id,label"})
    assert refusal(path) == (
        f"error: images_uri must contain images; got a folder of archives (test.zip, train.zip) at {path}. "
        "Give one of them, or unpack all into one folder per class."
    )


def test_other_data_without_images_is_not_taken_for_packed(tmp_path):
    for number, files in enumerate([{}, {"notes.txt": b""}, {"1.jpg": b"a"}, {"a.zip": b"PK", "1.jpg": b"a"}]):
        (tmp_path / f"data{number}").mkdir()
        line = refusal(packed(tmp_path / f"data{number}", files))
        assert "images_uri must contain images; got none at" in line


def test_images_in_class_folders_beside_an_archive_are_read(tmp_path):
    files = {"daisy/1.jpg": b"a", "tulip/2.jpg": b"b", "photos.zip": b"PK", "daisy/1.cls": b"0", "tulip/2.json": b"{}"}
    assert scan.scan_images(str(packed(tmp_path / "data.tar", files))).classes == {"daisy": 1, "tulip": 1}


def test_a_shard_with_a_folder_is_told_but_not_one_class_with_notes(tmp_path):
    shard = {f"train/{n:06d}.{suffix}": b"a" for n in range(9) for suffix in ("jpg", "cls")}
    assert "a WebDataset shard (train/000000.jpg beside train/000000.cls)" in refusal(packed(tmp_path / "a.tar", shard))
    annotated = {f"daisy/{n}.{suffix}": b"a" for n in range(9) for suffix in ("jpg", "json")}
    assert "must contain at least two classes" in refusal(packed(tmp_path / "b.tar", annotated))
